import QrexecProtocol
import Testing

@testable import QrexecRuntime

@Suite struct QubesdClientTests {
    private func data(of text: String) throws -> String {
        try QubesdClient.data(of: Array(text.utf8))
    }

    @Test func readsAnswersAndErrors() throws {
        #expect(try data(of: "0\0data\n") == "data\n")
        #expect(try data(of: "0\0") == "")
        let error = QubesdError(type: "QubesVMNotFoundError", message: "No such domain: 5 % nix")
        #expect(throws: QubesdClient.Failure.refused(error)) {
            try data(of: "2\0QubesVMNotFoundError\0trace\0No such domain: 5 %% %r\0nix\0")
        }
    }

    @Test func showsNothingThatATerminalCannotBeTrustedWith() {
        let error = QubesdError(type: "E", message: "a_[2J")
        #expect(throws: QubesdClient.Failure.refused(error)) {
            try data(of: "2\0E\0\0a\u{1B}[2J\0")
        }
    }

    @Test(arguments: ["", "0", "2\0", "2\0x", "1\0x", "hello", "2\0a\0b"])
    func takesNothingElseForAnAnswer(text: String) {
        do throws {
            Issue.record("\(text) was taken for an answer: \(try data(of: text))")
        } catch QubesdClient.Failure.noAnswer {
        } catch {
            Issue.record("\(error)")
        }
    }

    @Test func takesEventsOutOfAStream() {
        let text =
            "\0connection-established\0\0work\0domain-start\0a\0b\0\0work\0x"
        var pending: [UInt8] = []
        var events: [[String]] = []
        for byte in text.utf8 {
            pending.append(byte)
            while let event = QubesdClient.event(&pending) { events.append(event) }
        }
        #expect(
            events == [["", "connection-established"], ["work", "domain-start", "a", "b"]])
        #expect(pending == Array("work\0x".utf8))
    }

    @Test func saysWhyTheManagerCannotBeReached() {
        let client = QubesdClient(path: "/nonexistent/qubesd.sock")
        #expect(throws: QubesdClient.Failure.unreachable(.noSuchFileOrDirectory)) {
            try client.call("admin.vm.List", on: "dom0")
        }
        #expect(client.feature("vmexec", of: "work").isKnown == false)
    }
}

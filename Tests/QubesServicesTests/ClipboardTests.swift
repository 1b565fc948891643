import Foundation
import LinuxSystem
import QrexecRuntime
import Testing

@testable import QubesServices

@Suite struct ClipboardTextTests {
    @Test func takesTextUpToTheLimit() throws {
        try ClipboardText.check(Array("päste\n\t\u{1B}[1m".utf8), limit: 64)
        try ClipboardText.check([UInt8](repeating: 0x61, count: 256), limit: 256)
        #expect(throws: ClipboardText.Refusal.tooLarge(limit: 256)) {
            try ClipboardText.check([UInt8](repeating: 0x61, count: 257), limit: 256)
        }
    }

    @Test(arguments: [[0xFF], [0xC3], [0x61, 0], [0xED, 0xA0, 0x80], [0xC0, 0x80]] as [[UInt8]])
    func takesTextOnly(bytes: [UInt8]) {
        #expect(throws: ClipboardText.Refusal.notText) { try ClipboardText.check(bytes, limit: 64) }
    }

    @Test func hasLimitsOfTheLimit() {
        #expect(ClipboardText.limit("256") == 256)
        #expect(ClipboardText.limit("256000\n") == 256_000)
        for text in ["", "255", "256001", "-1", "1e3", "64000 bytes"] {
            #expect(ClipboardText.limit(text) == nil)
        }
    }
}

@Suite struct ClipboardStoreTests {
    private let directory: TemporaryDirectory
    private let store: ClipboardStore

    init() throws {
        directory = try TemporaryDirectory()
        store = ClipboardStore(directory: directory.path)
    }

    private func contents(
        _ text: String, _ request: ClipboardStore.Request, from source: String = "work"
    ) -> ClipboardStore.Contents {
        .init(text: Array(text.utf8), source: source, request: request)
    }

    private func copy(_ text: String) throws -> ClipboardStore.Contents {
        let contents = contents(text, try store.begin())
        #expect(try store.store(contents, limit: 64_000))
        return contents
    }

    @Test func keepsATextWithItsSourceAndRequest() throws {
        #expect(try store.read() == nil)
        let contents = try copy("text")
        #expect(try store.read() == contents)
        #expect(directory.text("qubes-clipboard.bin") == "text")
        #expect(directory.text("qubes-clipboard.bin.source") == "work")
        #expect(directory.text("qubes-clipboard.bin.xevent") == "\(contents.request)")
        for name in ["bin", "bin.source", "bin.xevent", "bin.metadata"] {
            #expect(try directory.status("qubes-clipboard.\(name)").mode & 0o777 == 0o660)
        }
    }

    @Test func tellsTheDesktopWhatHappened() throws {
        let contents = try copy("text")
        func metadata() throws -> [String: Any] {
            let text = try #require(directory.text("qubes-clipboard.bin.metadata"))
            return try #require(
                try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
        }
        #expect(try metadata()["vmname"] as? String == "work")
        #expect(try metadata()["sent_size"] as? Int == 4)
        #expect(try metadata()["successful"] as? Int == 1)
        #expect(try metadata()["copy_action"] as? Int == 1)
        #expect(try store.take(contents))
        #expect(try metadata()["paste_action"] as? Int == 1)
        #expect(try metadata()["cleared"] as? Int == 1)
        let request = try store.begin()
        try store.fail(request, source: "work", .oversized, limit: 256)
        #expect(try metadata()["oversized_request"] as? Int == 1)
        #expect(try metadata()["successful"] as? Int == 0)
        #expect(try metadata()["buffer_size"] as? Int == 256)
    }

    @Test func givesATextOnce() throws {
        let contents = try copy("once")
        #expect(try store.take(contents))
        #expect(try store.read() == nil)
        #expect(directory.text("qubes-clipboard.bin") == "")
        #expect(directory.text("qubes-clipboard.bin.source") == "")
        #expect(try !store.take(contents))
    }

    @Test func leavesNothingOfALongerText() throws {
        _ = try copy(String(repeating: "long", count: 1000))
        _ = try copy("short")
        #expect(directory.text("qubes-clipboard.bin") == "short")
    }

    @Test func forgetsTheOldTextWhenANewOneIsAskedFor() throws {
        _ = try copy("old")
        let before = try FileHandle(
            forReadingFrom: URL(fileURLWithPath: directory.path + "/qubes-clipboard.bin"))
        _ = try store.begin()
        #expect(try store.read() == nil)
        // Not even who has the file open reads it on.
        #expect(try before.readToEnd() ?? Data() == Data())
    }

    @Test func refusesAnAnswerToAnOlderRequest() throws {
        let slow = try store.begin()
        let fast = try store.begin()
        #expect(ClipboardStore.isNewer(fast, than: slow))
        #expect(try store.store(contents("fast", fast), limit: 64_000))
        #expect(try !store.store(contents("slow", slow), limit: 64_000))
        #expect(directory.text("qubes-clipboard.bin") == "fast")
        // Its failure is none of the newer one's business either.
        try store.fail(slow, source: "work", .malformed, limit: 64_000)
        #expect(!directory.text("qubes-clipboard.bin.metadata")!.contains("\"successful\":0"))
    }

    @Test func clearingAlsoStopsWhatIsOnItsWay() throws {
        let request = try store.begin()
        _ = try store.begin()
        #expect(try !store.store(contents("late", request), limit: 64_000))
        #expect(try store.read() == nil)
    }

    @Test func numbersOfRequestsWrapRound() throws {
        #expect(ClipboardStore.isNewer(3, than: .max - 3))
        #expect(!ClipboardStore.isNewer(.max - 3, than: 3))
        #expect(!ClipboardStore.isNewer(7, than: 7))
        // A request in the future (somebody else's clock) is still followed by newer ones.
        let future = ClipboardStore.now &+ 100_000
        try directory.write("qubes-clipboard.bin.xevent", "\(future)")
        #expect(try store.begin() == future &+ 1)
        try directory.write("qubes-clipboard.bin.xevent", "what is this")
        _ = try copy("text")
        #expect(try store.read()?.text == Array("text".utf8))
    }

    @Test func putsBackWhatReachedNobody() throws {
        let contents = try copy("text")
        #expect(try store.take(contents))
        #expect(try store.putBack(contents, limit: 64_000))
        #expect(try store.read() == contents)
        #expect(try store.take(contents))
        _ = try store.begin()
        #expect(try !store.putBack(contents, limit: 64_000))
        #expect(try store.read() == nil)
    }

    @Test func forgetsOnlyTheTextWhoseTimeIsOver() throws {
        let first = try copy("first")
        #expect(store.holds(first.request))
        let second = try copy("second")
        #expect(!store.holds(first.request))
        try store.expire(first.request)
        #expect(try store.read() == second)
        try store.expire(second.request)
        #expect(try store.read() == nil)
        #expect(!store.holds(second.request))
    }

    @Test func oneOfManyPastesGetsTheText() throws {
        let contents = try copy("one")
        let store = store
        let takers = (0..<8).map { _ in Background { (try? store.take(contents)) ?? false } }
        #expect(takers.map { $0.wait() }.filter { $0 }.count == 1)
    }

    @Test func newestOfManyRequestsWins() throws {
        let store = store
        let copies = (0..<8).map { number in
            Background { () -> (UInt32, Bool)? in
                guard let request = try? store.begin() else { return nil }
                usleep(UInt32.random(in: 0...3000))
                let contents = ClipboardStore.Contents(
                    text: Array("\(request)".utf8), source: "q\(number)", request: request)
                return (request, (try? store.store(contents, limit: 64_000)) ?? false)
            }
        }
        let results = try copies.map { try #require($0.wait()) }
        #expect(Set(results.map(\.0)).count == 8)
        let newest = results.map(\.0).reduce(results[0].0) {
            ClipboardStore.isNewer($1, than: $0) ? $1 : $0
        }
        #expect(try store.read()?.request == newest)
        #expect(try store.read()?.text == Array("\(newest)".utf8))
    }
}

@Suite struct ClipboardManagerTests {
    private let directory: TemporaryDirectory
    private let manager: ClipboardManager

    /// A qube's side in a script: `$service` is called, the text is in `clipboard`.
    private static let client = """
        here=${0%/*}
        echo "$*" >> $here/calls
        service=${5#*QUBESRPC }; service=${service%% *}
        . $here/behaviour
        case $service in
            qubes.ClipboardCopy) cat $here/clipboard ;;
            qubes.ClipboardPaste) cat > $here/pasted ;;
        esac
        """

    init() throws {
        directory = try TemporaryDirectory()
        try directory.writeProgram("client", Self.client)
        try directory.write("behaviour", "")
        var manager = ClipboardManager(store: ClipboardStore(directory: directory.path))
        manager.client = directory.path + "/client"
        manager.sockets = directory.path
        manager.qubesd = QubesdClient(path: directory.path + "/no-qubesd")
        manager.evaluation = [directory.path + "/policy"]
        self.manager = manager
        for qube in ["work", "vault"] {
            // Only that it is there counts.
            _ = try UnixSocket.listen(directory.path + "/qrexec." + qube, mode: 0o600)
        }
    }

    /// A policy service for one question.
    private func policy(_ answer: String) throws -> Background<String> {
        let path = directory.path + "/policy"
        try? FileManager.default.removeItem(atPath: path)
        let listener = try UnixSocket.listen(path, mode: 0o600)
        let number = try listener.duplicate().release()
        return Background {
            let listener = Descriptor(taking: number)
            guard (try? Descriptor.isReadable(listener.number, milliseconds: 10_000)) == true,
                let connection = try? UnixSocket.accept(listener),
                let question = try? BoundedRead.all(
                    of: connection.number, limit: 1000,
                    deadline: CurrentProcess.now + 10_000_000_000)
            else { return "" }
            try? connection.setNonblocking(false)
            try? connection.writeAll(Array(answer.utf8))
            return String(decoding: question, as: UTF8.self)
        }
    }

    private func failure(_ body: () throws -> Void) -> ClipboardManager.Failure? {
        do { try body() } catch { return error as? ClipboardManager.Failure }
        return nil
    }

    @Test func carriesATextOnceIfThePolicyAllows() throws {
        try directory.write("clipboard", "a text\nof two lines")
        _ = try manager.copy(from: "work")
        let asked = try policy("result=allow\n")
        #expect(try manager.paste(to: "vault") == nil)
        #expect(
            asked.wait()
                == "policy.EvalSimple+qubes.ClipboardPaste dom0 name dom0\0work\0vault")
        #expect(directory.text("pasted") == "a text\nof two lines")
        #expect(
            directory.text("calls")
                == "-T -d work -- DEFAULT:QUBESRPC qubes.ClipboardCopy dom0\n"
                + "-T -d vault -- DEFAULT:QUBESRPC qubes.ClipboardPaste dom0\n")
        #expect(failure { _ = try manager.paste(to: "vault") }?.text.contains("empty") == true)
    }

    @Test(arguments: ["result=deny\n", "", "result=allow", "nonsense"])
    func pastesNothingThatThePolicyDoesNotAllow(answer: String) throws {
        try directory.write("clipboard", "secret")
        _ = try manager.copy(from: "work")
        let asked = try policy(answer)
        #expect(failure { _ = try manager.paste(to: "vault") }?.status == 126)
        _ = asked.wait()
        #expect(directory.text("pasted") == nil)
        // It is still there for a qube that may have it.
        #expect(try manager.present()?.source == "work")
    }

    @Test func pastesNothingWithoutAPolicyService() throws {
        try directory.write("clipboard", "secret")
        _ = try manager.copy(from: "work")
        #expect(
            failure { _ = try manager.paste(to: "vault") }?.text.contains("cannot be asked") == true
        )
        #expect(directory.text("pasted") == nil)
    }

    /// What a hostile or broken source does; nothing of it, and nothing from before, stays.
    @Test(arguments: [
        ("head -c 64001 /dev/zero | tr '\\0' a; sleep 100", "larger than 64000"),
        ("exec yes", "larger than 64000"), ("printf 'a\\0b'; exit", "no text"),
        ("printf '\\xff'; exit", "no text"), ("exit 0", "is empty"), ("echo x; exit 3", "status 3"),
        ("exit 127", "no service"), ("echo x; exit 125", "cannot be started"),
    ])
    func storesNothingOfABadSource(behaviour: String, reason: String) throws {
        try directory.write("clipboard", "old")
        _ = try manager.copy(from: "work")
        try directory.write("behaviour", behaviour)
        let failure = failure { _ = try manager.copy(from: "vault") }
        #expect(failure?.text.contains(reason) == true, "\(String(describing: failure))")
        #expect(try manager.present() == nil)
        #expect(directory.text("qubes-clipboard.bin") == "")
    }

    @Test func keepsATextThatReachedNobody() throws {
        try directory.write("clipboard", "text")
        let request = try manager.copy(from: "work")
        try directory.write("behaviour", "exit 127")
        let asked = try policy("result=allow\n")
        let result = try #require(try manager.paste(to: "vault"))
        #expect(result.back == request)
        #expect(result.why.contains("no service"))
        _ = asked.wait()
        #expect(try manager.present()?.text == Array("text".utf8))
    }

    /// A target that may have read it does not get it twice.
    @Test(arguments: ["cat >/dev/null; exit 1", "exit 7"])
    func forgetsATextThatMayHaveBeenRead(behaviour: String) throws {
        try directory.write("clipboard", "text")
        _ = try manager.copy(from: "work")
        try directory.write("behaviour", behaviour)
        let asked = try policy("result=allow\n")
        #expect(failure { _ = try manager.paste(to: "vault") }?.status == 1)
        _ = asked.wait()
        #expect(try manager.present() == nil)
    }

    @Test(arguments: ["sleeper", "", "../work", "-d", "a b", "none", "work\n"])
    func asksOnlyQubesThatRun(name: String) throws {
        #expect(failure { _ = try manager.copy(from: name) }?.status == 1)
        #expect(directory.text("calls") == nil)
    }

    @Test func forgetsAfterATime() throws {
        try directory.write("clipboard", "text")
        var manager = manager
        let request = try manager.copy(from: "work")
        manager.timeout = 1
        #expect(try manager.present() != nil)
        #expect(ClipboardExpiry.wait(request, manager, "test") == 0)
        #expect(directory.text("qubes-clipboard.bin") == "")
        #expect(try manager.present() == nil)
    }

    @Test func doesNotPasteWhatIsTooOldEvenIfNobodyForgotIt() throws {
        try directory.write("clipboard", "text")
        _ = try manager.copy(from: "work")
        try directory.write(
            "qubes-clipboard.bin.xevent", "\(ClipboardStore.now &- 300_001)")
        #expect(failure { _ = try manager.paste(to: "vault") }?.text.contains("empty") == true)
        #expect(directory.text("qubes-clipboard.bin") == "")
    }

    @Test func stopsWaitingWhenTheTextIsGone() throws {
        try directory.write("clipboard", "text")
        let request = try manager.copy(from: "work")
        let manager = manager
        let waiting = Background { ClipboardExpiry.wait(request, manager, "test") }
        usleep(50_000)
        try manager.clear()
        #expect(waiting.wait() == 0)
    }
}

@Suite struct OwnClipboardTests {
    @Test func keepsATextInAFileWithoutADisplay() throws {
        let directory = try TemporaryDirectory()
        let clipboard = OwnClipboard.file(path: directory.path + "/clipboard")
        #expect(try clipboard.read(limit: 100) == [])
        try clipboard.set(Array("a longer text".utf8))
        try clipboard.set(Array("text".utf8))
        #expect(try clipboard.read(limit: 100) == Array("text".utf8))
        #expect(try directory.status("clipboard").mode & 0o777 == 0o600)
        #expect(try clipboard.read(limit: 3).count == 4)
    }

    @Test func followsNoLinkFromItsFile() throws {
        let directory = try TemporaryDirectory()
        try directory.write("secret", "secret")
        try FileManager.default.createSymbolicLink(
            atPath: directory.path + "/clipboard", withDestinationPath: "secret")
        let clipboard = OwnClipboard.file(path: directory.path + "/clipboard")
        #expect(throws: FileProblem.self) { try clipboard.read(limit: 100) }
        try clipboard.set([0x61])
        #expect(directory.text("secret") == "secret")
    }

    @Test func findsADisplayThatAnswers() throws {
        let directory = try TemporaryDirectory()
        func running() -> OwnClipboard? {
            OwnClipboard.running(runtime: directory.path, sockets: directory.path)
        }
        #expect(running() == nil)
        // Left behind by a server that is gone.
        do { _ = try UnixSocket.listen(directory.path + "/X0", mode: 0o600) }
        try directory.write("X1", "no socket")
        #expect(running() == nil)
        let x = try UnixSocket.listen(directory.path + "/X12", mode: 0o600)
        #expect(running() == .x11(environment: ["DISPLAY=:12"]))
        let wayland = try UnixSocket.listen(directory.path + "/wayland-0", mode: 0o600)
        #expect(
            running()
                == .wayland(
                    environment: [
                        "XDG_RUNTIME_DIR=\(directory.path)", "WAYLAND_DISPLAY=wayland-0",
                    ]))
        _ = consume x
        _ = consume wayland
    }
}

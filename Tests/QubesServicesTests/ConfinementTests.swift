import Foundation
import LinuxSystem
import Testing

@testable import QubesServices

/// What a receiver that was taken over still reaches: a program of the tests that shuts itself in
/// with the receiver's own code tries it all.
@Suite struct ConfinementTests {
    private func probe() throws -> [String: String] {
        let directory = try TemporaryDirectory()
        try directory.write("secret", "secret")
        let socketPath = directory.path + "/agent"
        let listener = try UnixSocket.listen(socketPath, mode: 0o666)
        defer { withExtendedLifetime(listener) {} }
        let output = Pipe()
        let process = Process()
        let program = CommandLine.arguments[0]
        process.executableURL = URL(fileURLWithPath: program).deletingLastPathComponent()
            .appendingPathComponent("receiver-probe")
        process.arguments = [
            directory.path + "/incoming", directory.path + "/secret", socketPath, "\(getpid())",
        ]
        process.standardOutput = output
        try process.run()
        let text = String(
            decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(text)")
        #expect(directory.text("secret") == "secret")
        #expect(
            directory.contents.filter { $0 != "incoming/planted" }
                == ["agent", "incoming", "incoming/link", "incoming/new", "secret"])
        var result: [String: String] = [:]
        for line in text.split(separator: "\n") {
            let fields = line.components(separatedBy: ": ")
            result[fields[0]] = fields[1]
        }
        return result
    }

    @Test func leavesNothingToATakenOverReceiverButItsDirectory() throws {
        let result = try probe()
        #expect(result.count == 18)
        // For root the directory is the root: what is above that is the directory itself.
        let allowed = result.filter {
            $0.value == "allowed" && $0.key != "write beside the directory"
        }.keys.sorted()
        #expect(allowed == ["create a file", "make a link to a secret"])
    }
}

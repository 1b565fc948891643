import Glibc
import LinuxSystem
import Testing

/// How a program ended and what it printed.
struct Outcome {
    var status: Int32
    var output: [UInt8]
    var errors: String

    var text: String { String(decoding: output, as: UTF8.self) }
}

/// A program of the host that runs now. What a test leaves running is killed, by its pid.
final class Program {
    let pid: Int32
    private var child: ChildProcess?
    private let pidfd: Int32
    private var input: Descriptor?
    private let output: Descriptor
    private let errors: Descriptor
    private var read: [UInt8] = []

    /// How long a broken program keeps a test from failing; not a bound for one that works.
    static let patience: UInt64 = 180_000_000_000

    /// - Parameter input: all of its standard input; nil for a pipe that `write` fills.
    init(_ arguments: [String], input bytes: [UInt8]?) throws {
        CurrentProcess.ignoreBrokenPipes()
        let stdin: Descriptor
        if let bytes {
            stdin = try Descriptor.memoryFile("input")
            try stdin.writeAll(bytes)
            try stdin.seek(to: 0)
        } else {
            let pipe = try Descriptor.pipe()
            stdin = try pipe.first.duplicate()
            input = try pipe.second.duplicate()
        }
        let pipe = try Descriptor.pipe()
        output = try pipe.first.duplicate()
        errors = try Descriptor.memoryFile("errors")
        var request = SpawnRequest(
            path: arguments[0], arguments: arguments, environment: CurrentProcess.environment)
        request.descriptors = [stdin.number, pipe.second.number, errors.number]
        let child = try ChildProcess.spawn(request)
        pid = child.pid
        pidfd = child.pidfd.number
        self.child = consume child
        try output.setNonblocking(true)
    }

    deinit {
        guard let child = child.take() else { return }
        child.signal(SIGKILL)
        _ = try? child.reap()
    }

    /// What it has printed by now.
    var outputText: String { String(decoding: read, as: UTF8.self) }

    func write(_ text: String) throws { try input!.writeAll(Array(text.utf8)) }

    func closeInput() { input = nil }

    /// Only for a program that was not waited for: its number is its own until then.
    func signal(_ signal: Int32) { kill(pid, signal) }

    /// Waits until its output holds a text.
    func expect(_ text: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        let deadline = CurrentProcess.now + Self.patience
        while !String(decoding: read, as: UTF8.self).contains(text) {
            guard try step(deadline), !ended else {
                readRest()
                if String(decoding: read, as: UTF8.self).contains(text) { return }
                Issue.record(
                    "no '\(text)' in the output '\(String(decoding: read, as: UTF8.self))'",
                    sourceLocation: sourceLocation)
                throw Ended()
            }
        }
    }

    /// Waits for its end.
    func finish(sourceLocation: SourceLocation = #_sourceLocation) throws -> Outcome {
        closeInput()
        return try wait(sourceLocation: sourceLocation)
    }

    /// Waits for its end while its input stays open.
    func wait(sourceLocation: SourceLocation = #_sourceLocation) throws -> Outcome {
        let deadline = CurrentProcess.now + Self.patience
        while !ended {
            guard try step(deadline) else {
                Issue.record("process \(pid) hangs and is killed", sourceLocation: sourceLocation)
                signal(SIGKILL)
                break
            }
        }
        let status = try child.take()!.reap()
        readRest()
        try errors.seek(to: 0)
        let text = String(decoding: try errors.readAll(limit: 1 << 20), as: UTF8.self)
        return Outcome(status: status, output: read, errors: text)
    }

    private struct Ended: Error {}

    private var outputEnded = false

    private var ended: Bool {
        var poll = PollSet()
        poll.add(pidfd, .readable)
        return (try? poll.wait(milliseconds: 0)) ?? true
    }

    /// Takes the output that is there, or waits for some; false behind the deadline.
    private func step(_ deadline: UInt64) throws -> Bool {
        var poll = PollSet()
        poll.add(pidfd, .readable)
        if !outputEnded { poll.add(output.number, .readable) }
        _ = try poll.wait(milliseconds: 1000)
        readRest()
        return CurrentProcess.now < deadline
    }

    private func readRest() {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while let count = try? output.read(into: &buffer) {
            if count == 0 {
                outputEnded = true
                return
            }
            read += buffer[..<count]
        }
    }
}

/// Waits until something holds; fails when it does not for a long time.
func eventually(
    _ what: String, sourceLocation: SourceLocation = #_sourceLocation, _ holds: () throws -> Bool
) rethrows {
    let deadline = CurrentProcess.now + 60_000_000_000
    while try !holds() {
        if CurrentProcess.now > deadline {
            Issue.record("it never came true: \(what)", sourceLocation: sourceLocation)
            return
        }
        usleep(20_000)
    }
}

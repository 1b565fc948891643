import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Runs programs that take a while (`xl`, `cp`, `lvcreate`), each with a deadline: the manager's
/// loop waits for none of them.
final class CommandRunner {
    struct Outcome: Equatable {
        /// Exit status, or 128 + the signal that ended it.
        var status: Int32
        var output: String
        var errors: String
        var timedOut = false

        var succeeded: Bool { status == 0 && !timedOut }

        /// Why it failed, in a few words for people.
        func problem(_ what: String) -> String {
            if timedOut { return "\(what) did not end in time" }
            let text = (errors.isEmpty ? output : errors).split(separator: "\n")
            // The cause comes first: what xl says then is what it could not do because of that.
            let cause = text.prefix(2).map { LogText.line(String($0)) }.joined(separator: "; ")
            return "\(what) failed with status \(status)" + (cause.isEmpty ? "" : ": \(cause)")
        }
    }

    typealias Completion = (Outcome) -> Void

    /// Programs at a time; more wait for their turn.
    private static let maximumRunning = 8
    /// What is kept of each stream, in bytes; the rest is dropped.
    private static let maximumOutput = 1 << 20
    private static let searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    private let loop: EventLoop
    private var running: [ObjectIdentifier: Command] = [:]
    private var waiting: [Command] = []

    init(loop: EventLoop) { self.loop = loop }

    /// Runs a program to its end.
    ///
    /// - Parameters:
    ///   - arguments: the program's path first.
    ///   - patience: seconds from its start; then it and what it started in its group are killed.
    ///   - completion: called once, never before this returns.
    @discardableResult
    func run(
        _ arguments: [String], patience: UInt64, completion: @escaping Completion
    ) -> Command {
        let command = Command(arguments, patience: patience, completion: completion)
        if running.count < Self.maximumRunning {
            start(command)
        } else {
            waiting.append(command)
        }
        return command
    }

    private func start(_ command: Command) {
        running[ObjectIdentifier(command)] = command
        do throws(Errno) {
            try command.start(loop, searchPath: Self.searchPath) { [weak self, unowned command] in
                self?.ended(command)
            }
        } catch {
            let text = "cannot start \(command.arguments[0]): \(error)"
            loop.defer { [weak self] in
                guard let self else { return }
                self.running[ObjectIdentifier(command)] = nil
                command.finish(Outcome(status: 127, output: "", errors: text))
                self.startWaiting()
            }
        }
    }

    private func ended(_ command: Command) {
        running[ObjectIdentifier(command)] = nil
        command.finish()
        startWaiting()
    }

    private func startWaiting() {
        while running.count < Self.maximumRunning, !waiting.isEmpty {
            start(waiting.removeFirst())
        }
    }

    /// Kills what runs, tells nobody.
    func stop() {
        waiting = []
        for command in running.values { command.abandon() }
        running = [:]
    }

    /// One program.
    final class Command {
        let arguments: [String]
        private let patience: UInt64
        private var completion: Completion?
        private var loop: EventLoop?
        private var process: ChildProcess?
        private var streams: [Stream] = []
        private var deadline: EventLoop.Timer?
        private var timedOut = false

        private final class Stream {
            let pipe: Descriptor
            var bytes: [UInt8] = []

            init(_ pipe: consuming Descriptor) { self.pipe = pipe }

            /// Takes what is there; false at the end of the stream.
            func read() -> Bool {
                var chunk = [UInt8](repeating: 0, count: 16384)
                while true {
                    do throws(Errno) {
                        let count = try pipe.read(into: &chunk)
                        if count == 0 { return false }
                        let room = CommandRunner.maximumOutput - bytes.count
                        bytes += chunk[..<min(count, room)]
                    } catch {
                        return error == .resourceTemporarilyUnavailable
                    }
                }
            }

            var text: String { String(decoding: bytes, as: UTF8.self) }
        }

        fileprivate init(
            _ arguments: [String], patience: UInt64, completion: @escaping Completion
        ) {
            self.arguments = arguments
            self.patience = patience
            self.completion = completion
        }

        fileprivate func start(
            _ loop: EventLoop, searchPath: String, onEnd: @escaping () -> Void
        ) throws(Errno) {
            let output = try Descriptor.pipe()
            let errors = try Descriptor.pipe()
            let null = try Descriptor.open("/dev/null", O_RDONLY)
            var request = SpawnRequest(
                path: arguments[0], arguments: arguments,
                environment: ["PATH=\(searchPath)", "LC_ALL=C.UTF-8"])
            request.descriptors = [null.number, output.second.number, errors.second.number]
            request.directory = "/"
            request.newSession = true
            let child = try ChildProcess.spawn(request)
            try output.first.setNonblocking(true)
            try errors.first.setNonblocking(true)
            _ = consume output.second
            _ = consume errors.second
            self.loop = loop
            streams = [Stream(output.first), Stream(errors.first)]
            for stream in streams {
                try loop.watch(stream.pipe.number, .readable) { [unowned stream] _ in
                    if !stream.read() { loop.unwatch(stream.pipe.number) }
                }
            }
            try loop.watch(child.pidfd.number, .readable) { _ in onEnd() }
            process = consume child
            deadline = loop.schedule(after: seconds(patience)) { [weak self] in self?.kill() }
        }

        private func kill() {
            timedOut = true
            if process != nil { process!.signalGroup(SIGKILL) }
        }

        /// Kills it before its time; its completion is told that it timed out.
        func cancel() {
            if process != nil { kill() } else { timedOut = true }
        }

        private func close() -> Int32 {
            guard let loop, let child = process.take() else { return 127 }
            loop.unwatch(child.pidfd.number)
            // A program that it left behind may hold the pipes: their end is not waited for.
            for stream in streams {
                _ = stream.read()
                loop.unwatch(stream.pipe.number)
            }
            if let deadline { loop.cancel(deadline) }
            return (try? child.reap()) ?? 127
        }

        fileprivate func finish() {
            let status = close()
            finish(
                Outcome(
                    status: status, output: streams[0].text, errors: streams[1].text,
                    timedOut: timedOut))
        }

        fileprivate func finish(_ outcome: Outcome) {
            let completion = self.completion
            self.completion = nil
            completion?(outcome)
        }

        fileprivate func abandon() {
            completion = nil
            if process != nil { process!.signalGroup(SIGKILL) }
            _ = close()
        }
    }
}

import Glibc
import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// Asks in a window of its own for each question, made by a program of its own: whatever befalls
/// one, the others stay.
final class WindowPrompt: PromptSurface {
    private let loop: EventLoop
    private let log: Log
    private let window: String
    private let notifier: String
    private var open: [ObjectIdentifier: Program] = [:]

    /// - Parameters:
    ///   - window: the program that shows one question: JSON on its input, the answer on its output.
    ///   - notifier: the desktop's program for notifications.
    init(_ loop: EventLoop, log: Log, window: String, notifier: String = "/usr/bin/notify-send") {
        self.loop = loop
        self.log = log
        self.window = window
        self.notifier = notifier
    }

    func ask(_ request: PromptRequest, _ reply: @escaping (String?) -> Void) -> () -> Void {
        var identifier: ObjectIdentifier?
        do throws(Errno) {
            let program = try Program(loop, [window], input: Self.json(request)) {
                [weak self] output in
                if let self, let identifier {
                    self.loop.defer { [weak self] in self?.open[identifier] = nil }
                }
                let text = output.map { String(decoding: $0, as: UTF8.self) } ?? ""
                let target = text.hasPrefix("allow:") ? String(text.dropFirst(6)) : nil
                reply(target.flatMap { request.targets.contains($0) ? $0 : nil })
            }
            identifier = ObjectIdentifier(program)
            open[ObjectIdentifier(program)] = program
            return { [weak self, weak program] in
                program?.end()
                if let identifier { self?.open[identifier] = nil }
            }
        } catch {
            log.error("\(window): \(error)")
            loop.defer { reply(nil) }
            return {}
        }
    }

    func tell(_ notification: PromptNotification) {
        let arguments = [notifier, "--app-name=qrexec", "qrexec", notification.text]
        var identifier: ObjectIdentifier?
        let program = try? Program(loop, arguments, input: []) { [weak self] _ in
            guard let self, let identifier else { return }
            self.loop.defer { [weak self] in self?.open[identifier] = nil }
        }
        guard let program else { return }
        identifier = ObjectIdentifier(program)
        open[ObjectIdentifier(program)] = program
    }

    private static func json(_ request: PromptRequest) -> [UInt8] {
        let icons = request.icons.sorted { $0.key < $1.key }
        let value = JSONValue.object([
            ("source", .string(request.source)), ("plain", .string(request.serviceParts.plain)),
            ("bold", .string(request.serviceParts.bold)),
            ("argument", .string(request.shownArgument)),
            ("targets", .array(request.targets.map { .string($0) })),
            ("preselected", .string(request.preselected ?? "")),
            ("warning", .string(request.warning ?? "")),
            ("icons", .object(icons.map { ($0.key, .string($0.value)) })),
        ])
        return Array(value.text.utf8)
    }

    /// A program with its input given and its output read.
    private final class Program {
        private let loop: EventLoop
        private let socket: Descriptor
        private var child: ChildProcess?
        private var input: [UInt8]
        private var output: [UInt8] = []
        private var isOpen = true
        private let onEnd: ([UInt8]?) -> Void

        init(
            _ loop: EventLoop, _ arguments: [String], input: [UInt8],
            onEnd: @escaping ([UInt8]?) -> Void
        ) throws(Errno) {
            self.loop = loop
            self.input = input
            self.onEnd = onEnd
            let pair = try UnixSocket.pair()
            var request = SpawnRequest(
                path: arguments[0], arguments: arguments, environment: CurrentProcess.environment)
            request.descriptors = [pair.second.number, pair.second.number, 2]
            request.diesWithParent = true
            child = try ChildProcess.spawn(request)
            socket = try pair.first.duplicate()
            try socket.setNonblocking(true)
            try loop.watch(socket.number, [.readable, .writable]) { [unowned self] readiness in
                self.handle(readiness)
            }
        }

        deinit { end() }

        /// Ends the program; `onEnd` is not called.
        func end() {
            if isOpen { loop.unwatch(socket.number) }
            isOpen = false
            guard let child = child.take() else { return }
            child.signal(SIGKILL)
            _ = try? child.reap()
        }

        private func handle(_ readiness: Readiness) {
            if !input.isEmpty, let count = try? UnixSocket.send(socket.number, input.span) {
                input.removeFirst(count)
            }
            if input.isEmpty, readiness.contains(.writable) {
                UnixSocket.shutdown(socket.number, writing: true)
                loop.setInterest(socket.number, .readable)
            }
            if readiness == .writable { return }
            var buffer = [UInt8](repeating: 0, count: 1024)
            do throws(Errno) {
                let count = try UnixSocket.receive(socket.number, into: &buffer)
                output += buffer[..<count]
                if count == 0 { return finish(output) }
                if output.count > 1024 { finish(nil) }
            } catch .resourceTemporarilyUnavailable {
            } catch {
                finish(nil)
            }
        }

        private func finish(_ output: [UInt8]?) {
            if !isOpen { return }
            end()
            onEnd(output)
        }
    }
}

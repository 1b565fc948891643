import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// One call of policy.Ask or policy.Notify in the qube that shows the source's windows (section
/// 13.3): the socket service directly when that is dom0, else over qrexec.
final class GUIQubeCall {
    private let loop: EventLoop
    private let socket: Descriptor
    private let child: ReapedChild?
    private var pending: [UInt8]
    private var answer: [UInt8] = []
    private var scratch = [UInt8](repeating: 0, count: 1024)
    private var isOpen = true
    private var deadline: EventLoop.Timer?
    private let onEnd: ([UInt8]?) -> Void

    /// Bytes of an answer: `allow:` and a name.
    static let answerLimit = 512

    /// - Parameters:
    ///   - time: nanoseconds for the answer.
    ///   - onEnd: called once with the whole answer, or nil when there was none.
    init(
        _ loop: EventLoop, guiQube: String, service: String, payload: String, time: UInt64,
        paths: PolicyAuthority.Paths, onEnd: @escaping ([UInt8]?) -> Void
    ) throws(Errno) {
        self.loop = loop
        self.onEnd = onEnd
        if guiQube == "dom0" {
            socket = try UnixSocket.connect(try Self.find(service, paths.services))
            child = nil
            pending = Array("\(service) dom0 name dom0".utf8) + [0] + Array(payload.utf8)
        } else {
            let pair = try UnixSocket.pair()
            var request = SpawnRequest(
                path: paths.client,
                arguments: [
                    paths.client, "-d", guiQube, "--", "DEFAULT:QUBESRPC \(service) dom0",
                ],
                environment: CurrentProcess.environment)
            request.descriptors = [pair.second.number, pair.second.number, 2]
            child = try ReapedChild(loop, try ChildProcess.spawn(request))
            socket = try pair.first.duplicate()
            try socket.setNonblocking(true)
            pending = Array(payload.utf8)
        }
        try loop.watch(socket.number, [.readable, .writable]) { [unowned self] readiness in
            self.handle(readiness)
        }
        deadline = loop.schedule(after: time) { [weak self] in self?.end(nil) }
    }

    deinit {
        if isOpen { loop.unwatch(socket.number) }
    }

    private static func find(
        _ service: String, _ directories: [String]
    ) throws(Errno) -> String {
        for directory in directories {
            let path = directory + "/" + service
            if (try? FileStatus.kind(of: path)) == .socket { return path }
        }
        throw .noSuchFileOrDirectory
    }

    /// Gives the call up; `onEnd` is not called.
    func cancel() {
        if !isOpen { return }
        isOpen = false
        loop.unwatch(socket.number)
        if let deadline { loop.cancel(deadline) }
        child?.end()
    }

    private func end(_ answer: [UInt8]?) {
        if !isOpen { return }
        cancel()
        onEnd(answer)
    }

    private func handle(_ readiness: Readiness) {
        if !pending.isEmpty { send() }
        if isOpen, readiness != .writable { receive() }
    }

    private func send() {
        do throws(Errno) {
            pending.removeFirst(try UnixSocket.send(socket.number, pending.span))
        } catch .resourceTemporarilyUnavailable {
            return
        } catch {
            return end(nil)
        }
        if pending.isEmpty {
            UnixSocket.shutdown(socket.number, writing: true)
            loop.setInterest(socket.number, .readable)
        }
    }

    private func receive() {
        do throws(Errno) {
            let count = try UnixSocket.receive(socket.number, into: &scratch)
            if count == 0 { return end(answer) }
            answer.append(contentsOf: scratch[..<count])
            if answer.count > Self.answerLimit { end(nil) }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            end(nil)
        }
    }
}

/// A child process that is reaped when it ends, whoever else still knows it.
private final class ReapedChild {
    private let loop: EventLoop
    private var child: ChildProcess?

    init(_ loop: EventLoop, _ child: consuming ChildProcess) throws(Errno) {
        self.loop = loop
        let number = child.pidfd.number
        self.child = consume child
        // The handler keeps this object until the process has ended.
        try loop.watch(number, .readable) { _ in
            loop.unwatch(number)
            self.reap()
        }
    }

    private func reap() {
        if let ended = child.take() { _ = try? ended.reap() }
    }

    /// Asks the process to end, if it still runs.
    func end() {
        child?.signal(SIGTERM)
    }
}

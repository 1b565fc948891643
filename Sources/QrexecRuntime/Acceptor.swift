public import LinuxSystem
public import SystemPackage

/// Takes connections from a listening socket, in an event loop. A process without a free descriptor
/// leaves them waiting for a moment instead of trying without end.
public final class Acceptor {
    private static let pause = milliseconds(100)

    private let loop: EventLoop
    private let log: Log
    private var listener: Descriptor?
    private var timer: EventLoop.Timer?
    private let onConnection: (consuming Descriptor) -> Void

    public init(
        loop: EventLoop, taking listener: consuming Descriptor, log: Log,
        onConnection: @escaping (consuming Descriptor) -> Void
    ) throws(Errno) {
        self.loop = loop
        self.log = log
        self.onConnection = onConnection
        let number = listener.number
        self.listener = consume listener
        try loop.watch(number, .readable) { [weak self] _ in self?.accept() }
    }

    private func accept() {
        guard listener != nil else { return }
        do throws(Errno) {
            onConnection(try UnixSocket.accept(listener!))
        } catch .resourceTemporarilyUnavailable {
        } catch .connectionAbort {
        } catch {
            log.warning("a connection cannot be taken now", ["reason": error.description])
            guard let number = listener?.number else { return }
            loop.setInterest(number, [])
            timer = loop.schedule(after: Self.pause) { [weak self] in
                if let number = self?.listener?.number {
                    self?.loop.setInterest(number, .readable)
                }
            }
        }
    }

    /// Listens no more.
    public func close() {
        if let timer { loop.cancel(timer) }
        guard let taken = listener.take() else { return }
        loop.unwatch(taken.number)
    }
}

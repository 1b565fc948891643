public import LinuxSystem
public import SystemPackage

/// A connection to a socket service until it stands and the service has been told who calls.
public struct PendingConnection: ~Copyable {
    private final class State {
        var header: [UInt8]
        let onDone: (Errno?) -> Void
        init(header: [UInt8], onDone: @escaping (Errno?) -> Void) {
            self.header = header
            self.onDone = onDone
        }
    }

    private let loop: EventLoop
    private var descriptor: Descriptor?

    /// - Parameters:
    ///   - header: goes out first.
    ///   - onDone: the connection stands and the header is out, or why not.
    public init(
        loop: EventLoop, taking descriptor: consuming Descriptor, header: [UInt8],
        onDone: @escaping (Errno?) -> Void
    ) throws(Errno) {
        self.loop = loop
        let number = descriptor.number
        let state = State(header: header, onDone: onDone)
        self.descriptor = consume descriptor
        try loop.watch(number, .writable) { _ in
            do throws(Errno) {
                if let error = TCPSocket.pendingError(number) { throw error }
                while !state.header.isEmpty {
                    state.header.removeFirst(try UnixSocket.send(number, state.header.span))
                }
                state.onDone(nil)
            } catch .resourceTemporarilyUnavailable {
            } catch {
                state.onDone(error)
            }
        }
    }

    /// The connection, no longer watched.
    public mutating func take() -> Descriptor {
        let taken = descriptor.take()!
        loop.unwatch(taken.number)
        return taken
    }

    deinit {
        if let number = descriptor?.number { loop.unwatch(number) }
    }
}

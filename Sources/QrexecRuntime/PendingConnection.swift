public import LinuxSystem
public import SystemPackage

/// A connection to a socket service until it stands and the service has been told who calls.
public struct PendingConnection: ~Copyable {
    private final class State {
        private var header: [UInt8]
        /// Nil when nobody waits any more.
        var onDone: ((Errno?) -> Void)?

        init(header: [UInt8], onDone: @escaping (Errno?) -> Void) {
            self.header = header
            self.onDone = onDone
        }

        func send(to number: Int32) throws(Errno) {
            while !header.isEmpty {
                let rest = header
                header.removeFirst(try UnixSocket.send(number, rest.span))
            }
        }
    }

    private let loop: EventLoop
    private let state: State
    private var descriptor: Descriptor?

    /// - Parameters:
    ///   - header: goes out first.
    ///   - onDone: the connection stands and the header is out, or why not; not before this returns.
    public init(
        loop: EventLoop, taking descriptor: consuming Descriptor, header: [UInt8],
        onDone: @escaping (Errno?) -> Void
    ) throws(Errno) {
        self.loop = loop
        let number = descriptor.number
        let state = State(header: header, onDone: onDone)
        self.state = state
        self.descriptor = consume descriptor
        // A connection within the machine stands at once; without a header nothing would tell.
        if !header.isEmpty, (try? state.send(to: number)) != nil {
            loop.defer { state.onDone?(nil) }
            return
        }
        try loop.watch(number, .writable) { _ in
            do throws(Errno) {
                if let error = TCPSocket.pendingError(number) { throw error }
                try state.send(to: number)
                state.onDone?(nil)
            } catch .resourceTemporarilyUnavailable {
            } catch {
                state.onDone?(error)
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
        state.onDone = nil
        if let number = descriptor?.number { loop.unwatch(number) }
    }
}

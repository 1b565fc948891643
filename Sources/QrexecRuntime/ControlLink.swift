public import QrexecProtocol
public import Vchan

/// One end of a control channel: messages over a vchan, in an event loop. Bodies are read as a
/// stream, so that messages longer than the ring arrive too.
public final class ControlLink {
    public enum End: Sendable {
        /// The peer closed in order.
        case closed
        /// The peer died.
        case died
        case protocolError(ProtocolError)
        case failed(VchanError)

        public var description: String {
            switch self {
            case .closed: "closed by the peer"
            case .died: "the peer died"
            case .protocolError(let error): error.description
            case .failed(let error): error.description
            }
        }
    }

    /// Outgoing bytes that may wait for a slow peer.
    static let maximumQueue = 512 * 1024

    private let loop: EventLoop
    private var watched: WatchedChannel!
    private var assembler: MessageAssembler
    private var queue: [UInt8] = []
    private var chunk: [UInt8] = []
    private var isOpen = false
    private var ended = false
    private var isPumping = false

    /// The peer has joined. Called once.
    public var onOpen: () -> Void = {}
    /// A whole message came. May close the link.
    public var onMessage: (MessageType, [UInt8]) -> Void = { _, _ in }
    /// The link ended by itself; not called after `close`.
    public var onEnd: (End) -> Void = { _ in }

    /// - Parameter checkLength: throws for a type that is not expected here or a bad length, which
    ///   ends the link.
    public init(
        loop: EventLoop, channel: consuming Channel,
        checkLength: @escaping @Sendable (MessageType, Int) throws(ProtocolError) -> Void
    ) {
        self.loop = loop
        assembler = MessageAssembler(checkLength: checkLength)
        watched = WatchedChannel(loop: loop, channel: channel) { [unowned self] in self.pump() }
    }

    public func start() throws(VchanError) { try watched.start() }

    /// Queues a message. A peer that lets too many wait is taken for dead.
    public func send(_ type: MessageType, _ body: [UInt8]) {
        guard !ended else { return }
        guard queue.count + body.count < Self.maximumQueue else {
            end(.failed(.system(call: "write to the control channel", .noBufferSpace)))
            return
        }
        queue.append(contentsOf: encoded(type, body))
        // In the middle of what came in, the rest of that round sends it: a flood of messages that
        // are answered each must not nest.
        if !isPumping { pump() }
    }

    /// Closes in order.
    public func close() {
        guard !ended else { return }
        ended = true
        watched.close()
        onOpen = {}
        onMessage = { _, _ in }
        onEnd = { _ in }
    }

    private func end(_ reason: End) {
        let handler = onEnd
        close()
        handler(reason)
    }

    private func pump() {
        guard !ended, !isPumping else { return }
        isPumping = true
        defer { isPumping = false }
        do throws(VchanError) {
            try watched.progress()
            if watched.channel.state == .waiting { return }
            if !isOpen {
                isOpen = true
                onOpen()
                if ended { return }
            }
            let moved = try transfer()
            if ended { return }
            try watched.channel.flush()
            if moved {
                // More may be there: after the others had their turn.
                loop.defer { [weak self] in self?.pump() }
                return
            }
            try sleep()
        } catch .closed(let peerDied) {
            end(peerDied ? .died : .closed)
        } catch {
            end(.failed(error))
        }
    }

    /// One round of both directions, what came in first; whether anything moved.
    private func transfer() throws(VchanError) -> Bool {
        chunk.removeAll(keepingCapacity: true)
        let count = try watched.channel.receive(into: &chunk, count: Int(Limits.controlRing))
        if count > 0 {
            assembler.append(chunk[...])
            do throws(ProtocolError) {
                while !ended, let message = try assembler.next() {
                    onMessage(message.type, message.body)
                }
            } catch {
                end(.protocolError(error))
            }
            if ended { return true }
        }
        guard !queue.isEmpty, watched.channel.state == .open else { return count > 0 }
        let bytes = queue
        let written = try watched.channel.write(bytes.span)
        queue.removeFirst(written)
        return count > 0 || written > 0
    }

    private func sleep() throws(VchanError) {
        if watched.channel.state == .closed {
            if try watched.channel.bytesReady() > 0 {
                loop.defer { [weak self] in self?.pump() }
            } else {
                end(watched.channel.peerDied ? .died : .closed)
            }
            return
        }
        var awake = try watched.channel.armForData(atLeast: 1)
        if !queue.isEmpty, try watched.channel.armForSpace(atLeast: 1) { awake = true }
        if awake { loop.defer { [weak self] in self?.pump() } }
    }
}

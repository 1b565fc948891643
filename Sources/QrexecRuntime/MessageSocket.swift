public import LinuxSystem
public import QrexecProtocol
public import SystemPackage

/// A local socket that carries messages, driven by an event loop: never blocks, and holds at most
/// one incoming message and a bounded amount of outgoing ones.
public final class MessageSocket {
    public enum End: Sendable {
        /// The peer closed; a message may have been cut.
        case closed
        case protocolError(ProtocolError)
        case failed(Errno)
    }

    /// Outgoing bytes that may wait for a slow peer.
    static let maximumQueue = 256 * 1024

    private let loop: EventLoop
    private var descriptor: Descriptor?
    private var assembler: MessageAssembler
    private var queue: [UInt8] = []
    private var chunk = [UInt8](repeating: 0, count: 4096)
    private var closesWhenSent = false

    /// A whole message came. May close the socket.
    public var onMessage: (MessageType, [UInt8]) -> Void = { _, _ in }
    /// The socket ended by itself; not called after `close`.
    public var onEnd: (End) -> Void = { _ in }

    public init(
        loop: EventLoop, taking descriptor: consuming Descriptor,
        checkLength: @escaping @Sendable (MessageType, Int) throws(ProtocolError) -> Void
    ) throws(Errno) {
        self.loop = loop
        assembler = MessageAssembler(checkLength: checkLength)
        let number = descriptor.number
        self.descriptor = consume descriptor
        try loop.watch(number, .readable) { [weak self] in self?.ready($0) }
    }

    /// The socket's number; nil when closed.
    public var number: Int32? { descriptor?.number }
    public var isClosed: Bool { descriptor == nil }

    /// Sends a message; a peer that lets too many wait is closed.
    public func send(_ type: MessageType, _ body: [UInt8]) { send(raw: encoded(type, body)) }

    /// Sends bytes without a header.
    public func send(raw bytes: [UInt8]) {
        guard !isClosed, !closesWhenSent else { return }
        guard queue.count + bytes.count <= Self.maximumQueue else {
            end(.failed(.noBufferSpace))
            return
        }
        queue.append(contentsOf: bytes)
        writeQueue()
    }

    /// Sends what waits, then closes.
    public func closeWhenSent() {
        closesWhenSent = true
        if queue.isEmpty { close() }
    }

    /// Closes at once.
    public func close() {
        guard let number else { return }
        loop.unwatch(number)
        _ = descriptor.take()
        onMessage = { _, _ in }
        onEnd = { _ in }
    }

    private func end(_ reason: End) {
        let handler = onEnd
        close()
        handler(reason)
    }

    private func ready(_ readiness: Readiness) {
        if readiness.contains(.writable) { writeQueue() }
        if readiness.contains(.readable) || readiness.contains(.hangup) { read() }
    }

    private func writeQueue() {
        guard let number else { return }
        do throws(Errno) {
            while !queue.isEmpty {
                let count = try UnixSocket.send(number, queue.span)
                queue.removeFirst(count)
            }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            end(.failed(error))
            return
        }
        if queue.isEmpty, closesWhenSent {
            close()
        } else {
            loop.setInterest(number, queue.isEmpty ? .readable : [.readable, .writable])
        }
    }

    private func read() {
        // One chunk a round: a peer that never stops gets no more than its turn.
        guard let number else { return }
        let count: Int
        do throws(Errno) {
            count = try UnixSocket.receive(number, into: &chunk)
        } catch .resourceTemporarilyUnavailable {
            return
        } catch {
            end(error == .connectionReset ? .closed : .failed(error))
            return
        }
        if count == 0 {
            end(.closed)
            return
        }
        // Nobody listens any more: only what waits still goes out.
        if closesWhenSent { return }
        assembler.append(chunk[..<count])
        do throws(ProtocolError) {
            while !isClosed, !closesWhenSent, let message = try assembler.next() {
                onMessage(message.type, message.body)
            }
        } catch {
            end(.protocolError(error))
        }
    }
}

import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// One end of the socket between the agent and its data process: one message a packet.
final class AgentLink {
    enum Event {
        case message(MessageType, [UInt8])
        /// The other side leaves in order: what it began goes on.
        case farewell
        /// The other side is gone without a farewell.
        case lost
    }

    private let loop: EventLoop
    private var descriptor: Descriptor?
    private let onEvent: (Event) -> Void
    private var queue: [[UInt8]] = []
    private var wasLost = false

    init(
        loop: EventLoop, taking descriptor: consuming Descriptor,
        onEvent: @escaping (Event) -> Void
    ) throws(Errno) {
        self.loop = loop
        self.onEvent = onEvent
        let number = descriptor.number
        self.descriptor = consume descriptor
        try loop.watch(number, .readable) { [weak self] readiness in
            if readiness.contains(.writable) { self?.send() }
            self?.receive()
        }
    }

    /// Messages that may wait; each call of 256 takes two at most.
    private static let maximumQueue = 1024

    func send(_ type: MessageType, _ body: [UInt8]) {
        guard let number = descriptor?.number else { return }
        queue.append(encoded(type, body))
        writeQueue()
        if descriptor != nil, queue.count > Self.maximumQueue { lost() }
        if descriptor != nil {
            loop.setInterest(number, queue.isEmpty ? .readable : [.readable, .writable])
        }
    }

    private func send() {
        writeQueue()
        if let number = descriptor?.number, queue.isEmpty { loop.setInterest(number, .readable) }
    }

    private func writeQueue() {
        do throws(Errno) {
            while let first = queue.first, descriptor != nil {
                _ = try UnixSocket.send(descriptor!, first, descriptors: [])
                queue.removeFirst()
            }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            close()
            // Not from inside the call that wanted to send; unless the owner gave the link up.
            wasLost = true
            loop.defer { [weak self] in
                guard let self, self.wasLost else { return }
                self.onEvent(.lost)
            }
        }
    }

    /// Says that this side leaves in order, then closes.
    func leave() {
        guard descriptor != nil else { return }
        writeQueue()
        guard descriptor != nil else { return }
        _ = try? UnixSocket.send(descriptor!, [0], descriptors: [])
        close()
    }

    func close() {
        wasLost = false
        guard let taken = descriptor.take() else { return }
        loop.unwatch(taken.number)
    }

    private func receive() {
        while descriptor != nil {
            let bytes: [UInt8]
            do throws(Errno) {
                var none = DescriptorList()
                bytes = try UnixSocket.receive(
                    descriptor!, limit: MessageHeader.size + Limits.localBody,
                    maximumDescriptors: 0, descriptors: &none)
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {
                lost()
                return
            }
            if bytes == [0] {
                close()
                onEvent(.farewell)
            } else if let header = MessageHeader(bytes),
                let type = MessageType(rawValue: header.type),
                Int(header.length) == bytes.count - MessageHeader.size
            {
                onEvent(.message(type, Array(bytes.dropFirst(MessageHeader.size))))
            } else {
                lost()
            }
        }
    }

    private func lost() {
        close()
        onEvent(.lost)
    }
}

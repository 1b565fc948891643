import LinuxSystem
import QrexecRuntime
import SystemPackage

/// One end of the socket pair between a confined daemon and the dispatcher.
final class MessageLine {
    /// Messages that may wait for a peer that does not read.
    private static let maximumQueue = 1024

    private struct Outgoing {
        let bytes: [UInt8]
        let descriptors: [HeldDescriptor]
    }

    private let loop: EventLoop
    private var socket: Descriptor?
    private var queue: [Outgoing] = []

    /// A message came, with its descriptors. May close the line.
    var onMessage: (DispatchMessage, [HeldDescriptor]) throws(DispatchMessage.Malformed) -> Void = {
        (_, _) throws(DispatchMessage.Malformed) in
    }
    /// The line ended by itself; not called after `close`.
    var onEnd: (String) -> Void = { _ in }

    /// - Parameter maximumDescriptors: that a message of the peer may carry.
    init(
        loop: EventLoop, taking socket: consuming Descriptor, maximumDescriptors: Int
    ) throws(Errno) {
        self.loop = loop
        let number = socket.number
        self.socket = consume socket
        try loop.watch(number, .readable) { [weak self] readiness in
            guard let self else { return }
            if readiness.contains(.writable) { self.flush() }
            if readiness != .writable { self.receive(maximumDescriptors) }
        }
    }

    deinit { close() }

    func close() {
        guard let taken = socket.take() else { return }
        loop.unwatch(taken.number)
        queue = []
        onMessage = { (_, _) throws(DispatchMessage.Malformed) in }
        onEnd = { _ in }
    }

    private func end(_ reason: String) {
        let handler = onEnd
        close()
        handler(reason)
    }

    func send(_ message: DispatchMessage, _ descriptors: [HeldDescriptor] = []) {
        guard socket != nil else { return }
        guard queue.count < Self.maximumQueue else {
            return end("it does not take its messages")
        }
        queue.append(Outgoing(bytes: message.bytes, descriptors: descriptors))
        if queue.count == 1 { flush() }
    }

    private func flush() {
        do throws(Errno) {
            while let next = queue.first, socket != nil {
                let numbers = next.descriptors.compactMap(\.number)
                _ = try UnixSocket.send(socket!, next.bytes, descriptors: numbers)
                queue.removeFirst()
            }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            return end(error.description)
        }
        if let socket = socket?.number {
            loop.setInterest(socket, queue.isEmpty ? .readable : [.readable, .writable])
        }
    }

    /// One message a round: a peer that never stops gets no more than its turn.
    private func receive(_ maximumDescriptors: Int) {
        guard socket != nil else { return }
        var list = DescriptorList()
        do throws(Errno) {
            let bytes = try UnixSocket.receive(
                socket!, limit: DispatchMessage.maximumLength,
                maximumDescriptors: maximumDescriptors, descriptors: &list)
            if bytes.isEmpty { return end("it is gone") }
            var descriptors: [HeldDescriptor] = []
            while let next = list.takeFirst() { descriptors.append(HeldDescriptor(next)) }
            do throws(DispatchMessage.Malformed) {
                try onMessage(DispatchMessage(bytes), descriptors)
            } catch {
                end("refused: \(error.description)")
            }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            end(error == .connectionReset ? "it is gone" : error.description)
        }
    }
}

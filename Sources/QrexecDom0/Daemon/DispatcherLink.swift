import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// A confined daemon's only way out: asks the dispatcher for what the daemon may not do itself.
final class DispatcherLink {
    private let domain: DomainID
    private let line: MessageLine
    private var nextID: UInt32 = 0
    private var channels: [UInt32: (consuming ChannelAnswer) -> Void] = [:]
    private var calls: [UInt32: DispatchedRequest] = [:]
    private var onListening: ((Result<HeldDescriptor, StartFailure>) -> Void)?

    init(loop: EventLoop, taking socket: consuming Descriptor, domain: DomainID) throws(Errno) {
        self.domain = domain
        line = try MessageLine(
            loop: loop, taking: socket, maximumDescriptors: DispatchMessage.maximumDescriptors)
        line.onMessage = {
            [unowned self] (message, descriptors) throws(DispatchMessage.Malformed) in
            try self.received(message, descriptors)
        }
    }

    /// The dispatcher is gone; without it a daemon can do nothing.
    func onEnd(_ handler: @escaping (String) -> Void) { line.onEnd = handler }

    private func newID() -> UInt32 {
        nextID &+= 1
        return nextID
    }

    func openChannel(
        port: UInt32, _ completion: @escaping (consuming ChannelAnswer) -> Void
    ) {
        let id = newID()
        channels[id] = completion
        line.send(DispatchMessage("channel", ["id": "\(id)", "port": "\(port)"]))
    }

    func listen(_ completion: @escaping (Result<HeldDescriptor, StartFailure>) -> Void) {
        onListening = completion
        line.send(DispatchMessage("listen"))
    }

    func unlisten() {
        onListening = nil
        line.send(DispatchMessage("unlisten"))
    }

    /// - Returns: its id.
    func send(_ call: DispatchedRequest, _ request: ServiceRequest, namesSource: Bool) -> UInt32 {
        let id = newID()
        calls[id] = call
        line.send(
            DispatchMessage(
                "call",
                [
                    "id": "\(id)", "target": request.target, "service": request.service,
                    "claimed": namesSource ? request.claimedSource : nil,
                ]))
        return id
    }

    /// Nobody waits for the call any more.
    func end(_ id: UInt32) { line.send(DispatchMessage("end", ["id": "\(id)"])) }

    /// Nothing more is to be told about the call.
    func forget(_ id: UInt32) { calls[id] = nil }

    private func received(
        _ message: DispatchMessage, _ descriptors: [HeldDescriptor]
    ) throws(DispatchMessage.Malformed) {
        switch message.word {
        case "channel":
            guard let handler = channels.removeValue(forKey: try message.number("id")) else {
                return
            }
            handler(try channel(message, descriptors))
        case "listen":
            let handler = onListening
            onListening = nil
            if let socket = descriptors.first {
                handler?(.success(socket))
            } else {
                handler?(.failure(StartFailure(reason: message["reason"] ?? "no socket")))
            }
        default:
            // What comes for a call that was given up is dropped, its descriptors closed.
            try calls[message.number("id")]?.received(message, descriptors)
        }
    }

    private func channel(
        _ message: DispatchMessage, _ descriptors: [HeldDescriptor]
    ) throws(DispatchMessage.Malformed) -> ChannelAnswer {
        guard let handed = try ChannelFields.join(message, descriptors) else {
            return .failed(message["reason"] ?? "no connection")
        }
        let isByteStream = handed.isByteStream
        do throws(VchanError) {
            return .channel(
                try Transport.adopt(handed, server: domain), isByteStream: isByteStream)
        } catch {
            return .failed(error.description)
        }
    }
}

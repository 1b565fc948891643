import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// A local client of the daemon: `qrexec-client`, or another qube's daemon.
final class LocalClient {
    let number: UInt64
    private let socket: MessageSocket
    private var conversation = ClientConversation()
    private let onRequest: (ClientConversation.Command) -> Void
    private let onEnd: (String?) -> Void

    /// - Parameters:
    ///   - onRequest: its only command came.
    ///   - onEnd: it went away, or broke the rules (with the reason).
    init(
        loop: EventLoop, taking connection: consuming Descriptor, number: UInt64,
        onRequest: @escaping (ClientConversation.Command) -> Void,
        onEnd: @escaping (String?) -> Void
    ) throws(Errno) {
        self.number = number
        self.onRequest = onRequest
        self.onEnd = onEnd
        socket = try MessageSocket(
            loop: loop, taking: connection,
            checkLength: { (type, length) throws(ProtocolError) in
                try ClientConversation.checkLength(type, length)
            })
        socket.onMessage = { [unowned self] in self.received($0, $1) }
        socket.onEnd = { [unowned self] end in
            if case .protocolError(let error) = end {
                self.onEnd(error.description)
            } else {
                self.onEnd(nil)
            }
        }
        socket.send(.hello, Hello(version: .localSocket).body)
    }

    /// Tells where the call is; the connection stays until the call ends.
    func answer(_ type: MessageType, _ place: ConnectParameters) { socket.send(type, place.body) }

    func close() { socket.close() }
    var isClosed: Bool { socket.isClosed }

    private func received(_ type: MessageType, _ body: [UInt8]) {
        do throws(ProtocolError) {
            if let command = try conversation.receive(type, body) { onRequest(command) }
        } catch {
            close()
            onEnd(error.description)
        }
    }
}

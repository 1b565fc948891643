import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// A local client of the daemon: `qrexec-client`, or another qube's daemon.
final class LocalClient {
    enum Request {
        case execute(MessageType, ExecRequest)
        case connect(ServiceConnect)
    }

    private enum State { case hello, command, running }

    let number: UInt64
    private let socket: MessageSocket
    private var state = State.hello
    private let onRequest: (Request) -> Void
    private let onEnd: (String?) -> Void

    /// - Parameters:
    ///   - onRequest: its only command came.
    ///   - onEnd: it went away, or broke the rules (with the reason).
    init(
        loop: EventLoop, taking connection: consuming Descriptor, number: UInt64,
        onRequest: @escaping (Request) -> Void, onEnd: @escaping (String?) -> Void
    ) throws(Errno) {
        self.number = number
        self.onRequest = onRequest
        self.onEnd = onEnd
        socket = try MessageSocket(
            loop: loop, taking: connection,
            checkLength: { (type, length) throws(ProtocolError) in
                try LocalProtocol.checkLength(type, length)
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
            switch (state, type) {
            case (.hello, .hello):
                try LocalProtocol.check(Hello(body: body))
                state = .command
            case (.command, .execCommandLine), (.command, .justExec):
                let request = try ExecRequest(body: body, of: type)
                try checkPort(request.connect.port)
                state = .running
                onRequest(.execute(type, request))
            case (.command, .serviceConnect):
                let request = try ServiceConnect(body: body)
                try checkPort(request.connect.port)
                state = .running
                onRequest(.connect(request))
            default:
                throw .unexpectedType(type, state: "in state \(state)")
            }
        } catch {
            close()
            onEnd(error.description)
        }
    }

    private func checkPort(_ port: UInt32) throws(ProtocolError) {
        guard port == 0 || PortTable.isDataPort(port) else {
            throw .badText(field: "port", reason: "\(port) is no data port")
        }
    }
}

import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// The messages of dom0's local sockets between daemons and their clients (specification, section
/// 6): HELLO both ways, then one command.
enum LocalProtocol {
    static func checkLength(_ type: MessageType, _ length: Int) throws(ProtocolError) {
        let allowed: ClosedRange<Int>
        switch type {
        case .hello: allowed = Hello.size...Hello.size
        case .execCommandLine, .justExec, .serviceConnect:
            allowed = ConnectParameters.size...Limits.localBody
        default: throw .unexpectedType(type, state: "on a local socket")
        }
        guard allowed.contains(length) else {
            throw .badLength(
                type, length: length, expected: "\(allowed.lowerBound) to \(allowed.upperBound)")
        }
    }

    /// A local peer of R4.2 speaks exactly 3, one of R4.3 at least 3.
    static func check(_ hello: Hello) throws(ProtocolError) {
        guard hello.version >= ProtocolVersion.localSocket.rawValue else {
            throw .unsupportedVersion(hello.version)
        }
    }
}

/// A connection to a qube's daemon, as its client: sends one command, gets the port, and may wait
/// for the end of the call, which is the end of the connection.
public final class DaemonConnection {
    public enum Failure: Error, Sendable, CustomStringConvertible {
        case unreachable(path: String, Errno)
        case protocolError(ProtocolError)
        /// The daemon closed: it refused the command, has no port left, or is gone.
        case refused
        case timedOut

        public var description: String {
            switch self {
            case .unreachable(let path, let error): "\(path) cannot be reached: \(error)"
            case .protocolError(let error): "the daemon broke the protocol: \(error)"
            case .refused: "the daemon closed the connection (no free port, or it is going down)"
            case .timedOut: "the daemon did not answer in time"
            }
        }
    }

    private static let answerTime = seconds(10)

    private let loop: EventLoop
    private let socket: MessageSocket
    private var timer: EventLoop.Timer?
    private var command: (type: MessageType, body: [UInt8])
    private var greeted = false
    private var answered = false
    private let onAnswer: (Result<ConnectParameters, Failure>) -> Void

    /// The call is over. To be set by those who wait for that.
    public var onCallEnd: () -> Void = {}

    /// Connects and sends `request`.
    ///
    /// - Parameter onAnswer: gets the peer's domain and the port, once.
    public init(
        loop: EventLoop, path: String, type: MessageType, request: ExecRequest,
        onAnswer: @escaping (Result<ConnectParameters, Failure>) -> Void
    ) throws(Failure) {
        self.loop = loop
        self.onAnswer = onAnswer
        command = (type, request.body)
        do throws(Errno) {
            socket = try MessageSocket(
                loop: loop, taking: UnixSocket.connect(path),
                checkLength: { (type, length) throws(ProtocolError) in
                    try LocalProtocol.checkLength(type, length)
                })
        } catch {
            throw .unreachable(path: path, error)
        }
        socket.onMessage = { [unowned self] in self.received($0, $1) }
        socket.onEnd = { [unowned self] in self.ended($0) }
        timer = loop.schedule(after: Self.answerTime) { [weak self] in
            self?.fail(.timedOut)
        }
        // Both without waiting: the daemon reads them in order.
        socket.send(.hello, Hello(version: .localSocket).body)
        socket.send(command.type, command.body)
        command.body = []
    }

    deinit { close() }

    public func close() {
        if let timer { loop.cancel(timer) }
        timer = nil
        socket.close()
    }

    private func received(_ type: MessageType, _ body: [UInt8]) {
        do throws(ProtocolError) {
            guard greeted else {
                guard type == .hello else { throw .unexpectedType(type, state: "before HELLO") }
                try LocalProtocol.check(Hello(body: body))
                greeted = true
                return
            }
            guard type == command.type, !answered else {
                throw .unexpectedType(type, state: "as an answer")
            }
            let place = try ConnectParameters(body: body, of: type)
            answered = true
            if let timer { loop.cancel(timer) }
            timer = nil
            onAnswer(.success(place))
        } catch {
            fail(.protocolError(error))
        }
    }

    private func ended(_ end: MessageSocket.End) {
        if answered {
            onCallEnd()
        } else if case .protocolError(let error) = end {
            fail(.protocolError(error))
        } else {
            fail(.refused)
        }
    }

    private func fail(_ failure: Failure) {
        close()
        guard !answered else {
            onCallEnd()
            return
        }
        answered = true
        onAnswer(.failure(failure))
    }
}

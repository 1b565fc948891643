import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// A connection to a qube's daemon, as its client: one command was sent, it answers with the port,
/// and the end of the connection is the end of the call.
final class DaemonConnection {
    enum Failure: Error, Sendable, CustomStringConvertible {
        case protocolError(ProtocolError)
        /// The daemon closed: it refused the command, has no port left, or is gone.
        case refused
        case timedOut
        case broken(Errno)

        var description: String {
            switch self {
            case .protocolError(let error): "the daemon broke the protocol: \(error)"
            case .refused: "the daemon closed the connection (no free port, or it is going down)"
            case .timedOut: "the daemon did not answer in time"
            case .broken(let error): "the connection to the daemon broke: \(error)"
            }
        }
    }

    private static let answerTime = seconds(10)

    private let loop: EventLoop
    private let socket: MessageSocket
    private var timer: EventLoop.Timer?
    private let command: MessageType
    private var greeted = false
    private var onAnswer: ((Result<ConnectParameters, Failure>) -> Void)?

    /// The daemon has said HELLO. To be set by those who get no answer.
    var onGreeting: () -> Void = {}
    /// The call is over. To be set by those who wait for that.
    var onCallEnd: () -> Void = {}

    /// Sends a command over a new connection: HELLO and the command together, without waiting; the
    /// daemon reads them in order.
    static func send(
        _ type: MessageType, _ body: [UInt8], to connection: HeldDescriptor
    ) throws(Errno) {
        guard let number = connection.number else { throw .badFileDescriptor }
        let bytes = encoded(.hello, Hello(version: .localSocket).body) + encoded(type, body)
        // A connection that nothing was sent over takes it all: its buffer holds several of them.
        guard try UnixSocket.send(number, bytes.span) == bytes.count else {
            throw .noBufferSpace
        }
    }

    /// Waits for the answer to a command that `send` has sent.
    ///
    /// - Parameter onAnswer: gets the peer's domain and the port, once, unless it is closed before.
    init(
        loop: EventLoop, sent command: MessageType, on connection: HeldDescriptor,
        onAnswer: @escaping (Result<ConnectParameters, Failure>) -> Void
    ) throws(Failure) {
        self.loop = loop
        self.onAnswer = onAnswer
        self.command = command
        do throws(Errno) {
            guard let descriptor = connection.take() else { throw .badFileDescriptor }
            socket = try MessageSocket(
                loop: loop, taking: descriptor,
                checkLength: { (type, length) throws(ProtocolError) in
                    try ClientConversation.checkLength(type, length)
                })
        } catch {
            throw .broken(error)
        }
        socket.onMessage = { [unowned self] in self.received($0, $1) }
        socket.onEnd = { [unowned self] in self.ended($0) }
        timer = loop.schedule(after: Self.answerTime) { [weak self] in
            self?.fail(.timedOut)
        }
    }

    deinit { close() }

    func close() {
        if let timer { loop.cancel(timer) }
        timer = nil
        socket.close()
    }

    private func received(_ type: MessageType, _ body: [UInt8]) {
        do throws(ProtocolError) {
            guard greeted else {
                guard type == .hello else { throw .unexpectedType(type, state: "before HELLO") }
                try ClientConversation.check(Hello(body: body))
                greeted = true
                onGreeting()
                return
            }
            guard type == command, let handler = onAnswer else {
                throw .unexpectedType(type, state: "as an answer")
            }
            let place = try ConnectParameters(body: body, of: type)
            onAnswer = nil
            if let timer { loop.cancel(timer) }
            timer = nil
            handler(.success(place))
        } catch {
            fail(.protocolError(error))
        }
    }

    private func ended(_ end: MessageSocket.End) {
        if case .protocolError(let error) = end {
            fail(.protocolError(error))
        } else {
            fail(.refused)
        }
    }

    private func fail(_ failure: Failure) {
        close()
        guard let handler = onAnswer else { return onCallEnd() }
        onAnswer = nil
        handler(.failure(failure))
    }
}

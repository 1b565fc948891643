/// What an agent may say on the control channel, in which order (specification, sections 5.3 and
/// 6). Knows bytes and nothing else: a daemon acts on what comes out of it.
public struct AgentConversation: Sendable {
    /// What the agent said.
    public enum Event: Sendable, Equatable {
        /// To be answered with HELLO of this version.
        case greeted(ProtocolVersion)
        /// With its names made harmless.
        ///
        /// - Parameter namesSource: whether its message has a field for a claimed source.
        case request(ServiceRequest, namesSource: Bool)
        /// To be answered with SERVICE_REFUSED; the policy is not asked.
        case malformed(RequestRefusal)
        /// A call is over.
        case terminated(ConnectParameters)
    }

    /// nil before HELLO.
    public private(set) var version: ProtocolVersion?

    public init() {}

    /// Whether a message of this type and length can be one at all; checked before its body is
    /// waited for.
    public static func checkLength(_ type: MessageType, _ length: Int) throws(ProtocolError) {
        switch type {
        case .hello:
            guard length == Hello.size else {
                throw .badLength(type, length: length, expected: "4")
            }
        case .connectionTerminated:
            guard length == ConnectParameters.size else {
                throw .badLength(type, length: length, expected: "8")
            }
        case .triggerService, .triggerService3, .triggerService4:
            try ServiceRequest.checkLength(length, of: type)
        default: throw .unexpectedType(type, state: "from an agent")
        }
    }

    /// The next message.
    ///
    /// - Throws: what ends the channel.
    public mutating func receive(
        _ type: MessageType, _ body: [UInt8]
    ) throws(ProtocolError) -> Event {
        guard let version else {
            guard type == .hello else { throw .unexpectedType(type, state: "before HELLO") }
            let negotiated = try ProtocolVersion.negotiated(theirs: Hello(body: body).version)
            version = negotiated
            return .greeted(negotiated)
        }
        switch type {
        case .triggerService where version < .v3, .triggerService3 where version >= .v3,
            .triggerService4 where version >= .v4:
            switch try ServiceRequest.parse(type, body) {
            case .success(let request):
                return .request(request.sanitised, namesSource: type == .triggerService4)
            case .failure(let refusal): return .malformed(refusal)
            }
        case .connectionTerminated:
            let place = try ConnectParameters(body: body, of: type)
            guard Limits.isDataPort(place.port) else {
                throw .badText(field: "port", reason: "\(place.port) is no data port")
            }
            return .terminated(place)
        default: throw .unexpectedType(type, state: "at version \(version.rawValue)")
        }
    }
}

/// What a local client of a daemon may say: HELLO, one command, nothing more (section 6).
public struct ClientConversation: Sendable {
    public enum Command: Sendable, Equatable {
        case execute(MessageType, ExecRequest)
        case connect(ServiceConnect)
    }

    private enum State { case hello, command, running }
    private var state = State.hello

    public init() {}

    /// See `AgentConversation.checkLength`; the daemon's answers have the same lengths.
    public static func checkLength(_ type: MessageType, _ length: Int) throws(ProtocolError) {
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
    public static func check(_ hello: Hello) throws(ProtocolError) {
        guard hello.version >= ProtocolVersion.localSocket.rawValue else {
            throw .unsupportedVersion(hello.version)
        }
    }

    /// The next message.
    ///
    /// - Returns: the client's command, once; nil for its HELLO.
    /// - Throws: what ends the connection.
    public mutating func receive(
        _ type: MessageType, _ body: [UInt8]
    ) throws(ProtocolError) -> Command? {
        switch (state, type) {
        case (.hello, .hello):
            try Self.check(Hello(body: body))
            state = .command
            return nil
        case (.command, .execCommandLine), (.command, .justExec):
            let request = try ExecRequest(body: body, of: type)
            try checkPort(request.connect.port)
            state = .running
            return .execute(type, request)
        case (.command, .serviceConnect):
            let request = try ServiceConnect(body: body)
            try checkPort(request.connect.port)
            state = .running
            return .connect(request)
        default: throw .unexpectedType(type, state: "in state \(state)")
        }
    }

    private func checkPort(_ port: UInt32) throws(ProtocolError) {
        guard port == 0 || Limits.isDataPort(port) else {
            throw .badText(field: "port", reason: "\(port) is no data port")
        }
    }
}

extension Limits {
    /// Whether a number is that of a data port.
    public static func isDataPort(_ port: UInt32) -> Bool {
        port >= firstDataPort && port < firstDataPort + UInt32(dataPorts)
    }
}

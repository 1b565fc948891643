/// A message header: `{u32 type, u32 length of the body}`.
public struct MessageHeader: Sendable, Equatable {
    public static let size = 8

    public let type: UInt32
    public let length: UInt32

    public init(type: UInt32, length: UInt32) {
        self.type = type
        self.length = length
    }

    /// The header in the first 8 bytes; nil when there are fewer.
    public init?(_ bytes: [UInt8]) {
        if bytes.count < Self.size { return nil }
        var reader = ByteReader(Array(bytes.prefix(Self.size)))
        type = reader.uint32()
        length = reader.uint32()
    }
}

/// A message as bytes: header and body.
public func encoded(_ type: MessageType, _ body: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(MessageHeader.size + body.count)
    bytes.append(little: type.rawValue)
    bytes.append(little: UInt32(body.count))
    bytes.append(contentsOf: body)
    return bytes
}

/// HELLO: the sender's highest version.
public struct Hello: Sendable, Equatable {
    public static let size = 4
    public let version: UInt32

    public init(version: ProtocolVersion) { self.version = version.rawValue }

    public init(body: [UInt8]) throws(ProtocolError) {
        guard body.count == Self.size else {
            throw .badLength(.hello, length: body.count, expected: "4")
        }
        var reader = ByteReader(body)
        version = reader.uint32()
    }

    public var body: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(little: version)
        return bytes
    }
}

/// Where the data channel of a call is: the peer's domain number and the port.
public struct ConnectParameters: Sendable, Hashable {
    public static let size = 8

    public var domain: UInt32
    public var port: UInt32

    public init(domain: UInt32, port: UInt32) {
        self.domain = domain
        self.port = port
    }

    fileprivate init(_ reader: inout ByteReader) {
        domain = reader.uint32()
        port = reader.uint32()
    }

    /// CONNECTION_TERMINATED, and the daemon's answer to a local client.
    public init(body: [UInt8], of type: MessageType) throws(ProtocolError) {
        guard body.count == Self.size else {
            throw .badLength(type, length: body.count, expected: "8")
        }
        var reader = ByteReader(body)
        self.init(&reader)
    }

    public var body: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(little: domain)
        bytes.append(little: port)
        return bytes
    }
}

/// EXEC_CMDLINE and JUST_EXEC: where to connect and what to run (5.7).
public struct ExecRequest: Sendable, Equatable {
    public var connect: ConnectParameters
    /// Without the terminating NUL; bytes, because a shell command need not be text.
    public var command: [UInt8]

    public init(connect: ConnectParameters, command: [UInt8]) {
        self.connect = connect
        self.command = command
    }

    public init(body: [UInt8], of type: MessageType) throws(ProtocolError) {
        guard body.count > ConnectParameters.size else {
            throw .badLength(type, length: body.count, expected: "more than 8")
        }
        var reader = ByteReader(body)
        connect = ConnectParameters(&reader)
        var text = Array(reader.takeAll())
        guard text.last == 0 else {
            throw .badText(field: "command", reason: "has no terminating NUL")
        }
        text.removeLast()
        if text.contains(0) {
            throw .badText(field: "command", reason: "has a NUL inside")
        }
        command = text
    }

    public var body: [UInt8] { connect.body + command + [0] }
}

/// Names one request of a qube between agent and daemon: at most 31 characters of
/// `A-Za-z0-9_.-` and blank.
public struct RequestIdent: Sendable, Hashable {
    public static let size = 32

    public let text: String

    /// - Returns: nil for a text that is too long or has other characters.
    public init?(_ text: String) {
        guard text.utf8.count < Self.size, text.utf8.allSatisfy(Self.isAllowed) else { return nil }
        self.text = text
    }

    static func isAllowed(_ byte: UInt8) -> Bool {
        Names.isServiceCharacter(byte) && byte != 0x2B || byte == 0x20
    }

    init(field: ArraySlice<UInt8>) throws(ProtocolError) {
        let text = try fieldText(field, "ident")
        guard let ident = RequestIdent(text) else {
            throw .badText(field: "ident", reason: "has a forbidden character")
        }
        self = ident
    }

    public var field: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(text, field: Self.size)
        return bytes
    }
}

/// SERVICE_CONNECT: the request `ident` was allowed; its data channel is there.
public struct ServiceConnect: Sendable, Equatable {
    public static let size = ConnectParameters.size + RequestIdent.size

    public var connect: ConnectParameters
    public var ident: RequestIdent

    public init(connect: ConnectParameters, ident: RequestIdent) {
        self.connect = connect
        self.ident = ident
    }

    public init(body: [UInt8]) throws(ProtocolError) {
        guard body.count == Self.size else {
            throw .badLength(.serviceConnect, length: body.count, expected: "40")
        }
        var reader = ByteReader(body)
        connect = ConnectParameters(&reader)
        ident = try RequestIdent(field: reader.takeAll())
    }

    public var body: [UInt8] { connect.body + ident.field }
}

/// SERVICE_REFUSED: the request `ident` gets no answer.
public struct ServiceRefused: Sendable, Equatable {
    /// The 32 bytes as they came with the request: a refused ident may be malformed itself.
    public var identField: [UInt8]

    public init(ident: RequestIdent) { identField = ident.field }

    public init(identField: [UInt8]) { self.identField = identField }

    public init(body: [UInt8]) throws(ProtocolError) {
        guard body.count == RequestIdent.size else {
            throw .badLength(.serviceRefused, length: body.count, expected: "32")
        }
        identField = body
    }

    public var body: [UInt8] { identField }

    /// nil when it cannot be one that we sent.
    public var ident: RequestIdent? { try? RequestIdent(field: identField[...]) }
}

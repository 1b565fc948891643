/// Types of messages (5.2).
public enum MessageType: UInt32, Sendable {
    /// Caller → service; empty is the end.
    case dataStdin = 0x190
    /// Service → caller; empty is the end.
    case dataStdout = 0x191
    case dataStderr = 0x192
    /// Service → caller: the exit status, i32.
    case dataExitCode = 0x193
    case execCommandLine = 0x200
    case justExec = 0x201
    case serviceConnect = 0x202
    case serviceRefused = 0x203
    case triggerService = 0x210
    case connectionTerminated = 0x211
    case triggerService3 = 0x212
    case triggerService4 = 0x213
    case hello = 0x300
}

/// The version that both ends of a channel speak (5.1).
public struct ProtocolVersion: Sendable, Hashable, Comparable {
    public let rawValue: UInt32

    public static let v2 = ProtocolVersion(rawValue: 2)
    public static let v3 = ProtocolVersion(rawValue: 3)
    public static let v4 = ProtocolVersion(rawValue: 4)

    /// What we announce on control and data channels. Never more than 4: a 4.3 daemon echoes it.
    public static let ours = v4
    /// dom0's local sockets have a number of their own.
    public static let localSocket = v3

    private init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The version to speak with a peer that announced `theirs`.
    public static func negotiated(theirs: UInt32) throws(ProtocolError) -> ProtocolVersion {
        if theirs < v2.rawValue { throw .unsupportedVersion(theirs) }
        return ProtocolVersion(rawValue: min(theirs, ours.rawValue))
    }

    public static func < (left: ProtocolVersion, right: ProtocolVersion) -> Bool {
        left.rawValue < right.rawValue
    }

    /// Payload of a data message at most.
    public var maximumDataChunk: Int {
        self < .v3 ? Limits.dataChunkVersion2 : Limits.dataChunk
    }

    /// The message that carries a request of a qube.
    public var triggerType: MessageType {
        if self < .v3 { return .triggerService }
        return self < .v4 ? .triggerService3 : .triggerService4
    }
}

/// What a peer did against the protocol. Ends the channel.
public enum ProtocolError: Error, Sendable, Equatable, CustomStringConvertible {
    case unsupportedVersion(UInt32)
    case unknownType(UInt32)
    case unexpectedType(MessageType, state: String)
    case badLength(MessageType, length: Int, expected: String)
    case tooLong(length: Int, limit: Int)
    case badText(field: String, reason: String)

    public var description: String {
        switch self {
        case .unsupportedVersion(let version):
            "the peer speaks protocol version \(version), which is too old"
        case .unknownType(let type):
            "message of unknown type 0x\(String(type, radix: 16))"
        case .unexpectedType(let type, let state):
            "message \(type) is not allowed \(state)"
        case .badLength(let type, let length, let expected):
            "message \(type) has a body of \(length) bytes, expected \(expected)"
        case .tooLong(let length, let limit):
            "message body of \(length) bytes is longer than \(limit)"
        case .badText(let field, let reason):
            "\(field) \(reason)"
        }
    }
}

/// A request to qubesd: `METHOD+ARGUMENT SOURCE TYPE DESTINATION`, NUL, payload (section 14).
public struct QubesdRequest: Sendable, Equatable {
    /// The whole request at most, in bytes.
    public static let maximumLength = 65536

    public let method: String
    /// Behind the first `+`; empty without.
    public let argument: String
    public let source: String
    /// A name, `uuid:` with a UUID, or a keyword without its `@`.
    public let destination: String
    public let payload: [UInt8]

    public struct Invalid: Error, Sendable, Equatable {
        public let reason: String
    }

    /// - Parameter bytes: everything up to the end of the client's stream.
    public init(_ bytes: [UInt8]) throws(Invalid) {
        guard bytes.count <= Self.maximumLength else { throw Invalid(reason: "too long") }
        guard let end = bytes.firstIndex(of: 0) else {
            throw Invalid(reason: "no NUL behind the header")
        }
        let header = bytes[..<end]
        guard header.allSatisfy({ (0x20...0x7E).contains($0) }) else {
            throw Invalid(reason: "the header is not printable ASCII")
        }
        let fields = header.split(separator: 0x20, omittingEmptySubsequences: false)
        guard fields.count == 4, fields.allSatisfy({ !$0.isEmpty }) else {
            throw Invalid(reason: "the header must be METHOD SOURCE TYPE DESTINATION")
        }
        let call = fields[0].split(
            separator: 0x2B, maxSplits: 1, omittingEmptySubsequences: false)
        method = String(decoding: call[0], as: UTF8.self)
        argument = call.count == 2 ? String(decoding: call[1], as: UTF8.self) : ""
        source = String(decoding: fields[1], as: UTF8.self)
        let type = String(decoding: fields[2], as: UTF8.self)
        guard type == "name" || type == "keyword" else {
            throw Invalid(reason: "the destination's type must be name or keyword")
        }
        destination = String(decoding: fields[3], as: UTF8.self)
        payload = Array(bytes[(end + 1)...])
        if method.isEmpty { throw Invalid(reason: "no method") }
    }

    /// What a client sends.
    ///
    /// - Parameter destination: with `@` for a keyword.
    public static func encode(
        _ method: String, argument: String = "", source: String = "dom0", destination: String,
        payload: [UInt8] = []
    ) -> [UInt8] {
        let isKeyword = destination.hasPrefix("@")
        let target = isKeyword ? "keyword \(destination.dropFirst())" : "name \(destination)"
        return Array("\(method)+\(argument) \(source) \(target)".utf8) + [0] + payload
    }
}

/// An answer of qubesd.
public enum QubesdResponse: Sendable, Equatable {
    case ok([UInt8])
    case exception(QubesdError)

    /// What qrexec's programs take at most, in bytes.
    public static let maximumLength = 65534

    public var bytes: [UInt8] {
        switch self {
        case .ok(let data):
            [0x30, 0] + data
        case .exception(let error):
            // The traceback stays empty; the message is a format string whose `%` are its own.
            [0x32, 0] + Self.field(error.type) + [0]
                + Self.field(error.message.replacing("%", with: "%%")) + [0]
        }
    }

    /// The first bytes of a stream of events.
    public static let eventsHeader: [UInt8] = [0x31, 0]

    /// One event in such a stream: subject, name, keys and values, each ended by NUL, and a last NUL.
    public static func encode(_ event: QubeEvent) -> [UInt8] {
        var bytes = field(event.subject) + field(event.name)
        for (key, value) in event.details { bytes += field(key) + field(value) }
        return bytes + [0]
    }

    private static func field(_ text: String) -> [UInt8] { text.utf8.filter { $0 != 0 } + [0] }

    public struct Invalid: Error, Sendable, Equatable {
        public let reason: String
    }

    /// Reads a whole answer that is no stream of events.
    public init(_ bytes: [UInt8]) throws(Invalid) {
        guard bytes.count >= 2, bytes[1] == 0 else { throw Invalid(reason: "no answer") }
        switch bytes[0] {
        case 0x30:
            self = .ok(Array(bytes[2...]))
        case 0x32:
            let fields = bytes[2...].split(separator: 0, omittingEmptySubsequences: false)
            guard fields.count >= 3 else { throw Invalid(reason: "a cut exception") }
            self = .exception(
                QubesdError(
                    type: String(decoding: fields[0], as: UTF8.self),
                    message: Self.format(fields[2...].dropLast(fields.count > 3 ? 1 : 0))))
        default:
            throw Invalid(reason: "an answer of unknown kind \(bytes[0])")
        }
    }

    /// Puts the arguments in for the `%s` and `%d` of the format, its first element.
    private static func format(_ fields: ArraySlice<ArraySlice<UInt8>>) -> String {
        var arguments = fields.dropFirst()
        var result: [UInt8] = []
        var percent = false
        for byte in fields.first ?? [] {
            if percent {
                percent = false
                if byte == 0x25 {
                    result.append(byte)
                } else {
                    result += arguments.popFirst() ?? []
                }
            } else if byte == 0x25 {
                percent = true
            } else {
                result.append(byte)
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}

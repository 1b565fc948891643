import QrexecRuntime

/// A request to the policy service as it came over the socket (section 13.1).
public struct PolicyQuery: Sendable, Equatable {
    /// The calling qube as its daemon knows it.
    public var source: [UInt8]
    public var target: [UInt8]
    /// Service and, after a `+`, its argument, as called.
    public var service: [UInt8]
    /// The remote qube that a relay speaks for; empty for none.
    public var claimedSource: [UInt8]
    /// Counts `ask` as allowed where the requested target is one of those to choose from.
    public var assumesYes: Bool
    /// Only asks: nothing is prompted or told to people.
    public var justEvaluates: Bool
    /// The call's id in the logs; empty where it has none.
    public var trace = ""

    public init(
        source: [UInt8], target: [UInt8], service: [UInt8], claimedSource: [UInt8] = [],
        assumesYes: Bool = false, justEvaluates: Bool = false
    ) {
        self.source = source
        self.target = target
        self.service = service
        self.claimedSource = claimedSource
        self.assumesYes = assumesYes
        self.justEvaluates = justEvaluates
    }

    /// Why bytes are no request; the connection is closed without an answer.
    public enum Malformed: Error, Sendable, Equatable, CustomStringConvertible {
        case notASCII
        case noEquals
        case unknownKey(String)
        case repeatedKey(String)
        case badBoolean(String)
        case missingKey(String)

        public var description: String {
            switch self {
            case .notASCII: "a byte that is not ASCII, or a NUL"
            case .noEquals: "a line without '='"
            case .unknownKey(let key): "the unknown key '\(LogText.line(key))'"
            case .repeatedKey(let key): "the key '\(key)' twice"
            case .badBoolean(let key): "a value of '\(key)' other than yes and no"
            case .missingKey(let key): "no key '\(key)'"
            }
        }
    }

    /// Reads the lines of a request, without the empty one that ends it.
    public init(lines bytes: ArraySlice<UInt8>) throws(Malformed) {
        var values = [ArraySlice<UInt8>?](repeating: nil, count: Self.keys.count)
        for byte in bytes where byte >= 0x80 || byte == 0 { throw .notASCII }
        for line in bytes.split(separator: 0x0A) {
            guard let equals = line.firstIndex(of: UInt8(ascii: "=")) else { throw .noEquals }
            let key = line[..<equals]
            guard let index = Self.keys.firstIndex(where: { key.elementsEqual($0.utf8) }) else {
                throw .unknownKey(String(decoding: key, as: UTF8.self))
            }
            if values[index] != nil { throw .repeatedKey(Self.keys[index]) }
            values[index] = line[(equals + 1)...]
        }
        for index in 0..<3 where values[index] == nil { throw .missingKey(Self.keys[index]) }
        self.init(
            source: Array(values[0]!), target: Array(values[1]!), service: Array(values[2]!),
            claimedSource: values[3].map { Array($0) } ?? [],
            assumesYes: try Self.boolean(values[4], Self.keys[4]),
            justEvaluates: try Self.boolean(values[5], Self.keys[5]))
    }

    private static let keys = [
        "source", "intended_target", "service_and_arg", "requested_source", "assume_yes_for_ask",
        "just_evaluate",
    ]

    private static func boolean(
        _ value: ArraySlice<UInt8>?, _ key: String
    ) throws(Malformed) -> Bool {
        guard let value else { return false }
        if value.elementsEqual("yes".utf8) { return true }
        if value.elementsEqual("no".utf8) { return false }
        throw .badBoolean(key)
    }

    /// Far above the longest service (appendix B).
    static let maximumSize = 70_000
}

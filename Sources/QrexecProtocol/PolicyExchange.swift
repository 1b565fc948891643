/// A question to the policy service (13.1): `key=value` lines and an empty line.
public struct PolicyQuestion: Sendable, Equatable {
    /// The daemon's own qube, as dom0 knows it; never a qube's word.
    public var source: String
    /// The source a relay claims; nil below protocol version 4, where there is no such field.
    public var claimedSource: String?
    public var target: String
    /// As called, without an added `+`.
    public var service: String

    public init(source: String, claimedSource: String?, target: String, service: String) {
        self.source = source
        self.claimedSource = claimedSource
        self.target = target
        self.service = service
    }

    public var bytes: [UInt8] {
        var text = "source=\(source)\n"
        if let claimedSource { text += "requested_source=\(claimedSource)\n" }
        text += "intended_target=\(target)\nservice_and_arg=\(service)\n\n"
        return Array(text.utf8)
    }
}

/// The policy service's answer (12.7), checked strictly: anything odd is an error, which denies.
public struct PolicyAnswer: Sendable, Equatable {
    public struct Permission: Sendable, Equatable {
        /// `DEFAULT` for the target's default user.
        public var user: String
        /// Name, `uuid:…`, `dom0` or `@dispvm:…`.
        public var target: String
        /// `uuid:…` or `@dispvm:uuid:…`, to be preferred to the name; absent for dom0.
        public var targetUUID: String?
        /// Whether a target that does not run is started.
        public var autostart: Bool
        /// The target as the caller asked for it, verified.
        public var requestedTarget: String
        /// Replaces the called service (relays).
        public var service: String?
        /// Replaces the source's name that the target is told (relays).
        public var policySource: String?
    }

    /// nil: denied.
    public var permission: Permission?
    /// `file:line` of the rule that decided, where the service tells it (an addition of ours).
    public var rule: String?
    /// Why it was denied, where the service tells it (an addition of ours).
    public var reason: String?

    public enum Malformed: Error, Sendable, Equatable, CustomStringConvertible {
        case length(Int)
        case notText
        case line(String)
        case repeated(String)
        case missing(String)
        case notAllowed(String)
        case value(key: String)

        public var description: String {
            switch self {
            case .length(let count):
                "an answer of \(count) bytes, expected 1 to \(Limits.policyAnswer)"
            case .notText: "an answer with a NUL or a byte that is no ASCII"
            case .line(let line): "a line without '=': \(line)"
            case .repeated(let key): "the key \(key) twice"
            case .missing(let key): "no key \(key)"
            case .notAllowed(let key): "the key \(key) in a denial"
            case .value(let key): "an unknown value of \(key)"
            }
        }
    }

    private static let knownKeys: Set<String> = [
        "result", "user", "target", "target_uuid", "autostart", "requested_target", "service",
        "policy_source", "rule", "reason",
    ]

    public init(bytes: [UInt8]) throws(Malformed) {
        guard (1...Limits.policyAnswer).contains(bytes.count) else { throw .length(bytes.count) }
        guard bytes.allSatisfy({ $0 != 0 && $0 < 0x80 }) else { throw .notText }
        // Bytes, not characters: to a String, CR LF is one character that is no line end.
        let lines = (bytes.last == 0x0A ? bytes.dropLast() : bytes[...])
            .split(separator: 0x0A, omittingEmptySubsequences: false)
        var values: [String: String] = [:]
        for line in lines {
            guard let equals = line.firstIndex(of: 0x3D) else {
                throw .line(String(decoding: line, as: UTF8.self))
            }
            let key = String(decoding: line[..<equals], as: UTF8.self)
            guard Self.knownKeys.contains(key) else { continue }
            if values[key] != nil { throw .repeated(key) }
            let value = line[(equals + 1)...]
            guard value.allSatisfy({ (0x20...0x7E).contains($0) }) else { throw .value(key: key) }
            values[key] = String(decoding: value, as: UTF8.self)
        }
        rule = values["rule"]
        reason = values["reason"]
        switch values["result"] {
        case "allow": permission = try Self.permission(values)
        case "deny":
            permission = nil
            for key in ["user", "target", "requested_target", "autostart"] where values[key] != nil
            {
                throw .notAllowed(key)
            }
        case nil: throw .missing("result")
        default: throw .value(key: "result")
        }
    }

    private static func permission(
        _ values: [String: String]
    ) throws(Malformed) -> Permission {
        func required(_ key: String) throws(Malformed) -> String {
            guard let value = values[key], !value.isEmpty else { throw .missing(key) }
            return value
        }
        let autostart: Bool
        switch try required("autostart") {
        case "True": autostart = true
        case "False": autostart = false
        default: throw .value(key: "autostart")
        }
        return Permission(
            user: try required("user"), target: try required("target"),
            targetUUID: values["target_uuid"], autostart: autostart,
            requestedTarget: try required("requested_target"), service: values["service"],
            policySource: values["policy_source"])
    }
}

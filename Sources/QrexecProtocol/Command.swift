/// A command as it travels (5.7): `[user:][nogui:]QUBESRPC descriptor source [type target]`, or
/// `user:[nogui:]shell command`.
public struct Command: Sendable, Equatable {
    public enum Kind: Sendable, Equatable {
        case service(ServiceCall)
        /// For the user's shell; bytes, because it need not be text.
        case shell([UInt8])
    }

    /// nil in commands for dom0, which have no user part.
    public var user: String?
    /// Whether to start without waiting for, and outside of, a graphical session.
    public var noGUI: Bool
    public var kind: Kind

    public init(user: String?, noGUI: Bool = false, kind: Kind) {
        self.user = user
        self.noGUI = noGUI
        self.kind = kind
    }

    /// Takes a command apart.
    ///
    /// - Parameter hasUser: whether it begins with a user part (every command for a qube does).
    public init(_ bytes: [UInt8], hasUser: Bool) throws(ProtocolError) {
        var rest = bytes[...]
        if hasUser {
            guard let colon = rest.firstIndex(of: 0x3A) else {
                throw .badText(field: "command", reason: "names no user")
            }
            user = asciiText(rest[..<colon])
            rest = rest[(colon + 1)...]
        } else {
            user = nil
        }
        noGUI = rest.starts(with: "nogui:".utf8)
        if noGUI { rest = rest.dropFirst(6) }
        guard rest.starts(with: "QUBESRPC".utf8) else {
            kind = .shell(Array(rest))
            return
        }
        rest = rest.dropFirst(8)
        guard rest.first == 0x20 else {
            throw .badText(field: "command", reason: "has no blank after QUBESRPC")
        }
        kind = .service(try ServiceCall(words: asciiText(rest.dropFirst())))
    }

    public var bytes: [UInt8] {
        var result: [UInt8] = []
        if let user { result += Array(user.utf8) + [0x3A] }
        if noGUI { result += Array("nogui:".utf8) }
        switch kind {
        case .service(let call): result += Array("QUBESRPC \(call.words)".utf8)
        case .shell(let command): result += command
        }
        return result
    }
}

/// Which service is called, and by whom.
public struct ServiceCall: Sendable, Equatable {
    /// What the caller named as target, told to dom0's services only.
    public struct RequestedTarget: Sendable, Equatable {
        public enum Kind: String, Sendable { case name, keyword }
        public var kind: Kind
        /// A keyword is without its `@`.
        public var text: String

        public init(kind: Kind, text: String) {
            self.kind = kind
            self.text = text
        }

        /// A target as requested: `@default`, `work`, …
        public init(requested: String) {
            if requested.hasPrefix("@") {
                self.init(kind: .keyword, text: String(requested.dropFirst()))
            } else {
                self.init(kind: .name, text: requested)
            }
        }
    }

    /// `service[+argument]` as it was called.
    public var descriptor: String
    public var source: String
    public var requestedTarget: RequestedTarget?

    public init(descriptor: String, source: String, requestedTarget: RequestedTarget? = nil) {
        self.descriptor = descriptor
        self.source = source
        self.requestedTarget = requestedTarget
    }

    /// Takes the words after `QUBESRPC ` apart: two or four, single blanks between them.
    public init(words: String) throws(ProtocolError) {
        let parts = words.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 2 || parts.count == 4, parts.allSatisfy({ !$0.isEmpty }) else {
            throw .badText(field: "command", reason: "has not 2 or 4 words after QUBESRPC")
        }
        descriptor = parts[0]
        source = parts[1]
        guard parts.count == 4 else {
            requestedTarget = nil
            try checkDescriptor()
            return
        }
        guard let kind = RequestedTarget.Kind(rawValue: parts[2]) else {
            throw .badText(field: "target type", reason: "is neither name nor keyword")
        }
        requestedTarget = RequestedTarget(kind: kind, text: parts[3])
        try checkDescriptor()
    }

    private func checkDescriptor() throws(ProtocolError) {
        guard descriptor.utf8.count <= Limits.serviceDescriptor else {
            throw .tooLong(length: descriptor.utf8.count, limit: Limits.serviceDescriptor)
        }
        guard (1...Limits.serviceName).contains(service.utf8.count) else {
            throw .badText(field: "service", reason: "has not 1 to 255 bytes")
        }
        // A slash would leave the service directories.
        guard descriptor.utf8.allSatisfy({ $0 != 0x2F && $0 > 0x20 && $0 < 0x7F }) else {
            throw .badText(field: "service", reason: "has a forbidden character")
        }
    }

    /// The service's name without its argument.
    public var service: String {
        String(descriptor.prefix { $0 != "+" })
    }

    /// The argument, maybe empty; nil when the call has no `+`.
    public var argument: String? {
        guard let plus = descriptor.firstIndex(of: "+") else { return nil }
        return String(descriptor[descriptor.index(after: plus)...])
    }

    /// What follows `QUBESRPC `; also what a socket service is told, with a NUL behind it.
    public var words: String {
        var text = "\(descriptor) \(source)"
        if let target = requestedTarget { text += " \(target.kind.rawValue) \(target.text)" }
        return text
    }
}

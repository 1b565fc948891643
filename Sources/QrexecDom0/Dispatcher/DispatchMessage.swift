import QrexecProtocol
import QrexecRuntime
public import Vchan

/// A message between a confined daemon and the dispatcher, over a socket pair that keeps message
/// boundaries: a word, then `key=value` lines. Descriptors go with it.
///
/// | from the daemon | fields | |
/// |---|---|---|
/// | `channel` | id, port | connect me to this port of my qube |
/// | `listen` | | my agent is connected: where I listen for local clients |
/// | `unlisten` | | it is gone |
/// | `call` | id, target, service, claimed (where the qube's message has it) | my qube asks |
/// | `end` | id | the caller has ended, or nobody waits for the answer any more |
///
/// | to the daemon | fields, descriptors | |
/// |---|---|---|
/// | `channel` | id, transport, numbers; what the channel is made of | or reason |
/// | `listen` | the listening socket | or reason |
/// | `refused` | id, outcome (denied, failed), reason, times, rule | |
/// | `reached` | id, target, times, rule; the connection to the target's daemon | |
/// | `dom0` | id, kind (program, socket, none), status, client-eof, service-eof, times, rule; input and output | |
/// | `status` | id, status | a program of dom0 has ended |
public struct DispatchMessage: Equatable {
    /// The longest: a request with the longest service.
    static let maximumLength = Limits.serviceDescriptor + 2048
    static let maximumDescriptors = HandedChannel.maximumDescriptors
    private static let maximumFields = 12

    public let word: String
    private var fields: [String: String] = [:]

    public struct Malformed: Error, CustomStringConvertible {
        public let description: String
    }

    init(_ word: String, _ fields: KeyValuePairs<String, String?> = [:]) {
        self.word = word
        for (key, value) in fields {
            if let value { self.fields[key] = LogText.printable(value) }
        }
    }

    /// Reads what the other end sent.
    public init(_ bytes: [UInt8]) throws(Malformed) {
        guard bytes.allSatisfy({ $0 == 0x0A || (0x20...0x7E).contains($0) }) else {
            throw Malformed(description: "a message with a byte that is not printable ASCII")
        }
        let lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false)
        guard lines.count <= Self.maximumFields + 1, !lines[0].isEmpty else {
            throw Malformed(description: "a message without a word or with too many fields")
        }
        word = String(decoding: lines[0], as: UTF8.self)
        for line in lines.dropFirst() {
            guard let equals = line.firstIndex(of: 0x3D) else {
                throw Malformed(description: "a line without '='")
            }
            let key = String(decoding: line[..<equals], as: UTF8.self)
            let value = String(decoding: line[(equals + 1)...], as: UTF8.self)
            guard fields.updateValue(value, forKey: key) == nil else {
                throw Malformed(description: "a field twice")
            }
        }
    }

    public var bytes: [UInt8] {
        var text = word
        for (key, value) in fields { text += "\n\(key)=\(value)" }
        return Array(text.utf8)
    }

    subscript(_ key: String) -> String? { fields[key] }

    mutating func set(_ key: String, _ value: String) { fields[key] = LogText.printable(value) }

    /// Throws when there is another field than these.
    func only(_ keys: Set<String>) throws(Malformed) {
        guard keys.isSuperset(of: fields.keys) else {
            throw Malformed(description: "a field that '\(word)' does not have")
        }
    }

    func text(_ key: String) throws(Malformed) -> String {
        guard let value = fields[key] else {
            throw Malformed(description: "'\(word)' without '\(key)'")
        }
        return value
    }

    func number(_ key: String) throws(Malformed) -> UInt32 {
        guard let value = UInt32(try text(key)) else {
            throw Malformed(description: "'\(key)' of '\(word)' is no number")
        }
        return value
    }
}

/// A confined daemon's question for a channel. The domain is not its to say: it is the one that the
/// starter registered it for.
public struct ChannelWords: Equatable {
    let id: UInt32
    /// The control port or a data port; nothing else is offered to dom0 for qrexec.
    public let port: Port

    public init(_ message: DispatchMessage) throws(DispatchMessage.Malformed) {
        try message.only(["id", "port"])
        id = try message.number("id")
        let number = try message.number("port")
        guard message.word == "channel",
            number == Limits.controlPort || Limits.isDataPort(number), let port = Port(number)
        else { throw DispatchMessage.Malformed(description: "port \(number) is no qube's") }
        self.port = port
    }
}

/// A request as a confined daemon sends it, checked again: the daemon may be its qube's by now.
public struct CallWords: Equatable {
    let id: UInt32
    public let target: String
    public let service: String
    /// nil where the qube's message has no field for it.
    public let claimed: String?

    public init(_ message: DispatchMessage) throws(DispatchMessage.Malformed) {
        try message.only(["id", "target", "service", "claimed"])
        id = try message.number("id")
        target = try message.text("target")
        service = try message.text("service")
        claimed = message["claimed"]
        guard message.word == "call", service.utf8.allSatisfy(Names.isServiceCharacter),
            !service.isEmpty, service.utf8.first != 0x2B,
            service.utf8.count <= Limits.serviceDescriptor,
            target.utf8.allSatisfy(Names.isTargetCharacter),
            (claimed ?? "").utf8.allSatisfy(Names.isTargetCharacter),
            max(target.utf8.count, claimed?.utf8.count ?? 0) <= Limits.targetName
        else { throw DispatchMessage.Malformed(description: "a request that was not checked") }
    }
}

/// One event of `admin.Events` (section 14).
struct QubesdEvent: Equatable {
    /// The qube, or empty for dom0's own.
    let subject: String
    let name: String

    /// What an event says about system information.
    enum Effect {
        case none
        /// Only whether qubes run: decisions may go on with what is known until it is fetched.
        case power
        /// Which qubes there are, what they are called, or what rules can see of them.
        case identity
    }

    var effect: Effect {
        for prefix in Self.irrelevant where name.hasPrefix(prefix) { return .none }
        if name == "connection-established" { return .none }
        return Self.power.contains(name) ? .power : .identity
    }

    private static let irrelevant = [
        "device-", "domain-pre-", "property-pre-", "domain-feature-pre-", "domain-init",
        "firewall-",
        "domain-qdb-", "domain-backup", "backup-", "domain-verify-files", "domain-is-fully-usable",
        "template-postinstall", "vm-stats", "domain-load", "pool-",
    ]

    private static let power: Set<String> = [
        "domain-spawn", "domain-start", "domain-start-failed", "domain-stopped", "domain-shutdown",
        "domain-shutdown-failed", "domain-paused", "domain-unpaused", "domain-unpaused-failed",
    ]
}

/// Cuts the answer to `admin.Events` into events: `1` NUL, then for each its subject, its name and
/// pairs of key and value, each ended by NUL, and an empty key. The reference repeats `1` NUL before
/// each event; no qube has that name.
struct QubesdEventParser {
    struct Malformed: Error {}

    private static let header = [UInt8(ascii: "1"), 0]

    private var buffer: [UInt8] = []
    private var hasHeader = false

    /// More for one event is refused.
    static let maximumSize = 1 << 20

    /// Takes bytes and gives the events that are complete.
    mutating func parse(_ bytes: ArraySlice<UInt8>) throws(Malformed) -> [QubesdEvent] {
        buffer.append(contentsOf: bytes)
        var events: [QubesdEvent] = []
        var start = 0
        if !hasHeader {
            if buffer.count < 2 { return [] }
            guard buffer.starts(with: Self.header) else { throw Malformed() }
            hasHeader = true
            start = Self.header.count
        }
        while let (event, end) = next(from: start) {
            events.append(event)
            start = end
        }
        buffer.removeFirst(start)
        if buffer.count > Self.maximumSize { throw Malformed() }
        return events
    }

    private func next(from start: Int) -> (QubesdEvent, Int)? {
        var position = start
        if buffer[position...].starts(with: Self.header) { position += Self.header.count }
        guard let subject = field(&position), let name = field(&position) else { return nil }
        while true {
            guard let key = field(&position) else { return nil }
            if key.isEmpty { break }
            if field(&position) == nil { return nil }
        }
        let event = QubesdEvent(
            subject: String(decoding: subject, as: UTF8.self),
            name: String(decoding: name, as: UTF8.self))
        return (event, position)
    }

    private func field(_ position: inout Int) -> ArraySlice<UInt8>? {
        guard let end = buffer[position...].firstIndex(of: 0) else { return nil }
        defer { position = end + 1 }
        return buffer[position..<end]
    }
}

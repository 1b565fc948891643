/// What a source, target or redirect field of a rule says (section 12.3).
struct Token: Sendable, Hashable {
    enum Kind: UInt8, Sendable {
        /// `*`
        case everything
        /// `@anyvm`
        case anyQube
        /// `@adminvm`, `dom0` and dom0's uuid
        case adminQube
        /// `@default`
        case `default`
        /// `@dispvm`
        case disposable
        /// a name or `uuid:…`
        case qube
        /// `@dispvm:NAME`
        case disposableOf
        /// `@dispvm:@tag:TAG`
        case disposableOfTag
        /// `@tag:TAG`
        case tag
        /// `@type:CLASS`
        case type
    }

    let kind: Kind
    /// What follows the keyword, or the name; of the other kinds the text as it was written.
    let symbol: Int32
}

/// Where a token stands; not every token may stand everywhere.
public enum TokenPlace: Sendable {
    case source
    case target
    case redirect
    /// What a qube asks for.
    case request
}

/// dom0's uuid with its prefix, another spelling of dom0.
let adminUUID = "uuid:00000000-0000-0000-0000-000000000000"

/// How a text reads as a token: its kind and where its symbol begins.
struct TokenShape {
    let kind: Token.Kind
    let prefix: Int
}

/// Reads a text as a token, without regard to its place.
///
/// - Returns: nil when it is none.
func readToken(_ text: Span<UInt8>) -> TokenShape? {
    if text.isEmpty { return nil }
    if text[0] != UInt8(ascii: "@") {
        if text.count == 1, text[0] == UInt8(ascii: "*") {
            return TokenShape(kind: .everything, prefix: 0)
        }
        let isAdmin = text.isEqual("dom0") || text.isEqual(adminUUID)
        return TokenShape(kind: isAdmin ? .adminQube : .qube, prefix: 0)
    }
    if text.isEqual("@anyvm") { return TokenShape(kind: .anyQube, prefix: 0) }
    if text.isEqual("@adminvm") { return TokenShape(kind: .adminQube, prefix: 0) }
    if text.isEqual("@default") { return TokenShape(kind: .default, prefix: 0) }
    if text.isEqual("@dispvm") { return TokenShape(kind: .disposable, prefix: 0) }
    let shape: TokenShape
    if text.starts(with: "@dispvm:@tag:") {
        shape = TokenShape(kind: .disposableOfTag, prefix: 13)
    } else if text.starts(with: "@dispvm:") {
        shape = TokenShape(kind: .disposableOf, prefix: 8)
    } else if text.starts(with: "@tag:") {
        shape = TokenShape(kind: .tag, prefix: 5)
    } else if text.starts(with: "@type:") {
        shape = TokenShape(kind: .type, prefix: 6)
    } else {
        return nil
    }
    if text.count == shape.prefix || text[shape.prefix] == UInt8(ascii: "@") { return nil }
    return shape
}

extension Token.Kind {
    /// Whether a token of this kind may stand there (table of section 12.3).
    func isAllowed(in place: TokenPlace) -> Bool {
        switch self {
        case .qube, .adminQube, .disposableOf: true
        case .everything, .anyQube, .tag, .type, .disposableOfTag:
            place == .source || place == .target
        case .default: place == .target || place == .request
        case .disposable: place != .source
        }
    }
}

extension Span<UInt8> {
    /// Whether these are the bytes of an ASCII text; compares without allocating.
    func isEqual(_ text: String) -> Bool {
        count == text.utf8.count && starts(with: text)
    }

    func starts(with text: String) -> Bool {
        if count < text.utf8.count { return false }
        var index = 0
        for byte in text.utf8 {
            if self[index] != byte { return false }
            index += 1
        }
        return true
    }
}

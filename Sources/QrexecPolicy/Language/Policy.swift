/// What a rule says is to be done.
public enum PolicyAction: String, Sendable {
    case allow
    case ask
    case deny
}

/// A file that rules were read from.
public struct PolicyFile: Sendable, Hashable {
    /// Where it was read.
    public let path: String
    /// Its path below the policy directory, or the whole one when it is elsewhere.
    public let display: String

    public init(path: String, display: String) {
        self.path = path
        self.display = display
    }
}

/// One rule as it was parsed (section 12.2), with its texts as symbols of its policy.
struct Rule: Sendable {
    /// `SymbolTable.none` is `*`.
    var service: Int32
    /// With its `+`; `SymbolTable.none` is `*`.
    var argument: Int32
    var source: Token
    var target: Token
    var action: PolicyAction
    var notify: Bool
    var autostart = true
    /// `target=`
    var redirect: Token?
    /// `default_target=`
    var defaultTarget: Token?
    /// `user=`, or `SymbolTable.none`.
    var user = SymbolTable.none
    var file: Int32
    /// Counted from 1; 0 for a rule that no line says (`!compat-4.0`).
    var line: Int32
}

/// All rules of a set of policy files, in the order in which they decide: the first match wins.
public struct Policy: Sendable {
    var symbols = SymbolTable()
    var rules: [Rule] = []
    /// Files that were read, in order, also those without a rule.
    public internal(set) var files: [PolicyFile] = []
    /// Directories that were read; a change in one of them can change the policy.
    public internal(set) var directories: [String] = []

    init() {}

    public var ruleCount: Int { rules.count }
}

/// Where a rule stands.
public struct RuleLocation: Sendable, Hashable {
    public let file: PolicyFile
    /// Counted from 1; 0 for a rule that `!compat-4.0` adds by itself.
    public let line: Int
}

/// A rule as text, for tools that show or compare rules.
public struct RuleDescription: Sendable {
    public let location: RuleLocation
    public let service: String
    /// `*`, or with its `+`.
    public let argument: String
    public let source: String
    public let target: String
    public let action: PolicyAction
    public let redirect: String?
    public let defaultTarget: String?
    public let user: String?
    public let autostart: Bool
    public let notify: Bool

    /// The rule as a line of a policy file; parameters with their default value are left out.
    public var text: String {
        var text = "\(service) \(argument) \(source) \(target) \(action.rawValue)"
        if let redirect { text += " target=\(redirect)" }
        if let defaultTarget { text += " default_target=\(defaultTarget)" }
        if let user { text += " user=\(user)" }
        if !autostart { text += " autostart=no" }
        if notify != (action == .deny) { text += " notify=\(notify ? "yes" : "no")" }
        return text
    }
}

extension Policy {
    public func location(of rule: Int) -> RuleLocation {
        RuleLocation(file: files[Int(rules[rule].file)], line: Int(rules[rule].line))
    }

    public func description(of rule: Int) -> RuleDescription {
        let entry = rules[rule]
        return RuleDescription(
            location: location(of: rule),
            service: entry.service < 0 ? "*" : symbols.text(entry.service),
            argument: entry.argument < 0 ? "*" : symbols.text(entry.argument),
            source: text(of: entry.source), target: text(of: entry.target), action: entry.action,
            redirect: entry.redirect.map { text(of: $0) },
            defaultTarget: entry.defaultTarget.map { text(of: $0) },
            user: entry.user < 0 ? nil : symbols.text(entry.user),
            autostart: entry.autostart, notify: entry.notify)
    }

    func text(of token: Token) -> String {
        let text = symbols.text(token.symbol)
        return switch token.kind {
        case .disposableOf: "@dispvm:" + text
        case .disposableOfTag: "@dispvm:@tag:" + text
        case .tag: "@tag:" + text
        case .type: "@type:" + text
        case .everything, .anyQube, .adminQube, .default, .disposable, .qube: text
        }
    }
}

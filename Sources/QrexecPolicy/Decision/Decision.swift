/// Where a call is to go, in terms of the qubes of one moment.
public struct CallTarget: Sendable, Hashable {
    public enum Kind: UInt8, Sendable {
        case adminQube
        case qube
        /// `@default`: nothing was named, or a qube that does not exist.
        case `default`
        /// `@dispvm`
        case disposable
        /// `@dispvm:QUBE`
        case disposableOf
    }

    /// How it was written; the answer keeps that.
    public enum Spelling: UInt8, Sendable {
        case name
        case uuid
        /// `@adminvm`
        case keyword
    }

    public let kind: Kind
    public let spelling: Spelling
    /// The qube's place in the system information; -1 where none is meant.
    public let qube: Int32

    init(_ kind: Kind, qube: Int32 = -1, spelling: Spelling = .name) {
        self.kind = kind
        self.spelling = spelling
        self.qube = qube
    }

    static let nowhere = CallTarget(.default)
}

/// Why a call is denied, or `.none`.
public enum DenialReason: UInt8, Sendable {
    case none
    case unknownSource
    case badTarget
    case badDisposable
    case badRelay
    case noRule
    case deniedByRule
    case noTarget
    case noDefaultDisposable
    case notRunning
    case loopback
    case incompleteRemote
    case nothingToChoose
    case deniedByUser
    case badAnswer
    case noPrompt
    case tooManyPrompts
    case changedMeanwhile

    /// What the log and tools say.
    public var text: String {
        switch self {
        case .none: "not denied"
        case .unknownSource: "the calling qube is not known"
        case .badTarget: "no qube can be called by that target"
        case .badDisposable: "no disposable can be made of that qube"
        case .badRelay: "the calling qube is no relay of the source it names"
        case .noRule: "no matching rule"
        case .deniedByRule: "denied by policy"
        case .noTarget: "the target does not exist or was not given"
        case .noDefaultDisposable: "the source has no default disposable template"
        case .notRunning: "the target is not running and autostart=no"
        case .loopback: "a qube cannot call itself"
        case .incompleteRemote: "the remote qube has no relay or no transport"
        case .nothingToChoose: "no target is left to ask about"
        case .deniedByUser: "denied by the user"
        case .badAnswer: "the prompt gave no valid answer"
        case .noPrompt: "there is nobody to ask"
        case .tooManyPrompts: "too many calls to ask about"
        case .changedMeanwhile: "policy or qubes changed while somebody was asked"
        }
    }

    /// Whether the request itself is at fault, and no rule was looked at.
    public var isInvalidRequest: Bool {
        switch self {
        case .unknownSource, .badTarget, .badDisposable, .badRelay: true
        default: false
        }
    }
}

/// What is to be asked when a rule says `ask` (section 12.6).
public final class Question: Sendable {
    /// Targets to choose from, sorted; names, never uuids, unless the rule's `target=` has one.
    public let targets: [String]
    /// The one that is preselected.
    public let defaultTarget: String?
    /// Set when the rule's `default_target=` is not among the targets.
    public let isDefaultMissing: Bool

    init(targets: [String], defaultTarget: String?, isDefaultMissing: Bool) {
        self.targets = targets
        self.defaultTarget = defaultTarget
        self.isDefaultMissing = isDefaultMissing
    }
}

/// What policy says about one request.
public struct Decision: Sendable {
    public internal(set) var outcome: PolicyAction
    public internal(set) var reason: DenialReason
    /// Whether people are told.
    public internal(set) var notify: Bool
    /// The rule that decided, or -1.
    public internal(set) var rule: Int32 = -1
    /// The qube that counts as source, or -1 when it is not known.
    public internal(set) var source: Int32
    /// Whether the source was named by its relay.
    public internal(set) var isRelayed = false
    /// What was asked for, verified.
    public internal(set) var requested = CallTarget.nowhere
    /// Where an allowed call goes; for a remote qube that qube, not its relay.
    public internal(set) var target = CallTarget.nowhere
    /// Present when the outcome is `ask`.
    public internal(set) var question: Question?

    /// This decision with the question, or the denial for want of one, of another call of the same
    /// source to the same service that the same rule decides.
    public func asking(as other: Decision) -> Decision {
        var decision = other
        decision.requested = requested
        return decision
    }
}

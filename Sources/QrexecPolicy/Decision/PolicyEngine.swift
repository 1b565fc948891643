/// A policy and the qubes of one moment, ready to decide.
///
/// Deciding allocates nothing when the outcome is allow or deny, and does not walk the rules.
public struct PolicyEngine: Sendable {
    public let policy: Policy
    public private(set) var system: SystemInformation
    let index: RuleIndex
    private(set) var binding: Binding
    private let emptyArgument: Int32
    private var cache = DecisionCache()

    /// Compiles a policy.
    public init(_ policy: Policy, _ system: SystemInformation) {
        self.policy = policy
        self.system = system
        index = RuleIndex(policy.rules, symbols: policy.symbols.count)
        binding = Binding(policy, system, index)
        emptyArgument = policy.symbols.find("+")
    }

    /// Takes over a change of the qubes; the compiled rules stay.
    public mutating func update(_ system: SystemInformation) {
        self.system = system
        binding = Binding(policy, system, index)
        cache = DecisionCache()
    }

    /// Decides one request (sections 12.4 and 12.6).
    ///
    /// - Parameters:
    ///   - source: name or `uuid:UUID` of the calling qube.
    ///   - target: what it asks for; empty counts as `@default`.
    ///   - service: the service, with its argument after a `+` if it has one.
    ///   - claimedSource: the remote qube that a relay speaks for; empty for none.
    ///   - asking: whether the question of an `ask` is made, and a call denied where there is
    ///     nothing to choose from. The question depends on service, source and rule only, so those
    ///     who decide very many calls make it once.
    public func decide(
        source: Span<UInt8>, target: Span<UInt8>, service: Span<UInt8>, claimedSource: Span<UInt8>,
        asking: Bool = true
    ) -> Decision {
        var decision = Decision(
            outcome: .deny, reason: .noRule, notify: true,
            source: findSource(source))
        if decision.source < 0 { return denied(decision, .unknownSource) }
        if !claimedSource.isEmpty {
            let remote = findSource(claimedSource)
            guard remote >= 0, system.qubes[Int(remote)].type == "RemoteVM",
                system.relays[Int(remote)] == decision.source
            else { return denied(decision, .badRelay) }
            decision.source = remote
            decision.isRelayed = true
        }
        var reason = DenialReason.none
        decision.requested = requestedTarget(target, &reason)
        if reason != .none { return denied(decision, reason) }
        let groups = groups(of: service)
        let found = firstRule(groups, decision)
        decision.rule = found.number
        if found.number < 0 { return decision }
        decision.notify = found.notify
        switch found.action {
        case .deny:
            return denied(decision, .deniedByRule, notify: found.notify)
        case .allow:
            var target = decision.requested
            if found.hasRedirect, let token = policy.rules[Int(found.number)].redirect {
                target = resolve(token)
            }
            return allowed(decision, autostart: found.autostart, target)
        case .ask:
            if !asking {
                decision.outcome = .ask
                return decision
            }
            return asked(decision, policy.rules[Int(found.number)], groups)
        }
    }

    public func decide(
        source: String, target: String, service: String, claimedSource: String = ""
    ) -> Decision {
        let source = Array(source.utf8)
        let target = Array(target.utf8)
        let service = Array(service.utf8)
        let claimed = Array(claimedSource.utf8)
        return decide(
            source: source.span, target: target.span, service: service.span,
            claimedSource: claimed.span)
    }

    private func findSource(_ name: Span<UInt8>) -> Int32 {
        name.isEqual("@adminvm") ? system.adminQube : system.find(name)
    }

    func denied(
        _ decision: Decision, _ reason: DenialReason, notify: Bool = true
    ) -> Decision {
        var decision = decision
        decision.outcome = .deny
        decision.reason = reason
        decision.notify = notify
        decision.question = nil
        return decision
    }

    /// Reads what a qube asks for; a qube that does not exist is `@default`, so that nobody learns
    /// from the outcome which qubes exist (section 12.4).
    func requestedTarget(
        _ text: Span<UInt8>, _ reason: inout DenialReason
    ) -> CallTarget {
        if text.isEmpty { return .nowhere }
        guard let shape = readToken(text), shape.kind.isAllowed(in: .request) else {
            reason = .badTarget
            return .nowhere
        }
        switch shape.kind {
        case .default: return .nowhere
        case .disposable: return CallTarget(.disposable)
        case .adminQube:
            return CallTarget(.adminQube, qube: system.adminQube, spelling: spelling(text))
        case .disposableOf:
            let name = text.extracting(droppingFirst: shape.prefix)
            let qube = system.find(name)
            guard qube >= 0, system.qubes[Int(qube)].isDisposableTemplate else {
                reason = .badDisposable
                return .nowhere
            }
            return CallTarget(.disposableOf, qube: qube, spelling: spelling(name))
        default:
            let qube = system.find(text)
            if qube < 0 { return .nowhere }
            return CallTarget(.qube, qube: qube, spelling: spelling(text))
        }
    }

    private func spelling(_ text: Span<UInt8>) -> CallTarget.Spelling {
        if text[0] == UInt8(ascii: "@") { return .keyword }
        return text.starts(with: "uuid:") ? .uuid : .name
    }

    /// The redirect of a rule; a qube that does not exist is `@default`, a disposable template that
    /// does not exist has no qube.
    private func resolve(_ token: Token) -> CallTarget {
        let qube = binding.qubeOfSymbol[Int(token.symbol)]
        let text = policy.symbols[token.symbol]
        let spelling: CallTarget.Spelling =
            text.count == 41 && text.first == UInt8(ascii: "u") ? .uuid : .name
        switch token.kind {
        case .adminQube: return CallTarget(.adminQube, qube: system.adminQube)
        case .disposable: return CallTarget(.disposable)
        case .disposableOf: return CallTarget(.disposableOf, qube: qube, spelling: spelling)
        default:
            if qube < 0 { return .nowhere }
            return CallTarget(.qube, qube: qube, spelling: spelling)
        }
    }

    /// The groups of rules for a service; a call without `+` has the empty argument.
    private func groups(of call: Span<UInt8>) -> (Int32, Int32, Int32) {
        var end = 0
        while end < call.count, call[end] != UInt8(ascii: "+") { end += 1 }
        let service = policy.symbols.find(call.extracting(first: end))
        let argument =
            end == call.count
            ? emptyArgument : policy.symbols.find(call.extracting(droppingFirst: end))
        return index.groups(service: service, argument: argument)
    }

    private func firstRule(_ groups: (Int32, Int32, Int32), _ decision: Decision) -> FoundRule {
        let key = Self.key(groups, decision)
        if let rule = cache.rule(key) { return rule }
        let sources = binding.qubes[Int(decision.source)].asSource
        let request = RuleIndex.Request(
            terms: binding.terms, sources: sources, targets: targetTerms(decision))
        let rule = index.first(groups, request)
        cache.store(key, rule)
        return rule
    }

    private static func key(
        _ groups: (Int32, Int32, Int32), _ decision: Decision
    ) -> DecisionCache.Key {
        let target = decision.requested
        // Whether there are groups of their own for the argument and for the service.
        let group =
            groups.0 >= 0 ? groups.0 << 2 | 2 : groups.1 >= 0 ? groups.1 << 2 | 1 : 0
        return DecisionCache.Key(
            group: group, source: decision.source,
            target: UInt32(target.kind.rawValue) << 28
                | (target.spelling == .keyword ? 1 << 27 : 0)
                | UInt32(target.qube + 1))
    }

    private func targetTerms(_ decision: Decision) -> Range<Int> {
        let target = decision.requested
        switch target.kind {
        case .default: return binding.defaultTarget
        case .disposable: return binding.qubes[Int(decision.source)].disposable
        case .disposableOf: return binding.qubes[Int(target.qube)].asTemplate
        case .qube: return binding.qubes[Int(target.qube)].asTarget
        case .adminQube:
            // The keyword is not looked up: it has no tags and no type (section 12.3).
            if target.spelling == .keyword || target.qube < 0 { return binding.adminKeyword }
            return binding.qubes[Int(target.qube)].asTarget
        }
    }

    // MARK: Allow

    /// Makes an allowed call's target certain, or denies (section 12.6).
    func allowed(
        _ decision: Decision, autostart: Bool, _ target: CallTarget
    ) -> Decision {
        var target = target
        switch target.kind {
        case .default: return denied(decision, .noTarget)
        case .disposable:
            let template = system.defaultDisposables[Int(decision.source)]
            if template < 0 { return denied(decision, .noDefaultDisposable) }
            // Whether disposables may be made of it is left to qubesd, as the reference does.
            target = CallTarget(.disposableOf, qube: template)
        case .disposableOf:
            guard target.qube >= 0, system.qubes[Int(target.qube)].isDisposableTemplate else {
                return denied(decision, .badDisposable)
            }
        case .adminQube, .qube: break
        }
        if !autostart && !isRunning(target) {
            return denied(decision, .notRunning, notify: decision.notify)
        }
        return finished(decision, target)
    }

    func isRunning(_ target: CallTarget) -> Bool {
        switch target.kind {
        case .adminQube: true
        case .qube: target.qube == system.adminQube || system.qubes[Int(target.qube)].isRunning
        case .default, .disposable, .disposableOf: false
        }
    }

    /// The last tests of a call whose target is certain.
    func finished(_ decision: Decision, _ target: CallTarget) -> Decision {
        // As text, like the reference: a qube that spells itself by uuid is refused only by the
        // daemon, which cannot connect a qube to itself.
        if target.qube == decision.source,
            target.kind == .adminQube || target.kind == .qube && target.spelling == .name
        {
            return denied(decision, .loopback)
        }
        if target.kind == .qube, system.qubes[Int(target.qube)].type == "RemoteVM" {
            let remote = system.qubes[Int(target.qube)]
            if system.relays[Int(target.qube)] < 0 || remote.transportService == nil {
                return denied(decision, .incompleteRemote)
            }
        }
        var decision = decision
        decision.outcome = .allow
        decision.reason = .none
        decision.target =
            target.kind == .adminQube ? CallTarget(.adminQube, qube: target.qube) : target
        decision.question = nil
        return decision
    }
}

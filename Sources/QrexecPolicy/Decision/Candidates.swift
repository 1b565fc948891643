/// What there is to choose from when a rule says `ask` (section 12.6).
extension PolicyEngine {
    /// Turns an `ask` rule into its question, or denies when nothing is left to ask about.
    func asked(
        _ decision: Decision, _ rule: Rule, _ groups: (Int32, Int32, Int32)
    ) -> Decision {
        var targets: [String]
        if let redirect = rule.redirect {
            targets = askedRedirect(redirect, rule, source: decision.source)
        } else {
            targets = collected(groups, source: decision.source)
                .filter { rule.autostart || isRunning($0) }.map { text(of: $0) }
        }
        if targets.isEmpty { return denied(decision, .nothingToChoose) }
        targets.sort(by: precedes)
        let preferred = rule.defaultTarget.flatMap { askedText($0, source: decision.source) }
        let isKnown = preferred.map { targets.contains($0) } ?? false
        var decision = decision
        decision.outcome = .ask
        decision.reason = .none
        decision.question = Question(
            targets: targets, defaultTarget: isKnown ? preferred : nil,
            isDefaultMissing: rule.defaultTarget != nil && !isKnown)
        return decision
    }

    /// The only target when the rule names one; it is not verified here, but when it is chosen.
    private func askedRedirect(_ token: Token, _ rule: Rule, source: Int32) -> [String] {
        let text = token.kind == .adminQube ? "dom0" : policy.text(of: token)
        if rule.autostart || token.kind == .adminQube { return [text] }
        let qube = binding.qubeOfSymbol[Int(token.symbol)]
        let isRunning = token.kind == .qube && qube >= 0 && system.qubes[Int(qube)].isRunning
        return isRunning ? [text] : []
    }

    /// A redirect as people see it: `@dispvm` is the source's own, dom0 has one spelling.
    private func askedText(_ token: Token, source: Int32) -> String? {
        switch token.kind {
        case .adminQube: return "dom0"
        case .disposable:
            let template = system.defaultDisposables[Int(source)]
            return template < 0 ? nil : "@dispvm:" + system.qubes[Int(template)].name
        default: return policy.text(of: token)
        }
    }

    /// All targets that rules of these groups let the source reach, dom0 last.
    private func collected(_ groups: (Int32, Int32, Int32), source: Int32) -> [CallTarget] {
        let sources = binding.qubes[Int(source)].asSource
        var rules: [Int32] = []
        for group in [groups.0, groups.1, groups.2] {
            index.collect(&rules, group: group, terms: binding.terms, sources: sources)
        }
        rules.sort()
        var set = CandidateSet(system)
        for number in rules.reversed() {
            let rule = policy.rules[Int(number)]
            set.set(
                rule.redirect ?? rule.target, policy.symbols, binding.qubeOfSymbol,
                to: rule.action != .deny)
        }
        return set.targets(source: source)
    }

    /// The targets as people are shown them: `@dispvm` is the source's own.
    public func shownTargets(of decision: Decision) -> [String] {
        (decision.question?.targets ?? []).map { target in
            target == "@dispvm"
                ? shownText(of: CallTarget(.disposable), source: decision.source) : target
        }
    }

    /// The user's answer to a question: one of its targets, then handled as allowed (section 12.6).
    public func answered(_ decision: Decision, target: String) -> Decision {
        guard let question = decision.question,
            question.targets.contains(target) || shownTargets(of: decision).contains(target)
        else { return denied(decision, .badAnswer) }
        var reason = DenialReason.none
        let bytes = Array(target.utf8)
        let chosen = requestedTarget(bytes.span, &reason)
        if reason != .none { return denied(decision, reason) }
        return allowed(
            decision, autostart: policy.rules[Int(decision.rule)].autostart, chosen)
    }

    /// The user's refusal.
    public func refused(_ decision: Decision, _ reason: DenialReason) -> Decision {
        let notify = decision.rule >= 0 && policy.rules[Int(decision.rule)].notify
        return denied(decision, reason, notify: notify)
    }

    /// Services that cannot ask count `ask` as allowed for the requested target, if that itself is
    /// among those to choose from (section 12.7).
    public func assumingYes(_ decision: Decision) -> Decision {
        guard decision.outcome == .ask, let question = decision.question else { return decision }
        let requested = decision.requested
        let spellings = [text(of: requested), shownText(of: requested, source: decision.source)]
        let target = spellings.first { question.targets.contains($0) }
        return answered(decision, target: target ?? "")
    }

    /// A target as it stands among those to choose from: by name, `@dispvm` as the source's own.
    private func shownText(of target: CallTarget, source: Int32) -> String {
        switch target.kind {
        case .default: return "@default"
        case .adminQube: return "dom0"
        case .qube: return system.qubes[Int(target.qube)].name
        case .disposableOf: return "@dispvm:" + system.qubes[Int(target.qube)].name
        case .disposable:
            let template = system.defaultDisposables[Int(source)]
            return template < 0 ? "@dispvm" : "@dispvm:" + system.qubes[Int(template)].name
        }
    }
}

/// The targets collected so far, as flags.
private struct CandidateSet {
    private let system: SystemInformation
    private var qubes: [Bool]
    private var templates: [Bool]
    private var disposable = false
    private var adminQube = false

    init(_ system: SystemInformation) {
        self.system = system
        qubes = [Bool](repeating: false, count: system.qubes.count)
        templates = qubes
    }

    /// Adds or removes all that a token stands for.
    mutating func set(
        _ token: Token, _ symbols: SymbolTable, _ qubeOfSymbol: [Int32], to isIn: Bool
    ) {
        switch token.kind {
        case .everything, .anyQube:
            for index in qubes.indices {
                if token.kind == .anyQube && index == Int(system.adminQube) { continue }
                qubes[index] = isIn
            }
            for index in templates.indices where system.qubes[index].isDisposableTemplate {
                templates[index] = isIn
            }
            disposable = isIn
        case .adminQube:
            // The keyword is an element of its own until the end, as in the reference.
            if symbols[token.symbol].first == UInt8(ascii: "@") {
                adminQube = isIn
            } else if system.adminQube >= 0 {
                qubes[Int(system.adminQube)] = isIn
            }
        case .default: break
        case .disposable: disposable = isIn
        case .qube:
            let qube = Int(qubeOfSymbol[Int(token.symbol)])
            if qube >= 0 { qubes[qube] = isIn }
        case .disposableOf:
            let qube = Int(qubeOfSymbol[Int(token.symbol)])
            if qube >= 0, system.qubes[qube].isDisposableTemplate { templates[qube] = isIn }
        case .tag, .disposableOfTag:
            let tag = symbols.text(token.symbol)
            for index in qubes.indices where system.qubes[index].tags.contains(tag) {
                if token.kind == .tag {
                    qubes[index] = isIn
                } else if system.qubes[index].isDisposableTemplate {
                    templates[index] = isIn
                }
            }
        case .type:
            let type = symbols.text(token.symbol)
            for index in qubes.indices where system.qubes[index].type == type {
                qubes[index] = isIn
            }
        }
    }

    /// What is left for a source to choose from.
    func targets(source: Int32) -> [CallTarget] {
        var qubes = qubes
        var templates = templates
        let admin = system.adminQube
        if adminQube, admin >= 0 { qubes[Int(admin)] = true }
        if disposable {
            let template = system.defaultDisposables[Int(source)]
            if template >= 0 { templates[Int(template)] = true }
        }
        qubes[Int(source)] = false
        var targets: [CallTarget] = []
        for index in qubes.indices where !system.qubes[index].isInternal {
            if qubes[index] {
                let kind: CallTarget.Kind = index == Int(admin) ? .adminQube : .qube
                targets.append(CallTarget(kind, qube: Int32(index)))
            }
            if templates[index] {
                targets.append(CallTarget(.disposableOf, qube: Int32(index)))
            }
        }
        return targets
    }
}

/// One rule that was looked at for a request.
public struct ConsideredRule: Sendable {
    /// Which field of the rule does not match.
    public enum Mismatch: String, Sendable {
        case service
        case argument
        case source
        case target
    }

    public let rule: Int
    /// nil: the rule matches and decides.
    public let mismatch: Mismatch?
}

/// A decision with how it came about. It walks the rules one by one as section 12.3 words it, apart
/// from the index that decides, so the one checks the other.
extension PolicyEngine {
    /// The rules in their order up to the one that decides, or all when none does; empty when the
    /// request was refused before any rule was looked at.
    public func consideredRules(
        for decision: Decision, service: String
    ) -> [ConsideredRule] {
        if decision.reason.isInvalidRequest { return [] }
        let plus = service.firstIndex(of: "+") ?? service.endIndex
        let name = String(service[..<plus])
        let argument = plus == service.endIndex ? "+" : String(service[plus...])
        var considered: [ConsideredRule] = []
        for number in policy.rules.indices {
            let mismatch = mismatch(
                policy.rules[number], decision, service: name, argument: argument)
            considered.append(ConsideredRule(rule: number, mismatch: mismatch))
            if mismatch == nil { break }
        }
        return considered
    }

    private func mismatch(
        _ rule: Rule, _ decision: Decision, service: String, argument: String
    ) -> ConsideredRule.Mismatch? {
        if rule.service >= 0, policy.symbols.text(rule.service) != service { return .service }
        if rule.argument >= 0, policy.symbols.text(rule.argument) != argument { return .argument }
        if !matches(source: rule.source, Int(decision.source)) { return .source }
        if !matches(target: rule.target, decision) { return .target }
        return nil
    }

    private func isAdmin(_ qube: Int) -> Bool { qube == Int(system.adminQube) }

    /// Whether a name or uuid, or a property, of a rule is that of a qube.
    private func matches(_ token: Token, _ qube: Int) -> Bool {
        let text = policy.symbols.text(token.symbol)
        let properties = system.qubes[qube]
        return switch token.kind {
        case .everything: true
        case .anyQube: !isAdmin(qube)
        case .adminQube: isAdmin(qube)
        case .qube: text == properties.name || text == properties.uuid.map { "uuid:" + $0 }
        case .tag: properties.tags.contains(text)
        case .type: properties.type == text
        case .default, .disposable, .disposableOf, .disposableOfTag: false
        }
    }

    private func matches(source token: Token, _ qube: Int) -> Bool { matches(token, qube) }

    private func matches(target token: Token, _ decision: Decision) -> Bool {
        let target = decision.requested
        if token.kind == .everything { return true }
        switch target.kind {
        case .default: return token.kind == .default || token.kind == .anyQube
        case .adminQube:
            if target.spelling == .keyword || target.qube < 0 { return token.kind == .adminQube }
            return matches(token, Int(target.qube))
        case .qube: return matches(token, Int(target.qube))
        case .disposable:
            if token.kind == .disposable || token.kind == .anyQube { return true }
            let template = Int(system.defaultDisposables[Int(decision.source)])
            return template >= 0 && matches(token, template: template, byName: true)
        case .disposableOf:
            if token.kind == .anyQube { return true }
            return matches(token, template: Int(target.qube), byName: false)
        }
    }

    private func matches(_ token: Token, template: Int, byName: Bool) -> Bool {
        let text = policy.symbols.text(token.symbol)
        let qube = system.qubes[template]
        return switch token.kind {
        case .disposableOf:
            text == qube.name || !byName && text == qube.uuid.map { "uuid:" + $0 }
        case .disposableOfTag: qube.isDisposableTemplate && qube.tags.contains(text)
        default: false
        }
    }
}

/// A rule that can never decide, and why.
public struct ShadowedRule: Sendable {
    public let rule: Int
    /// The earlier rule that matches whatever this one matches; nil when the rule itself can match
    /// no call.
    public let hiddenBy: Int?
}

extension Policy {
    /// Rules that can never decide, whatever qubes there are: an earlier rule takes all calls that
    /// they match. In the order of the policy.
    public func shadowedRules() -> [ShadowedRule] {
        let index = RuleIndex(rules, symbols: symbols.count)
        var shadowed: [ShadowedRule] = []
        for (number, rule) in rules.enumerated() {
            if rule.source.kind == .disposableOf || rule.source.kind == .disposableOfTag {
                shadowed.append(ShadowedRule(rule: number, hiddenBy: nil))
                continue
            }
            let first = firstCovering(rule, index)
            if first >= 0 && first < number {
                shadowed.append(ShadowedRule(rule: number, hiddenBy: Int(first)))
            }
        }
        return shadowed
    }

    /// The first rule that matches at least what a rule matches.
    private func firstCovering(_ rule: Rule, _ index: RuleIndex) -> Int32 {
        var terms = covers(of: rule.target).map(\.raw)
        let targets = terms.indices
        let sources = index.sources(covers(of: rule.source), &terms)
        let groups = index.groups(service: rule.service, argument: rule.argument)
        let request = RuleIndex.Request(terms: terms, sources: sources, targets: targets)
        return index.first(groups, request).number
    }

    /// The tokens that match whatever a token matches. A tag may be one of dom0's, so `@anyvm` is
    /// not known to cover it.
    private func covers(of token: Token) -> [Term] {
        let everything = Term(.everything, 0)
        switch token.kind {
        case .everything: return [everything]
        case .adminQube, .tag: return [Term(token), everything]
        case .type where symbols.text(token.symbol) == "AdminVM":
            return [Term(token), Term(.adminQube, 0), everything]
        case .type, .anyQube, .default, .disposable, .qube, .disposableOf, .disposableOfTag:
            return [Term(token), Term(.anyQube, 0), everything]
        }
    }
}

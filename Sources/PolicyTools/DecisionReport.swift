import QrexecPolicy

/// A decision as tools show it.
struct DecisionReport {
    let engine: PolicyEngine
    let decision: Decision
    let service: String

    var status: Int32 {
        switch decision.outcome {
        case .allow: ToolStatus.allow
        case .ask: ToolStatus.ask
        case .deny: ToolStatus.deny
        }
    }

    var location: RuleLocation? {
        decision.rule < 0 ? nil : engine.policy.location(of: Int(decision.rule))
    }

    var rule: RuleDescription? {
        decision.rule < 0 ? nil : engine.policy.description(of: Int(decision.rule))
    }

    /// The answer that a daemon gets, as key and value.
    var answer: [(name: String, value: JSONValue)] {
        var bytes: [UInt8] = []
        engine.appendAnswer(to: decision, service: Array(service.utf8).span, to: &bytes)
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        return lines.compactMap { line in
            let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            // What we add for the log is no part of the answer as all implementations give it.
            if parts[0] == "rule" || parts[0] == "reason" { return nil }
            return (String(parts[0]), .string(String(parts[1])))
        }
    }

    /// The form of the policy vectors.
    var json: [(name: String, value: JSONValue)] {
        var members: [(name: String, value: JSONValue)] = [
            ("decision", .string(decision.outcome.rawValue))
        ]
        switch decision.outcome {
        case .allow: members.append(("reply", .object(answer)))
        case .deny: break
        case .ask:
            let question = decision.question
            members += [
                ("targets", .array((question?.targets ?? []).map { .string($0) })),
                ("default_target", question?.defaultTarget.map { .string($0) } ?? .null),
                ("user", rule?.user.map { .string($0) } ?? .null),
                ("autostart", .bool(rule?.autostart ?? true)),
            ]
        }
        members.append(("notify", .bool(decision.notify)))
        members.append(
            (
                "rule",
                location.map {
                    .object([
                        ("file", .string($0.file.display)), ("line", .number("\($0.line)")),
                    ])
                } ?? .null
            ))
        return members
    }

    /// With the reason of a denial, which the vectors do not have.
    var fullJSON: JSONValue {
        var members = json
        if decision.outcome == .deny {
            members.append(("reason", .string(decision.reason.text)))
        }
        if let rule { members.append(("text", .string(rule.text))) }
        return .object(members)
    }

    /// What a call comes to in a few words: `allow to vault`, `ask (a, b)`, `deny`.
    var summary: String {
        switch decision.outcome {
        case .allow:
            let user = rule?.user.map { " as \($0)" } ?? ""
            return "allow to \(engine.text(of: decision.target))\(user)"
        case .ask:
            let preferred = decision.question?.defaultTarget.map { ", at first \($0)" } ?? ""
            return "ask (\((decision.question?.targets ?? []).joined(separator: ", "))\(preferred))"
        case .deny: return "deny"
        }
    }

    /// The rule that decided, for people.
    var ruleText: String {
        guard let location, let rule else { return "no rule" }
        return "\(location.file.display):\(location.line): \(rule.text)"
    }
}

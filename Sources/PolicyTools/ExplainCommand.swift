import ArgumentParser
import QrexecPolicy

/// `qubes-policy explain`: how a decision comes about.
struct ExplainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain",
        abstract: "Say what policy decides about a call, and why, rule by rule.",
        usage: "qubes-policy explain [OPTIONS] SOURCE TARGET SERVICE[+ARG]",
        discussion: "Exit status: 0 allow, 1 deny, 3 ask, 2 unusable policy, 64 usage.")

    @OptionGroup var input: PolicyInput

    @Argument(help: ArgumentHelp("The calling qube.", valueName: "SOURCE"))
    var source: String

    @Argument(help: ArgumentHelp("What it asks for; @default for nothing.", valueName: "TARGET"))
    var target: String

    @Argument(help: ArgumentHelp("The service, with its argument.", valueName: "SERVICE[+ARG]"))
    var service: String

    @Option(
        name: .customLong("requested-source"),
        help: ArgumentHelp("The remote qube that SOURCE relays for.", valueName: "QUBE"))
    var requestedSource = ""

    @Flag(help: "Leave out rules for other services.") var brief = false
    @Flag(help: "Write JSON.") var json = false

    func run() throws {
        let engine = try input.loadEngine()
        let request = CallRequest(
            source: source, target: target, service: service, requestedSource: requestedSource)
        let report = DecisionReport(
            engine: engine, decision: request.decide(engine), service: service)
        let considered = engine.consideredRules(for: report.decision, service: service)
        if json {
            writeJSON(report, considered)
        } else {
            writeText(report, request, considered)
        }
        throw ExitCode(report.status)
    }

    // MARK: Text

    private func writeText(
        _ report: DecisionReport, _ request: CallRequest, _ considered: [ConsideredRule]
    ) {
        let engine = report.engine
        Console.line("call: \(request.fullService) from \(source) to \(shownTarget)")
        if report.decision.reason.isInvalidRequest {
            Console.line("The request was refused before any rule was looked at.")
        } else {
            Console.line("  source: \(describe(qube: report.decision.sourceName(engine), engine))")
            Console.line("  target: \(describeTarget(report))")
        }
        var skipped = 0
        for entry in considered {
            if brief && entry.mismatch == .service {
                skipped += 1
                continue
            }
            let rule = engine.policy.description(of: entry.rule)
            let verdict = reason(entry, rule, report)
            Console.line("\(place(rule)): \(rule.text)")
            Console.line("    \(verdict)")
        }
        if skipped > 0 { Console.line("\(skipped) rules for other services") }
        if report.decision.rule < 0 && !considered.isEmpty {
            Console.line("No rule matches.")
        }
        Console.line(
            "decision: \(Console.outcome(report.decision.outcome.rawValue))"
                + (report.decision.outcome == .deny ? ", \(report.decision.reason.text)" : ""))
        writeOutcome(report)
    }

    private var shownTarget: String { target.isEmpty ? "@default" : target }

    private func place(_ rule: RuleDescription) -> String {
        "\(rule.location.file.display):\(rule.location.line)"
    }

    private func reason(
        _ entry: ConsideredRule, _ rule: RuleDescription, _ report: DecisionReport
    ) -> String {
        switch entry.mismatch {
        case .service: "no: the service is not \(rule.service)"
        case .argument: "no: the argument is not \(rule.argument)"
        case .source:
            "no: the source \(report.decision.sourceName(report.engine)) is not \(rule.source)"
        case .target:
            "no: the target \(report.engine.text(of: report.decision.requested)) is not "
                + rule.target
        case nil: Console.colour("matches: \(rule.action.rawValue)", .bold)
        }
    }

    private func describe(qube name: String, _ engine: PolicyEngine) -> String {
        guard let qube = engine.system.qube(named: name) else { return name }
        var text = "\(name), \(qube.type)"
        if !qube.tags.isEmpty { text += ", tags " + qube.tags.joined(separator: " ") }
        if let template = qube.defaultDisposable { text += ", disposables of \(template)" }
        return text
    }

    private func describeTarget(_ report: DecisionReport) -> String {
        let text = report.engine.text(of: report.decision.requested)
        if text == "@default" && target != "@default" && !target.isEmpty {
            return "@default, since no qube is called \(target)"
        }
        return describe(qube: text, report.engine)
    }

    private func writeOutcome(_ report: DecisionReport) {
        switch report.decision.outcome {
        case .deny: break
        case .allow:
            for (name, value) in report.answer where name != "result" {
                Console.line("  \(name): \(value.string ?? "")")
            }
        case .ask:
            Console.line("  would be asked: the target out of")
            for target in report.decision.question?.targets ?? [] {
                let isDefault = target == report.decision.question?.defaultTarget
                Console.line("    \(target)\(isDefault ? " (at first)" : "")")
            }
        }
    }

    // MARK: JSON

    private func writeJSON(_ report: DecisionReport, _ considered: [ConsideredRule]) {
        let rules: [JSONValue] = considered.filter { !brief || $0.mismatch != .service }.map {
            let rule = report.engine.policy.description(of: $0.rule)
            return .object([
                ("file", .string(rule.location.file.display)),
                ("line", .number("\(rule.location.line)")), ("text", .string(rule.text)),
                ("matches", .bool($0.mismatch == nil)),
                ("mismatch", $0.mismatch.map { .string($0.rawValue) } ?? .null),
            ])
        }
        guard case .object(var members) = report.fullJSON else { return }
        members.append(("considered", .array(rules)))
        Console.line(JSONValue.object(members).text)
    }
}

extension Decision {
    /// The name of the qube that counts as source, or nothing.
    func sourceName(_ engine: PolicyEngine) -> String {
        source < 0 ? "" : engine.system.qubes[Int(source)].name
    }
}

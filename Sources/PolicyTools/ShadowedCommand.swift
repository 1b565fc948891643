import ArgumentParser
import QrexecPolicy

/// `qubes-policy shadowed`: rules that never decide.
struct ShadowedCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "shadowed",
        abstract: "List rules that can never decide, and the rule that hides each.",
        discussion: "Exit status: 0 none, 1 some, 2 unusable policy, 64 usage.")

    @OptionGroup var input: PolicyInput

    @Flag(help: "Write JSON, one rule a line.") var json = false

    func run() throws {
        let policy = try input.loadPolicy()
        let shadowed = policy.shadowedRules()
        for entry in shadowed {
            let rule = policy.description(of: entry.rule)
            let hidden = entry.hiddenBy.map { policy.description(of: $0) }
            if json {
                writeJSON(rule, hidden)
            } else {
                Console.line("\(place(rule)): \(rule.text)")
                if let hidden {
                    Console.line("    hidden by \(place(hidden)): \(hidden.text)")
                } else {
                    Console.line("    matches no call: \(rule.source) is the source of none")
                }
            }
        }
        if !shadowed.isEmpty { throw ExitCode(1) }
    }

    private func place(_ rule: RuleDescription) -> String {
        "\(rule.location.file.display):\(rule.location.line)"
    }

    private func writeJSON(_ rule: RuleDescription, _ hidden: RuleDescription?) {
        func object(_ rule: RuleDescription) -> JSONValue {
            .object([
                ("file", .string(rule.location.file.display)),
                ("line", .number("\(rule.location.line)")), ("text", .string(rule.text)),
            ])
        }
        Console.line(
            JSONValue.object([
                ("rule", object(rule)), ("hidden_by", hidden.map(object) ?? .null),
            ]).text)
    }
}

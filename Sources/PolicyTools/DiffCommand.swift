import ArgumentParser
import QrexecPolicy

/// `qubes-policy diff`: what a change of policy changes.
struct DiffCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff",
        abstract: "List every call whose decision differs between two policy directories.",
        discussion: """
            All calls that the rules of either can tell apart are tried between all qubes. \
            Exit status: 0 none differs, 1 some do, 2 unusable policy, 64 usage.
            """)

    @Argument(help: ArgumentHelp("The policy as it is.", valueName: "DIR_A"))
    var before: String

    @Argument(help: ArgumentHelp("The policy as it would be.", valueName: "DIR_B"))
    var after: String

    @Option(
        name: .customLong("system-info"),
        help: ArgumentHelp("File with the qubes; else qubesd is asked.", valueName: "FILE"))
    var systemInformation: String?

    @Flag(help: "Write JSON, one call a line.") var json = false

    func run() throws {
        var input = PolicyInput()
        input.systemInformation = systemInformation
        input.legacy = "/etc/qubes-rpc/policy"
        input.directories = [before]
        let old = try input.loadPolicy()
        input.directories = [after]
        let new = try input.loadPolicy()
        let system = try input.loadSystem()
        let comparison = PolicyComparison(
            PolicyEngine(old, system), PolicyEngine(new, system))
        let changes = comparison.changes()
        if json {
            for change in changes { Console.line(comparison.json(change).text) }
        } else {
            Console.write(comparison.text(changes))
        }
        if !changes.isEmpty { throw ExitCode(1) }
    }
}

/// Compares two policies for the same qubes, call by call.
struct PolicyComparison {
    let old: PolicyEngine
    let new: PolicyEngine
    private let oldSweep: CallSweep
    private let newSweep: CallSweep
    private let space: CallSpace

    struct Change {
        let service: Int
        let source: Int
        let target: Int
        let old: Decision
        let new: Decision
    }

    init(_ old: PolicyEngine, _ new: PolicyEngine) {
        self.old = old
        self.new = new
        space = CallSpace([old.policy, new.policy], old.system)
        oldSweep = CallSweep(old, space)
        newSweep = CallSweep(new, space)
    }

    func changes() -> [Change] {
        var changes: [Change] = []
        for service in space.services.indices {
            for source in space.sources.indices {
                var sameQuestion: [[Int32]: Bool] = [:]
                for target in space.targets.indices {
                    let first = oldSweep.decide(
                        service: service, source: source, target: target)
                    let second = newSweep.decide(
                        service: service, source: source, target: target)
                    if first.outcome == .ask && second.outcome == .ask {
                        // As the question, whether it has changed depends on the rules only.
                        let rules = [first.rule, second.rule]
                        let isSame = sameQuestion[rules] ?? isSame(first, second)
                        sameQuestion[rules] = isSame
                        if isSame { continue }
                    } else if isSame(first, second) {
                        continue
                    }
                    changes.append(
                        Change(
                            service: service, source: source, target: target, old: first,
                            new: second))
                }
            }
        }
        return changes
    }

    private func isSame(_ first: Decision, _ second: Decision) -> Bool {
        if first.outcome != second.outcome { return false }
        switch first.outcome {
        case .deny: return true
        case .allow:
            return first.target == second.target && user(old, first) == user(new, second)
        case .ask:
            return first.question?.targets == second.question?.targets
                && first.question?.defaultTarget == second.question?.defaultTarget
                && user(old, first) == user(new, second)
        }
    }

    private func user(_ engine: PolicyEngine, _ decision: Decision) -> String? {
        engine.policy.description(of: Int(decision.rule)).user
    }

    // MARK: Output

    /// - Parameter isBrief: whether the other outcome is another one, so that the choice of an
    ///   `ask` does not matter.
    private func summary(
        _ engine: PolicyEngine, _ decision: Decision, isBrief: Bool
    ) -> String {
        switch decision.outcome {
        case .deny: return "deny"
        case .ask: if isBrief { return "ask" }
        case .allow:
            if decision.target == decision.requested, user(engine, decision) == nil {
                return "allow"
            }
        }
        return DecisionReport(engine: engine, decision: decision, service: "").summary
    }

    private func rule(_ engine: PolicyEngine, _ decision: Decision) -> String {
        DecisionReport(engine: engine, decision: decision, service: "").ruleText
    }

    /// The changes that have the same cause and the same effect.
    private struct Group: Hashable {
        let service: Int
        let before: String
        let after: String
        let oldRule: String
        let newRule: String
    }

    func text(_ changes: [Change]) -> String {
        if changes.isEmpty { return "No decision differs.\n" }
        var order: [Group] = []
        var pairs: [Group: [(String, String)]] = [:]
        for change in changes {
            let isBrief = change.old.outcome != change.new.outcome
            let group = Group(
                service: change.service, before: summary(old, change.old, isBrief: isBrief),
                after: summary(new, change.new, isBrief: isBrief), oldRule: rule(old, change.old),
                newRule: rule(new, change.new))
            if pairs[group] == nil { order.append(group) }
            pairs[group, default: []].append(
                (space.sources[change.source], space.targets[change.target]))
        }
        var text = ""
        for group in order {
            let service = space.services[group.service].shown
            text += "\(Console.colour(service, .bold)): \(group.before) → \(group.after)\n"
            text += "  before: \(group.oldRule)\n  after:  \(group.newRule)\n"
            for line in Self.compact(pairs[group]!, space) { text += "  \(line)\n" }
        }
        return text + "\(changes.count) calls differ.\n"
    }

    /// Sources with the same targets on one line.
    private static func compact(_ pairs: [(String, String)], _ space: CallSpace) -> [String] {
        var targetsOfSource: [String: Set<String>] = [:]
        for (source, target) in pairs { targetsOfSource[source, default: []].insert(target) }
        var sourcesOfTargets: [Set<String>: [String]] = [:]
        for (source, targets) in targetsOfSource {
            sourcesOfTargets[targets, default: []].append(source)
        }
        let sources = NameList(all: Set(space.sources))
        let targets = NameList(all: Set(space.targets))
        return sourcesOfTargets.map { key, value in
            "from \(sources.text(value)) to \(targets.text(key))"
        }.sorted()
    }

    func json(_ change: Change) -> JSONValue {
        let service = space.services[change.service].call
        let plus = service.firstIndex(of: "+") ?? service.endIndex
        func report(_ engine: PolicyEngine, _ decision: Decision) -> JSONValue {
            DecisionReport(engine: engine, decision: decision, service: service).fullJSON
        }
        return .object([
            ("service", .string(String(service[..<plus]))),
            ("argument", .string(String(service[plus...]))),
            ("source", .string(space.sources[change.source])),
            ("target", .string(space.targets[change.target])),
            ("before", report(old, change.old)), ("after", report(new, change.new)),
        ])
    }
}

import ArgumentParser
import Foundation
import QrexecPolicy
import QrexecRuntime

/// `qrexec-policy-graph`: what may be called, as a graph.
struct GraphTool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "qrexec-policy-graph",
        abstract: "Write a graph of the calls that policy allows, in the language of graphviz.",
        discussion: "Exit status: 0, 2 unusable policy, 64 usage.",
        version: Version.line("qrexec-policy-graph"))

    @OptionGroup var input: PolicyInput

    @Flag(help: "Also what a person would be asked about.") var includeAsk = false
    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Only calls from these qubes.", valueName: "QUBE"))
    var source: [String] = []
    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Only calls to these qubes.", valueName: "QUBE"))
    var target: [String] = []
    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Only these services.", valueName: "SERVICE[+ARG]"))
    var service: [String] = []
    @Option(help: ArgumentHelp("Write to a file.", valueName: "FILE")) var output: String?
    @Flag(help: "Leave out the names of the services.") var skipLabels = false
    @Flag(help: "Name the rule of each edge.") var fullOutput = false

    func run() throws {
        let engine = try input.loadEngine()
        let text = graph(engine)
        guard let output else { return Console.write(text) }
        try text.write(toFile: output, atomically: true, encoding: .utf8)
    }

    private struct Edge: Hashable {
        let source: String
        let target: String
        let label: String
        let isAsked: Bool
    }

    private func graph(_ engine: PolicyEngine) -> String {
        var space = CallSpace([engine.policy], engine.system)
        if !service.isEmpty { space.keepServices(service) }
        let sweep = CallSweep(engine, space)
        var edges: [Edge] = []
        var seen: Set<Edge> = []
        for (number, name) in space.sources.enumerated()
        where source.isEmpty || source.contains(name) {
            for call in space.services.indices {
                // What is asked depends on the rule, not on the target.
                var asked: Set<Int32> = []
                for target in space.targets.indices {
                    let decision = sweep.decide(service: call, source: number, target: target)
                    if decision.outcome == .ask, !asked.insert(decision.rule).inserted { continue }
                    let shown = space.services[call].shown
                    for edge in self.edges(engine, decision, name, shown)
                    where seen.insert(edge).inserted {
                        edges.append(edge)
                    }
                }
            }
        }
        var text = "digraph g {\n"
        for edge in edges {
            let colour = edge.isAsked ? "orange" : "red"
            let label = skipLabels ? "" : "label=\"\(edge.label)\" "
            text += "  \"\(edge.source)\" -> \"\(edge.target)\" [\(label)color=\(colour)];\n"
        }
        return text + "}\n"
    }

    private func edges(
        _ engine: PolicyEngine, _ decision: Decision, _ source: String, _ service: String
    ) -> [Edge] {
        var label = skipLabels ? "" : service
        if fullOutput, !skipLabels, decision.rule >= 0 {
            let location = engine.policy.location(of: Int(decision.rule))
            label += " \(location.file.display):\(location.line)"
        }
        var targets: [String] = []
        switch decision.outcome {
        case .deny: return []
        case .allow: targets = [engine.text(of: decision.target)]
        case .ask: if includeAsk { targets = decision.question?.targets ?? [] }
        }
        return targets.filter { $0 != source && (target.isEmpty || target.contains($0)) }.map {
            Edge(source: source, target: $0, label: label, isAsked: decision.outcome == .ask)
        }
    }
}

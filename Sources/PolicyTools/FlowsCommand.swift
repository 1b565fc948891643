import ArgumentParser
import Foundation
import QrexecPolicy

/// `qubes-policy flows`: which qubes reach which.
struct FlowsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "flows",
        abstract: "Show which qubes can reach which, directly and through others.",
        discussion: """
            A flow that needs a person's consent is marked with 'ask'. Exit status: 0, 2 unusable \
            policy, 64 usage; with --from and --to 1 when there is no way.
            """)

    @OptionGroup var input: PolicyInput

    @Option(help: ArgumentHelp("Only ways that begin here.", valueName: "QUBE")) var from: String?
    @Option(help: ArgumentHelp("Only ways that end here.", valueName: "QUBE")) var to: String?
    @Option(help: ArgumentHelp("Only this service.", valueName: "SERVICE")) var service: [String] =
        []
    @Flag(name: .customLong("no-ask"), help: "Leave out what needs a person's consent.")
    var noAsk = false
    @Flag(help: "Write a graph in the language of graphviz.") var dot = false
    @Flag(help: "Write JSON, one way a line.") var json = false
    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("Write to a file; .svg and .png are drawn.", valueName: "FILE"))
    var output: String?

    func run() throws {
        let engine = try input.loadEngine()
        for name in [from, to].compactMap({ $0 })
        where engine.system.qube(named: name) == nil && !name.hasPrefix("@dispvm:") {
            Console.error("there is no qube '\(name)'")
            throw ExitCode(ToolStatus.usage)
        }
        let flows = Flows(engine, services: Set(service), includingAsk: !noAsk)
        let ways = flows.ways(from: from, to: to)
        if dot || output != nil {
            try draw(flows.dot(ways))
        } else if json {
            for way in ways { Console.line(way.json.text) }
        } else {
            Console.write(Self.text(ways))
        }
        if ways.isEmpty && from != nil && to != nil { throw ExitCode(1) }
    }

    private func draw(_ graph: String) throws {
        guard let output else { return Console.write(graph) }
        guard let kind = ["svg", "png"].first(where: { output.hasSuffix("." + $0) }) else {
            try graph.write(toFile: output, atomically: true, encoding: .utf8)
            return
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/dot")
        process.arguments = ["-T" + kind, "-o", output]
        let pipe = Pipe()
        process.standardInput = pipe
        do {
            try process.run()
        } catch {
            Console.error(
                "cannot draw: /usr/bin/dot does not start; install graphviz, or use --dot")
            throw ExitCode(1)
        }
        pipe.fileHandleForWriting.write(Data(graph.utf8))
        try? pipe.fileHandleForWriting.close()
        process.waitUntilExit()
        if process.terminationStatus != 0 { throw ExitCode(1) }
    }

    private static func text(_ ways: [Flows.Way]) -> String {
        if ways.isEmpty { return "No call is allowed.\n" }
        var text = ""
        var source = ""
        for way in ways {
            if way.source != source {
                source = way.source
                text += Console.colour(source, .bold) + "\n"
            }
            text += "  → \(way.target): "
            if way.hops.count == 1 {
                text += way.hops[0].services.joined(separator: ", ") + "\n"
            } else {
                let through = way.hops.dropLast().map(\.target).joined(separator: ", ")
                text += "through \(through)\n"
                for hop in way.hops {
                    text += "      \(hop.source) → \(hop.target): "
                    text += hop.services.joined(separator: ", ") + "\n"
                }
            }
        }
        return text
    }
}

/// The graph of allowed calls: an edge from the source to where a call ends up.
struct Flows {
    struct Hop {
        let source: String
        let target: String
        /// Services that go there, with `(ask)` where a person decides.
        let services: [String]
    }

    /// The shortest way from one qube to another.
    struct Way {
        let source: String
        let target: String
        let hops: [Hop]

        var json: JSONValue {
            .object([
                ("from", .string(source)), ("to", .string(target)),
                ("direct", .bool(hops.count == 1)),
                (
                    "hops",
                    .array(
                        hops.map {
                            .object([
                                ("from", .string($0.source)), ("to", .string($0.target)),
                                ("services", .array($0.services.map { .string($0) })),
                            ])
                        })
                ),
            ])
        }
    }

    /// Source → target → service → whether a person decides.
    private var edges: [String: [String: [String: Bool]]] = [:]
    private let sources: [String]

    init(_ engine: PolicyEngine, services: Set<String>, includingAsk: Bool) {
        let space = CallSpace([engine.policy], engine.system)
        let sweep = CallSweep(engine, space)
        sources = space.sources
        for service in space.services.indices {
            let entry = space.services[service]
            let name = entry.call.prefix { $0 != "+" }
            if !services.isEmpty && !services.contains(String(name)) { continue }
            for source in space.sources.indices {
                var asked: Set<Int32> = []
                for target in space.targets.indices {
                    let decision = sweep.decide(
                        service: service, source: source, target: target)
                    switch decision.outcome {
                    case .deny: continue
                    case .allow:
                        add(
                            space.sources[source], engine.text(of: decision.target), entry.shown,
                            isAsked: false)
                    case .ask:
                        // The question depends on the rule, not on the target.
                        if !includingAsk || !asked.insert(decision.rule).inserted { continue }
                        for choice in decision.question?.targets ?? [] {
                            add(space.sources[source], choice, entry.shown, isAsked: true)
                        }
                    }
                }
            }
        }
    }

    private mutating func add(
        _ source: String, _ target: String, _ service: String, isAsked: Bool
    ) {
        if source == target { return }
        let known = edges[source]?[target]?[service]
        if known == false || known == true && isAsked { return }
        edges[source, default: [:]][target, default: [:]][service] = isAsked
    }

    private func hop(_ source: String, _ target: String) -> Hop {
        let services = edges[source]?[target] ?? [:]
        return Hop(
            source: source, target: target,
            services: services.sorted { $0.key < $1.key }.map {
                $0.key + ($0.value ? " (ask)" : "")
            })
    }

    /// The shortest way between each two qubes that there is one between.
    func ways(from: String?, to: String?) -> [Way] {
        var ways: [Way] = []
        for source in from.map({ [$0] }) ?? sources.sorted() {
            var previous: [String: String] = [:]
            var queue = [source]
            var index = 0
            while index < queue.count {
                let qube = queue[index]
                index += 1
                for next in (edges[qube] ?? [:]).keys.sorted()
                where next != source && previous[next] == nil {
                    previous[next] = qube
                    queue.append(next)
                }
            }
            for target in queue.dropFirst() where to == nil || target == to {
                var hops: [Hop] = []
                var qube = target
                while qube != source, let before = previous[qube] {
                    hops.append(hop(before, qube))
                    qube = before
                }
                ways.append(Way(source: source, target: target, hops: hops.reversed()))
            }
        }
        return ways
    }

    /// The direct edges of these ways as a graph.
    func dot(_ ways: [Way]) -> String {
        var text = "digraph flows {\n  rankdir=LR;\n  node [shape=box];\n"
        var seen: Set<String> = []
        for way in ways {
            for hop in way.hops where seen.insert(hop.source + "\n" + hop.target).inserted {
                let isAsked = hop.services.allSatisfy { $0.hasSuffix(" (ask)") }
                let shown = hop.services.prefix(6) + (hop.services.count > 6 ? ["…"] : [])
                let label = shown.joined(separator: "\\n")
                text += "  \"\(hop.source)\" -> \"\(hop.target)\" [label=\"\(label)\""
                text += isAsked ? ", style=dashed];\n" : "];\n"
            }
        }
        return text + "}\n"
    }
}

import Foundation
import LinuxSystem
import QrexecRuntime

/// All figures of `make bench-calls`, measured in rounds: each round measures its own yardsticks,
/// and ratios are medians of the rounds' ratios, so that other work of the machine, which comes and
/// goes, counts less.
struct Measurements {
    let lab: BenchLab
    var report = Report()
    private let rounds: Int
    private let calls: Int
    private let streamBytes: Int

    /// - Parameter scale: 1 takes about two minutes.
    init(_ lab: BenchLab, scale: Double) {
        self.lab = lab
        rounds = scale < 0.5 ? 1 : 3
        calls = max(64, Int(400 * scale))
        streamBytes = max(64, Int(512 * scale)) << 20
    }

    mutating func run() throws {
        memoryAtRest()
        try memoryPerCall()
        var taken: [Round] = []
        for number in 1...rounds {
            Terminal.printError("round \(number) of \(rounds) …")
            taken.append(try Round(lab, calls: calls))
        }
        yardsticks(taken)
        for figure in CallFigure.all { add(figure, taken) }
        try ruleCount()
        try streams()
    }

    private mutating func yardsticks(_ rounds: [Round]) {
        report.add("yardstick: spawn and wait of /bin/true", rounds.median { $0.unit / 1e6 }, "ms")
        report.add(
            "F: one wake-up through 12 processes", rounds.median { $0.floor / 1e6 }, "ms",
            ratio: rounds.median { $0.floor / $0.unit }, against: "yardstick")
        report.add(
            "qrexec-client-vm --version", rounds.median { $0.client / 1e6 }, "ms",
            ratio: rounds.median { $0.client / $0.unit }, against: "yardstick",
            goal: .atMost(1.6))
    }

    private mutating func add(_ figure: CallFigure, _ rounds: [Round]) {
        let load = figure.load
        let name = "\(figure.name), \(load.parallel) at a time"
        func result(_ round: Round) -> Round.Result { round.results[load]! }
        report.add(
            "\(name): p50", rounds.median { result($0).p50 / 1e6 }, "ms",
            ratio: rounds.median { result($0).p50 / $0.unit }, against: "yardstick",
            goal: figure.goal.map { goal in .atMost(rounds.median(goal.bound)) })
        report.add(
            "\(name): p99", rounds.median { result($0).p99 / 1e6 }, "ms",
            ratio: rounds.median { result($0).p99 / $0.unit }, against: "yardstick")
        report.add(
            "\(name): rate", rounds.median { result($0).rate }, "calls/s",
            goal: figure.rate.map { .atLeast($0) })
        let bad = rounds.reduce(0) { $0 + result($1).bad }
        report.add("\(name): lost or wrong", bad, "calls", goal: .atMost(0))
        if load.parallel > 1 { return }
        report.add(
            "\(name): CPU, all programs", rounds.median { result($0).cpu * 1e3 }, "ms a call",
            goal: figure.cpu.map { .atMost($0) })
        report.add(
            "\(name): processes created", rounds.median { result($0).processes }, "a call")
        report.add(
            "\(name): context switches", rounds.median { result($0).switches }, "a call")
    }

    private mutating func memoryAtRest() {
        guard let processes = try? LabProcesses(of: lab) else { return }
        let agent = lab.qube("work").agentPid ?? 0
        let rows: [(String, Int32?, Bool)] = [
            ("agent", agent, true),
            ("agent-data", processes.below(agent, named: "qrexec-agent-data")?.pid, false),
            ("daemon", lab.qube("work").daemonPid, true),
            ("policy service", processes.named("qrexec-policy-daemon").first?.pid, false),
        ]
        for (name, pid, hasGoal) in rows {
            guard let pid else { continue }
            report.add(
                "\(name) at rest: Private_Dirty",
                LabProcesses.memory(pid, "Private_Dirty") * 1024 / 1e6, "MB",
                goal: hasGoal ? .atMost(1.5) : nil)
            report.add(
                "\(name) at rest: Rss", LabProcesses.memory(pid, "Rss") * 1024 / 1e6, "MB",
                goal: hasGoal ? .atMost(5) : nil)
        }
    }

    /// What open calls add to the long-lived programs; rings are shared memory and do not count.
    private mutating func memoryPerCall() throws {
        let count = 64.0
        let before = try dirty()
        let held = try lab.start(
            "work",
            ["/usr/local/bin/calls-load", "hold", String(Int(count)), "personal", "bench.Hold"])
        guard try held.line() == "open \(Int(count))" else {
            throw Problem("calls that are kept open did not begin")
        }
        let during = try dirty()
        _ = try held.finish()
        for name in ["agent", "agent-data", "daemon"] {
            report.add(
                "\(name)s per open call: Private_Dirty",
                max(0, (during[name]! - before[name]!) / count), "KiB", goal: .atMost(64))
        }
    }

    private func dirty() throws -> [String: Double] {
        let processes = try LabProcesses(of: lab)
        let names = ["agent", "agent-data", "daemon"]
        return Dictionary(
            uniqueKeysWithValues: names.map { name in
                let all = processes.named("qrexec-\(name)")
                return (name, all.reduce(0) { $0 + LabProcesses.memory($1.pid, "Private_Dirty") })
            })
    }

    /// Rules cost nothing: the same calls with few and many, by turns.
    private mutating func ruleCount() throws {
        var times: [Int: [Double]] = [:]
        for _ in 0..<rounds + 2 {
            for rules in [50, 1000, 10_000] {
                try lab.setRules(rules)
                let load = ["calls", "1", String(calls / 2), "work", "bench.Refused", "126"]
                let result = try lab.load("work", load)[0]
                times[rules, default: []].append(result["p50"]!)
            }
        }
        for rules in [1000, 10_000] {
            let ratios = zip(times[rules]!, times[50]!).map { $0 / $1 }
            report.add(
                "refused call, \(rules) rules: p50", median(times[rules]!) / 1e6, "ms",
                ratio: median(ratios), against: "with 50 rules", goal: .atMost(1.05))
        }
        try lab.setRules(1000)
    }

    private mutating func streams() throws {
        for (direction, name) in [("out", "caller → service"), ("in", "service → caller")] {
            for count in [1, 4] {
                try stream(direction, "\(count) stream\(count > 1 ? "s" : ""), \(name)", count)
            }
        }
    }

    private mutating func stream(_ direction: String, _ name: String, _ count: Int) throws {
        var rates: [Double] = []
        var costs: [Double] = []
        var wrong = 0.0
        let agent = lab.qube("personal").agentPid ?? 0
        for _ in 0..<rounds {
            let before = try LabProcesses(of: lab).below(agent, named: "qrexec-agent-data")
            let load = [
                "streams", direction, String(count), "personal", String(streamBytes / count),
            ]
            let result = try lab.load("work", load)[0]
            let after = try LabProcesses(of: lab).below(agent, named: "qrexec-agent-data")
            let bytes = Double(streamBytes / count * count)
            rates.append(bytes / result["duration"]! * 1e3)
            let own = (after?.ownCPU ?? 0) - (before?.ownCPU ?? 0)
            costs.append((own + result["client_cpu"]! / 1e6) * Double(1 << 30) / bytes)
            wrong += result["wrong"]!
        }
        report.add("\(name): rate", median(rates), "MB/s")
        report.add("\(name): CPU of client and agent", median(costs), "s per GiB")
        report.add("\(name): not arrived as sent", wrong, "streams", goal: .atMost(0))
    }
}

extension [Round] {
    func median(_ value: (Round) -> Double) -> Double { calls_bench.median(map(value)) }
}

import BenchmarkReport
import Foundation

/// A kind of call, so many at a time.
struct Load: Hashable, Sendable {
    /// How calls-load makes them: through a client each, or by processes that live on.
    var caller = "calls"
    var target = "personal"
    var service = "bench.True"
    var status = "0"
    var parallel = 1
}

/// What a median may take: so many yardsticks, over the floor of the hops and the client's start
/// where a call has them.
struct Goal: Sendable {
    var floor = false
    var client = false
    let yardsticks: Double

    /// In yardsticks of that round.
    func bound(_ round: Round) -> Double {
        var bound = yardsticks
        if floor { bound += round.floor / round.unit }
        if client { bound += round.client / round.unit }
        return bound
    }
}

/// A kind of call and what it must reach.
struct CallFigure: Sendable {
    let name: String
    let load: Load
    var goal: Goal?
    /// Calls a second at least.
    var rate: Double?
    /// Milliseconds of CPU at most.
    var cpu: Double?

    static let all: [CallFigure] =
        [1, 8, 32].flatMap(services) + [
            CallFigure(
                name: "refused",
                load: Load(target: "work", service: "bench.Refused", status: "126"),
                goal: Goal(yardsticks: 1.9)),
            CallFigure(
                name: "refused, long-lived caller",
                load: Load(
                    caller: "long-lived", target: "work", service: "bench.Refused", status: "126"),
                goal: Goal(yardsticks: 0.3)),
            CallFigure(name: "qube to dom0", load: Load(target: "@adminvm")),
        ]

    private static func services(_ parallel: Int) -> [CallFigure] {
        let one = parallel == 1
        let many = parallel == 32
        return [
            CallFigure(
                name: "executable service", load: Load(parallel: parallel),
                goal: one ? Goal(floor: true, client: true, yardsticks: 1.3) : nil,
                rate: many ? 700 : nil, cpu: one ? 2 : nil),
            CallFigure(
                name: "socket service", load: Load(service: "bench.Socket", parallel: parallel),
                goal: one ? Goal(floor: true, client: true, yardsticks: 0.4) : nil,
                rate: many ? 900 : nil),
            CallFigure(
                name: "socket service, long-lived caller",
                load: Load(caller: "long-lived", service: "bench.Socket", parallel: parallel),
                goal: one ? Goal(floor: true, yardsticks: 0.3) : nil, rate: many ? 3000 : nil),
        ]
    }
}

/// Every kind of call, measured once, with the yardsticks of the same minute.
struct Round {
    struct Result {
        let p50: Double
        let p99: Double
        let rate: Double
        let bad: Double
        /// Seconds a call, without calls-load's own.
        let cpu: Double
        let processes: Double
        /// Of the lab's programs and of clients; a service's own are not seen.
        let switches: Double
    }

    /// Nanoseconds: spawn of /bin/true, wake-up chain, start of the client.
    let unit: Double
    let floor: Double
    let client: Double
    private(set) var results: [Load: Result] = [:]

    init(_ lab: BenchLab, _ figures: [CallFigure], calls: Int) throws {
        let before = try Self.yardsticks(lab)
        for figure in figures {
            let count = max(1, calls / 32) * 32 * (figure.load.parallel > 1 ? 2 : 1)
            results[figure.load] = try Self.measure(figure.load, count, lab)
        }
        let after = try Self.yardsticks(lab)
        unit = (before[0] + after[0]) / 2
        client = (before[1] + after[1]) / 2
        floor = (before[2] + after[2]) / 2
    }

    private static func yardsticks(_ lab: BenchLab) throws -> [Double] {
        let spawned = try lab.load(
            "work", ["spawn", "300", "/bin/true", "/usr/bin/qrexec-client-vm --version"])
        let chain = try lab.load("work", ["chain", "1000"])
        return (spawned + chain).map { $0["p50"]! }
    }

    private static func marks(_ lab: BenchLab) throws -> Double {
        var sum = 0.0
        for qube in ["dom0", "work", "personal"] {
            sum += try lab.load(qube, ["mark"])[0]["pid"]!
        }
        return sum
    }

    private static func measure(_ load: Load, _ count: Int, _ lab: BenchLab) throws -> Result {
        let marks = try marks(lab)
        let before = try LabProcesses(of: lab)
        let command = [
            load.caller, String(load.parallel), String(count), load.target, load.service,
            load.status,
        ]
        let result = try lab.load("work", command)[0]
        let after = try LabProcesses(of: lab)
        // The marks' own three processes, and calls-load with its workers.
        let own = 4.0 + (load.caller == "calls" ? 0 : Double(load.parallel))
        let calls = Double(count)
        let processes = (try Self.marks(lab) - marks - own) / calls
        let cpu = after.cpu - before.cpu - result["own_cpu"]! / 1e6
        return Result(
            p50: result["p50"]!, p99: result["p99"]!,
            rate: calls / result["duration"]! * 1e9,
            bad: result["wrong"]! + result["lost"]!, cpu: cpu / calls, processes: processes,
            switches: (after.switches - before.switches + result["child_switches"]!) / calls)
    }
}

extension [Round] {
    func median(_ value: (Round) -> Double) -> Double { BenchmarkReport.median(map(value)) }

    func addYardsticks(to report: inout Report) {
        report.add("yardstick: spawn and wait of /bin/true", median { $0.unit / 1e6 }, "ms")
        report.add(
            "F: one wake-up through 12 processes", median { $0.floor / 1e6 }, "ms",
            ratio: median { $0.floor / $0.unit }, against: "yardstick")
        report.add(
            "qrexec-client-vm --version", median { $0.client / 1e6 }, "ms", atMost: 1.6,
            ratio: median { $0.client / $0.unit }, against: "yardstick")
    }

    func add(_ figure: CallFigure, to report: inout Report) {
        let load = figure.load
        let name = "\(figure.name), \(load.parallel) at a time"
        func result(_ round: Round) -> Round.Result { round.results[load]! }
        report.add(
            "\(name): p50", median { result($0).p50 / 1e6 }, "ms",
            atMost: figure.goal.map { median($0.bound) },
            ratio: median { result($0).p50 / $0.unit }, against: "yardstick")
        report.add(
            "\(name): p99", median { result($0).p99 / 1e6 }, "ms",
            ratio: median { result($0).p99 / $0.unit }, against: "yardstick")
        report.add(
            "\(name): rate", median { result($0).rate }, "calls/s", atLeast: figure.rate)
        let bad = reduce(0) { $0 + result($1).bad }
        report.add("\(name): lost or wrong", bad, "calls", atMost: 0)
        if load.parallel > 1 { return }
        report.add(
            "\(name): CPU, all programs", median { result($0).cpu * 1e3 }, "ms a call",
            atMost: figure.cpu)
        report.add("\(name): processes created", median { result($0).processes }, "a call")
        report.add("\(name): context switches", median { result($0).switches }, "a call")
    }
}

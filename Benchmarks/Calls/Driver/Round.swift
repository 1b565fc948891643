import BenchmarkReport
import Foundation

/// A kind of call, so many at a time.
struct Load: Hashable, Sendable {
    enum Callee { case other, itself, dom0 }

    /// How calls-load makes them: through a client each, or by processes that live on.
    var caller = "calls"
    var callee = Callee.other
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
                load: Load(callee: .itself, service: "bench.Refused", status: "126"),
                goal: Goal(yardsticks: 1.9)),
            CallFigure(
                name: "refused, long-lived caller",
                load: Load(
                    caller: "long-lived", callee: .itself, service: "bench.Refused", status: "126"),
                goal: Goal(yardsticks: 0.3)),
            CallFigure(name: "qube to dom0", load: Load(callee: .dom0)),
        ]

    /// Over the socket transport, where nobody serves dom0.
    static let overSockets =
        [1, 32].flatMap(services) + all.filter { $0.load.callee == .itself }

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
        let processes: Double?
        /// Of the lab's programs and of clients; a service's own are not seen.
        let switches: Double
    }

    /// Nanoseconds: spawn of /bin/true, wake-up chain, start of the client.
    let unit: Double
    let floor: Double
    let client: Double
    private(set) var results: [Load: Result] = [:]

    init(_ place: some CallPlace, _ figures: [CallFigure], calls: Int) throws {
        let before = try Self.yardsticks(place, 300)
        for figure in figures {
            let count = max(1, calls / 32) * 32 * (figure.load.parallel > 1 ? 2 : 1)
            results[figure.load] = try Self.measure(figure.load, count, place)
        }
        let after = try Self.yardsticks(place, 300)
        unit = (before[0] + after[0]) / 2
        client = (before[1] + after[1]) / 2
        floor = (before[2] + after[2]) / 2
    }

    /// Nanoseconds: spawn of /bin/true, start of the client, wake-up chain.
    static func yardsticks(_ place: some CallPlace, _ count: Int) throws -> [Double] {
        let spawned = try place.load(
            ["spawn", String(count), "/bin/true", "\(place.client) --version"])
        let chain = try place.load(["chain", String(3 * count)])
        return (spawned + chain).map { $0["p50"]! }
    }

    static func measure(
        _ load: Load, _ count: Int, _ place: some CallPlace
    ) throws -> Result {
        let countBefore = try place.processCount()
        let before = try place.processes()
        let target =
            switch load.callee {
            case .other: place.target
            case .itself: place.caller
            case .dom0: "@adminvm"
            }
        let command = [
            load.caller, String(load.parallel), String(count), target, load.service, load.status,
        ]
        let result = try place.load(command)[0]
        let after = try place.processes()
        let calls = Double(count)
        // calls-load itself with its workers.
        let own = 1.0 + (load.caller == "calls" ? 0 : Double(load.parallel))
        let created = try place.processCount().map { ($0 - countBefore! - own) / calls }
        // The clients are no children of the place's programs.
        let clients = place is BenchLab ? -result["own_cpu"]! : result["child_cpu"]!
        return Result(
            p50: result["p50"]!, p99: result["p99"]!,
            rate: calls / result["duration"]! * 1e9,
            bad: result["wrong"]! + result["lost"]!,
            cpu: (after.cpu - before.cpu + clients / 1e6) / calls, processes: created,
            switches: (after.switches - before.switches + result["child_switches"]!) / calls)
    }
}

extension [Round] {
    func median(_ value: (Round) -> Double) -> Double { BenchmarkReport.median(map(value)) }

    func addYardsticks(_ place: String, to report: inout Report) {
        report.add("\(place)yardstick: spawn and wait of /bin/true", median { $0.unit / 1e6 }, "ms")
        report.add(
            "\(place)F: one wake-up through 12 processes", median { $0.floor / 1e6 }, "ms",
            ratio: median { $0.floor / $0.unit }, against: "yardstick")
        report.add(
            "\(place)qrexec-client-vm --version", median { $0.client / 1e6 }, "ms", atMost: 1.6,
            ratio: median { $0.client / $0.unit }, against: "yardstick")
    }

    /// - Parameter place: begins the names of the figures.
    func add(_ figure: CallFigure, _ place: String = "", to report: inout Report) {
        let load = figure.load
        let name = "\(place)\(figure.name), \(load.parallel) at a time"
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
        if result(self[0]).processes != nil {
            report.add(
                "\(name): processes created", median { result($0).processes ?? 0 }, "a call")
        }
        report.add("\(name): context switches", median { result($0).switches }, "a call")
    }
}

import BenchmarkReport
import Foundation

/// Whole calls, and the same steps in plain C: what is left of a figure is ours to save. By turns, so
/// that a busy machine is equally busy for all of them.
struct FloorMeasurements {
    let lab: BenchLab
    let settings: Settings
    /// The program; beside it, with `-dynamic` at its name, the same linked dynamically.
    let reference: String

    /// What one kind of call has cost in each turn.
    private struct Series {
        var units: [Double] = []
        var results: [Round.Result] = []

        mutating func measure(_ load: Load, _ count: Int, _ place: some CallPlace) throws {
            if load.parallel == 1 { units.append(try Round.yardsticks(place, 100)[0]) }
            results.append(try Round.measure(load, count, place))
        }

        func median(_ value: (Round.Result) -> Double) -> Double {
            BenchmarkReport.median(results.map(value))
        }

        /// Of all turns together: what children cost is told in steps of 10 ms.
        func mean(_ value: (Round.Result) -> Double) -> Double {
            results.reduce(0) { $0 + value($1) } / Double(results.count)
        }

        var bad: Double { results.reduce(0) { $0 + $1.bad } }

        var yardsticks: Double {
            BenchmarkReport.median(zip(results, units).map { $0.p50 / $1 })
        }

        func ratio(to other: Series, _ value: (Round.Result) -> Double) -> Double {
            BenchmarkReport.median(
                zip(results, other.results).map { value($0) / value($1) })
        }
    }

    private var turns: Int { settings.rounds * 2 + 1 }

    func run(_ report: inout Report) throws {
        let plain = try FloorPlace(settings, program: reference, logs: false)
        let logged = try FloorPlace(settings, program: reference, logs: true)
        let dynamic = try FloorPlace(settings, program: reference + "-dynamic", logs: false)
        try starts(plain, dynamic, &report)
        let kinds = [
            ("executable service", Load()),
            ("socket service", Load(service: "bench.Socket")),
            (
                "socket service, long-lived caller",
                Load(caller: "long-lived", service: "bench.Socket")
            ),
        ]
        for (name, load) in kinds {
            try one(name, load, plain, logged, dynamic, &report)
            try many(name, load, plain, &report)
        }
        for place in [plain, logged, dynamic] { try place.end() }
    }

    private func starts(
        _ plain: FloorPlace, _ dynamic: FloorPlace, _ report: inout Report
    ) throws {
        for (place, name) in [(plain, "static"), (dynamic, "dynamic")] {
            let times = try Round.yardsticks(place, 300)
            report.add(
                "floor, start of a \(name) client", times[1] / 1e6, "ms",
                ratio: times[1] / times[0], against: "yardstick")
        }
    }

    private func one(
        _ name: String, _ load: Load, _ plain: FloorPlace, _ logged: FloorPlace,
        _ dynamic: FloorPlace, _ report: inout Report
    ) throws {
        var (ours, floor, withLog, withLibrary) = (Series(), Series(), Series(), Series())
        let count = max(128, settings.calls)
        for _ in 0..<turns {
            try ours.measure(load, count, lab)
            try floor.measure(load, count, plain)
            try withLog.measure(load, count, logged)
            try withLibrary.measure(load, count, dynamic)
        }
        let figure = "\(name), 1 at a time"
        func add(_ place: String, _ series: Series, _ comparison: Series?) {
            let against = comparison == nil ? "yardstick" : "plain C"
            report.add(
                "\(place)\(figure): p50", series.median { $0.p50 / 1e6 }, "ms",
                ratio: comparison.map { series.ratio(to: $0, \.p50) } ?? series.yardsticks,
                against: against)
            report.add(
                "\(place)\(figure): CPU, all programs", series.mean { $0.cpu * 1e3 }, "ms a call",
                ratio: comparison.map { series.mean(\.cpu) / $0.mean(\.cpu) },
                against: comparison == nil ? nil : against)
            report.add(
                "\(place)\(figure): context switches", series.mean(\.switches), "a call",
                ratio: comparison.map { series.mean(\.switches) / $0.mean(\.switches) },
                against: comparison == nil ? nil : against)
            report.add("\(place)\(figure): lost or wrong", series.bad, "calls", atMost: 0)
        }
        add("floor, ", floor, nil)
        add("floor with log lines, ", withLog, floor)
        if load.caller == "calls" { add("floor with a dynamic client, ", withLibrary, floor) }
        add("", ours, floor)
    }

    private func many(
        _ name: String, _ load: Load, _ plain: FloorPlace, _ report: inout Report
    ) throws {
        var (ours, floor) = (Series(), Series())
        var load = load
        load.parallel = 32
        let count = max(128, settings.calls / 32 * 32) * 2
        for _ in 0..<turns {
            try ours.measure(load, count, lab)
            try floor.measure(load, count, plain)
        }
        let figure = "\(name), 32 at a time"
        report.add("floor, \(figure): rate", floor.median(\.rate), "calls/s")
        report.add("floor, \(figure): lost or wrong", floor.bad, "calls", atMost: 0)
        report.add(
            "\(figure): rate", ours.median(\.rate), "calls/s",
            ratio: ours.ratio(to: floor, \.rate), against: "plain C")
        report.add("\(figure): lost or wrong", ours.bad, "calls", atMost: 0)
    }
}

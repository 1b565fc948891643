import BenchmarkReport
import Foundation

/// The share of each stage of a call, as the programs' own log tells it.
struct StageMeasurements {
    let lab: BenchLab
    let calls: Int

    func run(_ report: inout Report) throws {
        let path = "\(lab.state)/lab.log"
        let before = LabProcesses.file(path).utf8.count
        _ = try lab.load(["calls", "1", String(calls), lab.target, "bench.True", "0"])
        usleep(300_000)
        let text = String(decoding: LabProcesses.file(path).utf8.dropFirst(before), as: UTF8.self)
        let lines = text.split(separator: "\n")
        let asked = lines.filter { $0.contains(" call source=\(lab.caller) ") }
        for (key, name) in [
            ("policy", "the decision"), ("reach", "until the target's daemon is connected"),
            ("answer", "until it has answered with the place"), ("total", "in dom0 altogether"),
        ] {
            add(name, asked.compactMap { number(key, $0) }.map { $0 * 1e3 }, &report)
        }
        let served = lines.filter {
            $0.hasPrefix("\(lab.target): ") && $0.contains(" call ended status=")
        }
        for (key, name) in [
            ("started-us", "at the target, until the service has started"),
            ("connected-us", "until the channel is connected"),
            ("ended-us", "until the service has ended and all is sent"),
        ] {
            add(name, served.compactMap { number(key, $0) }, &report)
        }
    }

    private func add(_ name: String, _ microseconds: [Double], _ report: inout Report) {
        if microseconds.isEmpty { return }
        report.add("executable service, stage: \(name)", median(microseconds), "us")
    }

    private func number(_ key: String, _ line: Substring) -> Double? {
        line.split(separator: " ").first { $0.hasPrefix(key + "=") }
            .flatMap { Double($0.dropFirst(key.count + 1)) }
    }
}

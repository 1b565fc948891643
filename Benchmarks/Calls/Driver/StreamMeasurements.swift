import BenchmarkReport
import Foundation

/// Streams through calls, against the same chain in plain C: by turns, with the same ends.
struct StreamMeasurements {
    let lab: BenchLab
    /// The program with the chain in C.
    let reference: String
    let rounds: Int
    /// Of all streams of a row together, each way.
    let bytes: Int

    private struct Sample {
        /// Bytes a second.
        let rate: Double
        /// Seconds of client and agent for each GiB.
        let cpu: Double
        let wrong: Double

        init(_ result: [String: Double], agent: Double, bytes: Double) {
            rate = bytes / result["duration"]! * 1e9
            cpu = (result["client_cpu"]! / 1e6 + agent) * Double(1 << 30) / bytes
            wrong = result["wrong"]!
        }
    }

    func run(_ report: inout Report) throws {
        let ways = [
            ("out", "caller → service"), ("in", "service → caller"), ("both", "both ways at once"),
        ]
        for (way, name) in ways {
            for count in [1, 4] {
                try measure(way, "\(count) stream\(count > 1 ? "s" : ""), \(name)", count, &report)
            }
        }
    }

    private func measure(
        _ way: String, _ name: String, _ count: Int, _ report: inout Report
    ) throws {
        let arguments = ["streams", way, String(count), String(bytes / count)]
        let total = Double(bytes / count * count * (way == "both" ? 2 : 1))
        var ours: [Sample] = []
        var plain: [Sample] = []
        for _ in 0..<rounds {
            ours.append(try call(arguments, total))
            let text = try Background.output([lab.loadProgram] + arguments + [reference])
            plain.append(Sample(BenchLab.numbers(text)[0], agent: 0, bytes: total))
        }
        func compare(_ value: (Sample) -> Double) -> Double {
            median(zip(ours, plain).map { value($0) / value($1) })
        }
        let isGoal = count == 1
        report.add(
            "\(name): rate", median(ours.map(\.rate)) / 1e6, "MB/s",
            atLeast: isGoal ? 0.85 : nil, ratio: compare(\.rate), against: "plain C")
        report.add(
            "\(name): CPU of client and agent", median(ours.map(\.cpu)), "s per GiB",
            atMost: isGoal ? 1.2 : nil, ratio: compare(\.cpu), against: "plain C")
        let wrong = (ours + plain).reduce(0) { $0 + $1.wrong }
        report.add("\(name): not arrived as sent", wrong, "streams", atMost: 0)
    }

    private func call(_ arguments: [String], _ bytes: Double) throws -> Sample {
        let agent = lab.qube("personal").agentPid ?? 0
        func cost() throws -> Double {
            try lab.processes().below(agent, named: "qrexec-agent-data")?.ownCPU ?? 0
        }
        let before = try cost()
        let result = try lab.load("work", arguments + ["personal"])[0]
        return Sample(result, agent: try cost() - before, bytes: bytes)
    }
}

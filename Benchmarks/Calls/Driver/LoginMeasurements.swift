import BenchmarkReport
import Foundation

/// Calls where the agent is root: each has a PAM session and a login shell.
struct LoginMeasurements {
    let lab: BenchLab
    /// The same session, shell and program, started by a C program.
    let reference: String
    let rounds: Int
    let calls: Int

    func run(_ report: inout Report) throws {
        let path = "/usr/local/bin/session-reference"
        try FileManager.default.copyItem(
            atPath: reference, toPath: lab.root(lab.target) + path)
        var called: [Double] = []
        var plain: [Double] = []
        var bare: [Double] = []
        var wrong = 0.0
        for _ in 0..<rounds {
            let result = try lab.load(["calls", "1", String(calls), lab.target, "bench.True", "0"])
            called.append(result[0]["p50"]!)
            wrong += result[0]["wrong"]! + result[0]["lost"]!
            let spawned = try lab.load(
                lab.target, as: "root",
                ["spawn", String(calls), "\(path) user /usr/bin/true"])
            plain.append(spawned[0]["p50"]!)
            let client = try lab.load(["spawn", String(calls), "\(lab.client) --version"])
            let hops = try lab.load(["chain", "500"])
            bare.append(client[0]["p50"]! + hops[0]["p50"]!)
        }
        let name = "executable service, agent as root with PAM and login shell"
        report.add(
            "\(name): p50", median(called) / 1e6, "ms", atMost: 1.2,
            ratio: median(zip(called, plain).map { $0 / $1 }), against: "plain C")
        report.add(
            "\(name), floor: plain C, client's start, F", median(zip(plain, bare).map(+)) / 1e6,
            "ms", ratio: median(zip(plain, bare).map { ($0 + $1) / $0 }), against: "plain C")
        report.add("\(name): lost or wrong", wrong, "calls", atMost: 0)
    }
}

import BenchmarkReport
import Foundation

/// What the long-lived programs hold; rings are shared memory and do not count.
struct MemoryMeasurements {
    let lab: BenchLab

    /// A moment after the start, of a qube that had no call so far.
    func atRest(_ report: inout Report) {
        usleep(2_500_000)
        guard let processes = try? lab.processes() else { return }
        let agent = lab.qube("vault").agentPid ?? 0
        let rows: [(String, Int32?, Bool)] = [
            ("agent", agent, true),
            ("agent-data", processes.below(agent, named: "qrexec-agent-data")?.pid, false),
            ("daemon", lab.qube("vault").daemonPid, true),
            ("policy service", processes.named("qrexec-policy-daemon").first?.pid, false),
        ]
        for (name, pid, hasGoal) in rows {
            guard let pid else { continue }
            report.add(
                "\(name) at rest: Private_Dirty",
                LabProcesses.memory(pid, "Private_Dirty") * 1024 / 1e6, "MB",
                atMost: hasGoal ? 1.5 : nil)
            report.add(
                "\(name) at rest: Rss", LabProcesses.memory(pid, "Rss") * 1024 / 1e6, "MB",
                atMost: hasGoal ? 5 : nil)
        }
    }

    /// What open calls add.
    func perCall(_ report: inout Report) throws {
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
                max(0, (during[name]! - before[name]!) / count), "KiB", atMost: 64)
        }
    }

    private func dirty() throws -> [String: Double] {
        let processes = try lab.processes()
        let names = ["agent", "agent-data", "daemon"]
        return Dictionary(
            uniqueKeysWithValues: names.map { name in
                let all = processes.named("qrexec-\(name)")
                return (name, all.reduce(0) { $0 + LabProcesses.memory($1.pid, "Private_Dirty") })
            })
    }
}

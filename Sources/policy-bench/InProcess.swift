import BenchmarkReport
import CAllocationCount
import Foundation
import LinuxSystem
import QrexecPolicy

/// Figures of the engine itself.
struct InProcess {
    private static let qubeCounts = [30, 200]
    private static let ruleCounts = [50, 1_000, 10_000, 100_000]

    static func run(_ report: inout Report, directory: String) throws {
        for qubes in qubeCounts {
            var times: [Int: Double] = [:]
            for rules in ruleCounts {
                times[rules] = try measure(
                    Workload(rules: rules, qubes: qubes), &report, directory: directory)
            }
            let growth = times[100_000]! / times[50]!
            report.add(
                "decision, 100,000 rules, \(qubes) qubes", times[100_000]!, "ns",
                atMost: qubes == 200 ? 2 : nil, ratio: growth, against: "50 rules")
        }
    }

    /// - Returns: nanoseconds a decision.
    private static func measure(
        _ workload: Workload, _ report: inout Report, directory: String
    ) throws -> Double {
        let size = "\(workload.rules) rules, \(workload.qubes) qubes"
        let isGoal = workload.rules == 10_000 && workload.qubes == 200
        let place = directory + "/policy.d"
        try? FileManager.default.removeItem(atPath: place)
        try FileManager.default.createDirectory(
            atPath: place, withIntermediateDirectories: true)
        try workload.policy.write(
            toFile: place + "/30-user.policy", atomically: false, encoding: .utf8)
        let system = try SystemInformation.read(Array(workload.systemInformation.utf8))
        let before = residentMemory
        var loads: [Double] = []
        var engine: PolicyEngine?
        for _ in 0..<7 {
            let start = CurrentProcess.now
            let result = Policy.load(PolicyDirectories([place]))
            engine = PolicyEngine(result.policy, system)
            loads.append(Double(CurrentProcess.now - start) / 1e6)
            precondition(result.isUsable, "\(result.errors)")
        }
        report.add(
            "load and compile, \(size)", median(loads), "ms",
            atMost: isGoal ? 20 : nil)
        report.add("memory of the engine, \(size)", residentMemory - before, "MB")
        let requests = workload.requests(4_096)
        let (nanoseconds, allocations) = decide(engine!, requests)
        report.add(
            "decision, \(size)", nanoseconds, "ns", atMost: isGoal ? 1_000 : nil)
        report.add(
            "allocations a decision, \(size)", allocations, "",
            atMost: isGoal ? 0 : nil)
        report.add("decision of a call that is new, \(size)", decideNew(engine!, requests), "ns")
        report.add("decisions a second, \(size)", 1e9 / nanoseconds, "1/s")
        return nanoseconds
    }

    /// The same without what the engine remembers: each round begins with a new state of qubes.
    private static func decideNew(
        _ engine: PolicyEngine, _ requests: [Workload.Request]
    ) -> Double {
        var engine = engine
        var times: [Double] = []
        for _ in 0..<7 {
            engine.update(engine.system)
            times.append(decide(engine, requests, rounds: 1).nanoseconds)
        }
        return times.min() ?? 0
    }

    private static func decide(
        _ engine: PolicyEngine, _ requests: [Workload.Request], rounds: Int = 40
    ) -> (nanoseconds: Double, allocations: Double) {
        var times: [Double] = []
        var allowed = 0
        let none: [UInt8] = []
        let allocations = allocation_count()
        var most: UInt64 = 0
        times.reserveCapacity(64)
        for _ in 0..<rounds {
            let allocated = allocation_count()
            let start = CurrentProcess.now
            for request in requests {
                let source = request.source
                let target = request.target
                let service = request.service
                let decision = engine.decide(
                    source: source.span, target: target.span, service: service.span,
                    claimedSource: none.span)
                if decision.outcome == .allow { allowed += 1 }
            }
            times.append(Double(CurrentProcess.now - start) / Double(requests.count))
            most = max(most, allocation_count() - allocated)
        }
        precondition(allowed >= 0 && allocation_count() >= allocations)
        // The fastest round: what others on the machine do only ever adds.
        return (times.min() ?? 0, Double(most) / Double(requests.count))
    }

    /// Resident memory of this process in MB.
    private static var residentMemory: Double {
        let text = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
        let pages = text.split(separator: " ").dropFirst().first.flatMap { Double($0) } ?? 0
        return pages * 4096 / 1_048_576
    }
}

import BenchmarkReport
import Foundation
import LinuxSystem
import QrexecRuntime

/// What can be measured by itself (ONLY=PART).
enum Part: String, CaseIterable {
    case memory, calls, rules, streams
}

struct Settings {
    let programs: String
    /// 1 takes some minutes.
    var scale = 1.0
    var parts = Set(Part.allCases)
    /// The chain of a stream in plain C; nil leaves streams out.
    var streamReference: String?

    var rounds: Int { scale < 0.5 ? 1 : 3 }
    var calls: Int { max(64, Int(400 * scale)) }
    var streamBytes: Int { max(64, Int(512 * scale)) << 20 }

    init(programs: String) { self.programs = programs }

    /// calls-load, beside this program.
    var load: String {
        let own = FileStatus.linkText("/proc/self/exe") ?? ""
        return own.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/calls-load"
    }

    /// Who a lab belongs to whose agents are no root: this process's own user, or when that is root
    /// the first ordinary one.
    var ordinaryUser: UserIdentity? {
        if CurrentProcess.effectiveUser != 0 { return nil }
        return UserAccount.numbered(1000)?.identity ?? UserIdentity(uid: 1000, gid: 1000, groups: [])
    }
}

/// All figures of `make bench-calls`, measured in rounds: each round measures its own yardsticks,
/// and ratios are medians of the rounds' ratios, so that other work of the machine, which comes and
/// goes, counts less.
struct Measurements {
    private let settings: Settings
    private var report = Report()

    init(_ settings: Settings) { self.settings = settings }

    consuming func run() throws -> Report {
        var measured = self
        try measured.measure()
        return measured.report
    }

    private mutating func measure() throws {
        let lab = try BenchLab(
            programs: settings.programs, load: settings.load, user: settings.ordinaryUser)
        defer { lab.down() }
        if settings.parts.contains(.memory) {
            let memory = MemoryMeasurements(lab: lab)
            memory.atRest(&report)
            try memory.perCall(&report)
        }
        if settings.parts.contains(.calls) { try calls(lab) }
        if settings.parts.contains(.rules) { try ruleCount(lab) }
        if settings.parts.contains(.streams), let reference = settings.streamReference {
            try StreamMeasurements(
                lab: lab, reference: reference, rounds: settings.rounds,
                bytes: settings.streamBytes
            ).run(&report)
        }
    }

    private mutating func calls(_ lab: BenchLab) throws {
        var rounds: [Round] = []
        for number in 1...settings.rounds {
            Terminal.printError("round \(number) of \(settings.rounds) …")
            rounds.append(try Round(lab, CallFigure.all, calls: settings.calls))
        }
        rounds.addYardsticks(to: &report)
        for figure in CallFigure.all { rounds.add(figure, to: &report) }
    }

    /// Rules cost nothing: the same calls with few and many, by turns.
    private mutating func ruleCount(_ lab: BenchLab) throws {
        var times: [Int: [Double]] = [:]
        for _ in 0..<settings.rounds + 2 {
            for rules in [50, 1000, 10_000] {
                try lab.setRules(rules)
                let load = [
                    "calls", "1", String(settings.calls / 2), "work", "bench.Refused", "126",
                ]
                let result = try lab.load("work", load)[0]
                times[rules, default: []].append(result["p50"]!)
            }
        }
        for rules in [1000, 10_000] {
            let ratios = zip(times[rules]!, times[50]!).map { $0 / $1 }
            report.add(
                "refused call, \(rules) rules: p50", median(times[rules]!) / 1e6, "ms",
                atMost: 1.05, ratio: median(ratios), against: "with 50 rules")
        }
        try lab.setRules(1000)
    }
}

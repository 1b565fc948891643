import BenchmarkReport
import Foundation
import LinuxSystem
import QrexecRuntime

/// What can be measured by itself (ONLY=PART).
enum Part: String, CaseIterable {
    case memory, calls, stages, many, floor, sockets, rules, login, streams
}

struct Settings {
    let programs: String
    /// 1 takes some minutes.
    var scale = 1.0
    var parts = Set(Part.allCases)
    /// The chain of a stream, a session and a whole call in plain C; nil leaves these parts out.
    var streamReference: String?
    var sessionReference: String?
    var callReference: String?
    /// Of the one long run; nil for as many as take some seconds.
    var manyCalls: Int?

    var rounds: Int { scale < 0.5 ? 1 : 3 }
    var calls: Int { max(64, Int(400 * scale)) }
    var streamBytes: Int { max(64, Int(512 * scale)) << 20 }

    init(programs: String) { self.programs = programs }

    /// Where this program and its fellows are.
    var built: String {
        let own = FileStatus.linkText("/proc/self/exe") ?? ""
        return own.split(separator: "/").dropLast().map { "/" + $0 }.joined()
    }

    var load: String { built + "/calls-load" }

    /// For files of the systems that are measured: in memory, as a lab's usual place is. On ext4 a
    /// socket is made slowly where many others went a moment ago.
    var place: String {
        FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : "/tmp"
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
        let lab = try BenchLab(settings, user: settings.ordinaryUser)
        defer { lab.down() }
        if settings.parts.contains(.memory) {
            let memory = MemoryMeasurements(lab: lab)
            memory.atRest(&report)
            try memory.perCall(&report)
        }
        if settings.parts.contains(.calls) {
            try calls(lab, CallFigure.all, "")
        }
        if settings.parts.contains(.stages) {
            try StageMeasurements(lab: lab, calls: settings.calls).run(&report)
        }
        if settings.parts.contains(.many) { try many(lab) }
        if settings.parts.contains(.floor), let reference = settings.callReference {
            try FloorMeasurements(lab: lab, settings: settings, reference: reference).run(&report)
        }
        if settings.parts.contains(.streams), let reference = settings.streamReference {
            try StreamMeasurements(
                lab: lab, reference: reference, rounds: settings.rounds,
                bytes: settings.streamBytes
            ).run(&report)
        }
        if settings.parts.contains(.sockets) {
            let place = try SocketPlace(settings, rules: 1000, qubes: 30)
            try calls(place, CallFigure.overSockets, "socket transport, ")
        }
        if settings.parts.contains(.rules) { try ruleCount() }
        if settings.parts.contains(.login), let reference = settings.sessionReference,
            CurrentProcess.effectiveUser == 0
        {
            let root = try BenchLab(settings, user: nil)
            defer { root.down() }
            try LoginMeasurements(
                lab: root, reference: reference, rounds: settings.rounds,
                calls: settings.calls / 4
            ).run(&report)
        }
    }

    /// One long run at 32 at a time: nothing may be lost.
    private mutating func many(_ lab: BenchLab) throws {
        let count = settings.manyCalls ?? settings.calls * 20
        let kinds = [("long-lived", 4, "long-lived callers"), ("calls", 1, "a client each")]
        for (caller, share, name) in kinds {
            let calls = count * share / 5 / 32 * 32
            let result = try lab.load(
                [caller, "32", String(calls), lab.target, "bench.Socket", "0"])[0]
            report.add(
                "\(calls) calls, 32 at a time, \(name): lost or wrong",
                result["lost"]! + result["wrong"]!, "calls", atMost: 0)
        }
    }

    private mutating func calls(
        _ place: some CallPlace, _ figures: [CallFigure], _ prefix: String
    ) throws {
        var rounds: [Round] = []
        for number in 1...settings.rounds {
            Terminal.printError("round \(number) of \(settings.rounds) …")
            rounds.append(try Round(place, figures, calls: settings.calls))
        }
        rounds.addYardsticks(prefix, to: &report)
        for figure in figures { rounds.add(figure, prefix, to: &report) }
    }

    /// Rules and qubes cost nothing: the same calls with few and many, by turns.
    private mutating func ruleCount() throws {
        let sizes: [(rules: Int, qubes: Int)] = [(50, 30), (1000, 30), (1000, 200), (10_000, 200)]
        let places = try sizes.map { try SocketPlace(settings, rules: $0.rules, qubes: $0.qubes) }
        for (kind, service, status, own) in [
            ("refused call", "bench.Refused", "126", true), ("call", "bench.Socket", "0", false),
        ] {
            var times = [[Double]](repeating: [], count: places.count)
            for _ in 0..<settings.rounds * 2 + 1 {
                for (index, place) in places.enumerated() {
                    let target = own ? place.caller : place.target
                    let result = try place.load(
                        ["calls", "1", String(settings.calls / 4), target, service, status])[0]
                    times[index].append(result["p50"]!)
                }
            }
            for (index, size) in sizes.enumerated().dropFirst() {
                report.add(
                    "\(kind), \(size.rules) rules, \(size.qubes) qubes: p50",
                    median(times[index]) / 1e6, "ms", atMost: 1.05,
                    ratio: median(zip(times[index], times[0]).map { $0 / $1 }),
                    against: "50 rules, 30 qubes")
            }
        }
    }
}

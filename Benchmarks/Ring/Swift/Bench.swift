import Glibc
import LinuxSystem
import SystemPackage

/// Measures everything in one run, ours and the others by turns: what else this machine does meets
/// all of them alike.
struct Bench: ~Copyable {
    let processes: Processes
    let rounds: Int
    let scale: Int
    private var figures: [Figure] = []
    let cores = [0, 1]

    static let usage = """
        Usage: ring-bench --reference PROGRAM [--counter LIBRARY] [--quick] [--only TEXT] [--json FILE]

        Measures the ring against the C libxenvchan over a stand-in for Xen, a bare ring, a pipe and
        a unix socket. STRICT=1 in the environment makes the exit status 1 when a goal is missed.

          --only TEXT   only the part whose name contains this: trips, pairs, allocations, streams,
                        pumps, crowded
        """

    static func main(_ arguments: [String]) throws -> Int32 {
        var (reference, counter, json): (String?, String?, String?)
        var (quick, only) = (false, "")
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            switch argument {
            case "--reference": reference = rest.popFirst()
            case "--counter": counter = rest.popFirst()
            case "--json": json = rest.popFirst()
            case "--only": only = rest.popFirst() ?? ""
            case "--quick": quick = true
            default:
                try Descriptor.writeAll(
                    Array((usage + "\n").utf8), to: argument == "--help" ? 1 : 2)
                return argument == "--help" ? 0 : 2
            }
        }
        guard let reference else { throw BenchFailure(description: usage) }
        var bench = Bench(
            processes: try Processes(reference: reference, counter: counter), rounds: quick ? 3 : 7,
            scale: quick ? 4 : 1)
        try bench.measure(only)
        if let json { try bench.writeJSON(json) }
        let missed = bench.figures.filter { $0.holds == false }.count
        let strict = CurrentProcess.variable("STRICT") == "1"
        return strict && missed > 0 ? 1 : 0
    }

    private init(processes: consuming Processes, rounds: Int, scale: Int) {
        self.processes = processes
        self.rounds = rounds
        self.scale = scale
    }

    private mutating func measure(_ only: String) throws {
        try Descriptor.writeAll(Array((Figure.heading + "\n").utf8), to: 1)
        func wants(_ part: String) -> Bool { only.isEmpty || part.contains(only) }
        if wants("trips") { try trips() }
        if wants("pairs") { try pairs() }
        if wants("allocations") { try allocations() }
        if wants("streams") { try streams() }
        if wants("pumps") { try pumps() }
        if wants("crowded") { try crowded() }
    }

    mutating func add(_ figure: Figure) throws {
        figures.append(figure)
        try Descriptor.writeAll(Array((figure.line + "\n").utf8), to: 1)
    }

    /// A figure that is compared with nothing.
    mutating func add(
        _ name: String, _ value: Double, _ unit: String, goal: Figure.Goal = .none
    ) throws {
        try add(
            Figure(name: name, value: value, unit: unit, ratio: nil, against: nil, goal: goal))
    }

    private func writeJSON(_ path: String) throws {
        func firstLine(_ file: String) -> String {
            let bytes = try? Descriptor.open(file, O_RDONLY).readAll(limit: 400)
            let text = String(decoding: bytes ?? Array("unknown".utf8), as: UTF8.self)
            return text.split(separator: "\n").first.map(String.init) ?? ""
        }
        let environment =
            "{\"environment\": {\"machine\": \"\(sysconf(Int32(_SC_NPROCESSORS_ONLN))) cores\", "
            + "\"kernel\": \"\(firstLine("/proc/version"))\", "
            + "\"load\": \"\(firstLine("/proc/loadavg"))\"}}"
        let text = "[\n" + ([environment] + figures.map(\.json)).joined(separator: ",\n") + "\n]\n"
        try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
            .writeAll(Array(text.utf8))
    }
}

/// Both sides of a comparison, as costs: the smaller, the better.
struct Costs {
    private var ours: [Double] = []
    private var theirs: [Double] = []

    mutating func add(_ one: Double, _ other: Double) {
        ours.append(one)
        theirs.append(other)
    }

    enum Choice {
        /// The cheapest of each: what it costs when nothing else comes between.
        case best
        /// The median of each round's ratio: where others coming between is the point.
        case pairs
    }

    /// - Returns: our cost, and theirs as a multiple of it.
    func result(_ choice: Choice) -> (cost: Double, factor: Double) {
        switch choice {
        case .best: (ours.min()!, theirs.min()! / ours.min()!)
        case .pairs: (Self.median(ours), Self.median(zip(ours, theirs).map { $1 / $0 }))
        }
    }

    static func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }
}

extension Bench {
    /// What a comparison says.
    enum Saying {
        /// How many times theirs costs more.
        case timesFaster
        /// Which part of theirs it costs.
        case share
        /// So many gigabytes for the cost in seconds, and how many times theirs.
        case rate(gigabytes: Double)
    }

    func turns(
        _ ours: () throws -> Double, _ theirs: () throws -> Double
    ) throws -> Costs {
        var costs = Costs()
        for _ in 0..<rounds { costs.add(try ours(), try theirs()) }
        return costs
    }

    mutating func add(
        _ name: String, _ saying: Saying, _ unit: String, from costs: Costs,
        _ choice: Costs.Choice = .best, against: String = "libxenvchan", goal: Figure.Goal
    ) throws {
        let (cost, factor) = costs.result(choice)
        let (value, ratio) =
            switch saying {
            case .timesFaster: (cost, factor)
            case .share: (cost, 1 / factor)
            case .rate(let gigabytes): (gigabytes / cost, factor)
            }
        try add(
            Figure(
                name: name, value: value, unit: unit, ratio: ratio, against: against, goal: goal))
    }
}

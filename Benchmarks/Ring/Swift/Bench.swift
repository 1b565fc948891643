import Glibc
import LinuxSystem
import SystemPackage

/// Measures everything in one run, ours and the others by turns, and takes medians: what else this
/// machine does meets all of them alike.
struct Bench: ~Copyable {
    private let processes: Processes
    private let rounds: Int
    private let scale: Int
    private var figures: [Figure] = []
    private let cores = [0, 1]

    static let usage = """
        Usage: ring-bench --reference PROGRAM [--counter LIBRARY] [--quick] [--json FILE]

        Measures the ring against the C libxenvchan over a stand-in for Xen, a bare ring, a pipe and
        a unix socket. STRICT=1 in the environment makes the exit status 1 when a goal is missed.
        """

    static func main(_ arguments: [String]) throws -> Int32 {
        var (reference, counter, json): (String?, String?, String?)
        var quick = false
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            switch argument {
            case "--reference": reference = rest.popFirst()
            case "--counter": counter = rest.popFirst()
            case "--json": json = rest.popFirst()
            case "--quick": quick = true
            default:
                try Descriptor.writeAll(
                    Array((usage + "\n").utf8), to: argument == "--help" ? 1 : 2)
                return argument == "--help" ? 0 : 2
            }
        }
        guard let reference else { throw BenchFailure(description: usage) }
        var bench = Bench(
            processes: try Processes(reference: reference, counter: counter), rounds: quick ? 3 : 5,
            scale: quick ? 10 : 1)
        try bench.measure()
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

    private mutating func measure() throws {
        try Descriptor.writeAll(Array((Figure.heading + "\n").utf8), to: 1)
        try roundTrips()
        try pairs()
        try allocations()
        try streams()
        try pumps()
        try crowded()
    }

    private mutating func add(_ figure: Figure) throws {
        figures.append(figure)
        try Descriptor.writeAll(Array((figure.line + "\n").utf8), to: 1)
    }

    private func writeJSON(_ path: String) throws {
        let load = try? String(
            decoding: Descriptor.open("/proc/loadavg", O_RDONLY).readAll(limit: 100), as: UTF8.self)
        let kernel = try? String(
            decoding: Descriptor.open("/proc/version", O_RDONLY).readAll(limit: 400), as: UTF8.self)
        func words(_ text: String?) -> String {
            (text ?? "unknown").split(separator: "\n").first.map(String.init) ?? ""
        }
        let environment =
            "{\"environment\": {\"machine\": \"\(sysconf(Int32(_SC_NPROCESSORS_ONLN))) cores\", "
            + "\"kernel\": \"\(words(kernel))\", \"load\": \"\(words(load))\"}}"
        let text = "[\n" + ([environment] + figures.map(\.json)).joined(separator: ",\n") + "\n]\n"
        try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
            .writeAll(Array(text.utf8))
    }

    // MARK: By turns

    private func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

    /// Ours and another one by turns.
    ///
    /// - Returns: the medians of a value of each.
    private func compare(
        _ ours: () throws -> Double, _ theirs: () throws -> Double
    ) throws -> (ours: Double, theirs: Double) {
        var (one, other): ([Double], [Double]) = ([], [])
        for _ in 0..<rounds {
            one.append(try ours())
            other.append(try theirs())
        }
        return (median(one), median(other))
    }

    // MARK: The figures

    private mutating func roundTrips() throws {
        let (fast, slow, ring) = (200_000 / scale, 20_000 / scale, 65536)
        func ours(_ what: String, _ count: Int) throws -> Double {
            try processes.ours(what, 64, ring, count, cores).seconds / Double(count) * 1e6
        }
        func other(_ way: String, _ count: Int) throws -> Double {
            try processes.reference(way, "trip", 64, ring, count, cores).seconds / Double(count)
                * 1e6
        }
        let blocking = try compare {
            try ours("trip", fast)
        } _: {
            try other("library", slow)
        }
        try add(
            Figure(
                name: "64 B round trip, hot", value: blocking.ours, unit: "us",
                ratio: blocking.theirs / blocking.ours, against: "libxenvchan blocking",
                goal: .atLeast(150)))
        let polled = try compare {
            try ours("trip", fast)
        } _: {
            try other("polled", fast)
        }
        try add(
            Figure(
                name: "64 B round trip, hot", value: polled.ours, unit: "us",
                ratio: polled.theirs / polled.ours, against: "libxenvchan polled",
                goal: .atLeast(1.7)))
        let bare = try compare {
            try ours("trip", fast)
        } _: {
            try other("bare", fast)
        }
        try add(
            Figure(
                name: "64 B round trip, hot", value: bare.ours, unit: "us",
                ratio: bare.theirs / bare.ours, against: "bare ring", goal: .none))
        let idle = try compare {
            try ours("idle", slow)
        } _: {
            try other("packet", slow)
        }
        try add(
            Figure(
                name: "64 B round trip, both asleep", value: idle.ours, unit: "us",
                ratio: idle.ours / idle.theirs, against: "the same socket, bare",
                goal: .atMost(1.1)))
        for way in ["library", "pipe", "socket"] {
            let value = try other(way, slow)
            try add(
                Figure(
                    name: "64 B round trip, \(way)", value: value, unit: "us", ratio: nil,
                    against: nil, goal: .none))
        }
    }

    private mutating func pairs() throws {
        let count = 5_000_000 / scale
        for (what, name, goal) in [
            ("batched", "batched", 0.1), ("inPlace", "in place", 0.06),
            ("published", "shown one by one", 0.36),
        ] {
            let result = try compare {
                try processes.ours(what, 64, 65536, count * 2, cores).cpu / Double(count * 2) * 1e9
            } _: {
                try processes.reference("library", "pair", 64, 65536, count, cores).cpu
                    / Double(count) * 1e9
            }
            try add(
                Figure(
                    name: "CPU per 64 B message pair, \(name)", value: result.ours, unit: "ns",
                    ratio: result.ours / result.theirs, against: "libxenvchan", goal: .atMost(goal))
            )
        }
    }

    private mutating func allocations() throws {
        let count = 1_000_000
        for (what, name) in [
            ("batched", "batched"), ("inPlace", "in place"), ("published", "shown one by one"),
            ("framed", "frames to a descriptor"),
        ] {
            guard let one = try processes.allocations(what, 64, count / 100),
                let other = try processes.allocations(what, 64, count)
            else { return }
            // What both have in common is the loop's own set-up.
            try add(
                Figure(
                    name: "allocations, \(name)", value: Double(other - one), unit: "per million",
                    ratio: nil, against: nil, goal: .atMost(0)))
        }
    }

    private mutating func streams() throws {
        for ring in [65536, 1 << 20] {
            for message in [64, 512, 4096, 65536] {
                try stream(message, ring)
            }
        }
    }

    private mutating func stream(_ message: Int, _ ring: Int) throws {
        let bytes = 2_000_000_000 / scale
        let count = min(bytes / message, 20_000_000 / scale)
        let slow = count / 10
        var notifications: [Double] = []
        func rate(_ sample: Sample, _ count: Int) -> Double {
            Double(count * message) / sample.seconds / 1e9
        }
        let result = try compare {
            let sample = try processes.ours("stream", message, ring, count, cores)
            notifications.append(Double(sample.notifications) / Double(count * message) * 1e6)
            return rate(sample, count)
        } _: {
            rate(try processes.reference("library", "stream", message, ring, slow, cores), slow)
        }
        let size = ring == 65536 ? "64 KiB ring" : "1 MiB ring"
        let name = "\(message < 1024 ? "\(message) B" : "\(message >> 10) KiB") messages, \(size)"
        let goals: [Int: Double] =
            ring == 65536 ? [64: 20, 512: 7, 4096: 7] : [64: 15, 4096: 1.2, 65536: 1.2]
        try add(
            Figure(
                name: name, value: result.ours, unit: "GB/s", ratio: result.ours / result.theirs,
                against: "libxenvchan", goal: goals[message].map { .atLeast($0) } ?? .none))
        try add(
            Figure(
                name: "notifications, \(name)", value: median(notifications), unit: "per MB",
                ratio: nil, against: nil, goal: .atMost(0.5)))
        for way in ["bare", "pipe", "socket"] where message == 64 || message == 4096 {
            let sample = try processes.reference(way, "stream", message, ring, slow, cores)
            try add(
                Figure(
                    name: "\(name), \(way)", value: rate(sample, slow), unit: "GB/s", ratio: nil,
                    against: nil, goal: .none))
        }
    }

    private mutating func pumps() throws {
        for ring in [4096, 65536, 1 << 20] {
            // A small ring takes a wake-up for each page.
            let bytes = (ring < 65536 ? 1 << 27 : 1 << 30) / scale
            let part = Double(bytes) / Double(1 << 30)
            var (ours, theirs): ([Double], [Double]) = ([], [])
            let speed = try compare {
                let sample = try processes.ours("pump", 64, ring, bytes, [-1, -1])
                ours.append(sample.cpu / part)
                return Double(bytes) / sample.seconds / 1e6
            } _: {
                let sample = try processes.reference("library", "pump", 64, ring, bytes, [-1, -1])
                theirs.append(sample.cpu / part)
                return Double(bytes) / sample.seconds / 1e6
            }
            let name = "pipe to ring to pipe, \(ring >> 10) KiB"
            try add(
                Figure(
                    name: name, value: median(ours), unit: "CPU-s per GiB",
                    ratio: median(ours) / median(theirs), against: "libxenvchan", goal: .atMost(0.5)
                ))
            try add(
                Figure(
                    name: name, value: speed.ours, unit: "MB/s", ratio: speed.ours / speed.theirs,
                    against: "libxenvchan", goal: .atLeast(1)))
        }
    }

    /// Both sides on one core, and both cores busy with something else.
    private mutating func crowded() throws {
        try crowd("one core", [0, 0])
        var failure: (any Error)?
        var results: [Figure] = []
        try processes.withBusyCores(cores) {
            do { results = try crowdFigures("busy cores", cores) } catch { failure = error }
        }
        if let failure { throw failure }
        for figure in results { try add(figure) }
    }

    private mutating func crowd(_ name: String, _ cores: [Int]) throws {
        for figure in try crowdFigures(name, cores) { try add(figure) }
    }

    private func crowdFigures(_ name: String, _ cores: [Int]) throws -> [Figure] {
        var results: [Figure] = []
        for (message, ring) in [(64, 65536), (4096, 65536), (65536, 1 << 20)] {
            let count = 200_000_000 / scale / message
            let result = try compare {
                let sample = try processes.ours("stream", message, ring, count, cores)
                return Double(count * message) / sample.seconds / 1e9
            } _: {
                let sample = try processes.reference(
                    "library", "stream", message, ring, count, cores)
                return Double(count * message) / sample.seconds / 1e9
            }
            results.append(
                Figure(
                    name: "\(name): \(message) B messages, \(ring >> 10) KiB ring",
                    value: result.ours, unit: "GB/s", ratio: result.ours / result.theirs,
                    against: "libxenvchan", goal: .atLeast(1)))
        }
        let trips = 20_000 / scale
        let result = try compare {
            try processes.ours("trip", 64, 65536, trips, cores).seconds
        } _: {
            try processes.reference("library", "trip", 64, 65536, trips, cores).seconds
        }
        results.append(
            Figure(
                name: "\(name): 64 B round trip", value: result.ours / Double(trips) * 1e6,
                unit: "us", ratio: result.theirs / result.ours, against: "libxenvchan",
                goal: .atLeast(1)))
        return results
    }
}

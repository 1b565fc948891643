import Glibc
import SystemPackage

/// The figures of the table, part by part.
extension Bench {
    /// The way of the C library, see C/reference.c.
    private static let library = "library"

    // MARK: Round trips

    /// Microseconds of a round trip of 64 B in the median slice.
    private func ourTrip(_ what: String, _ count: Int, _ cores: [Int]) throws -> Double {
        try processes.ours(what, 64, 65536, count, cores).usual / Double(count) * 1e6
    }

    private func otherTrip(_ way: String, _ count: Int, _ cores: [Int]) throws -> Double {
        try processes.reference(way, "trip", 64, 65536, count, cores).usual / Double(count) * 1e6
    }

    mutating func trips() throws {
        let (fast, slow) = (100_000 / scale, 2_000 / scale)
        let name = "64 B round trip, hot"
        for (way, count, goal) in [
            ("library", slow, Figure.Goal.atLeast(150)), ("polled", fast, .atLeast(1.7)),
            ("bare", fast, .none),
        ] {
            let costs = try turns {
                try ourTrip("trip", fast, cores)
            } _: {
                try otherTrip(way, count, cores)
            }
            let against = ["library": "libxenvchan blocking", "polled": "libxenvchan polled"]
            try add(
                name, .timesFaster, "us", from: costs, against: against[way] ?? "bare ring",
                goal: goal)
        }
        let idle = try turns {
            try ourTrip("idle", slow, cores)
        } _: {
            try otherTrip("packet", slow, cores)
        }
        try add(
            "64 B round trip, both asleep", .share, "us", from: idle,
            against: "the same socket, bare", goal: .atMost(1.1))
        for way in ["library", "pipe", "socket"] {
            try add("64 B round trip, \(way)", try otherTrip(way, slow, cores), "us")
        }
        for (way, name) in [("library", "the stand-in for Xen"), ("packet", "the local transport")]
        {
            let count = 200_000 / scale
            let sample = try processes.reference(way, "event", 64, 65536, count, cores)
            try add(
                "one event, \(name)", sample.cpu / Double(count) * 1e9, "ns")
        }
    }

    // MARK: What a message costs

    mutating func pairs() throws {
        let count = 500_000 / scale
        for (what, name, goal) in [
            ("batched", "batched", 0.1), ("inPlace", "in place", 0.06),
            ("published", "shown one by one", 0.36),
        ] {
            let costs = try turns {
                try processes.ours(what, 64, 65536, count * 2, cores).cpu / Double(count * 2) * 1e9
            } _: {
                try processes.reference(Self.library, "pair", 64, 65536, count, cores).cpu
                    / Double(count) * 1e9
            }
            try add(
                "CPU per 64 B message pair, \(name)", .share, "ns", from: costs, goal: .atMost(goal)
            )
        }
    }

    mutating func allocations() throws {
        let count = 1_000_000
        for (what, name) in [
            ("batched", "batched"), ("inPlace", "in place"), ("published", "shown one by one"),
            ("framed", "frames to a descriptor"),
        ] {
            guard let one = try processes.allocations(what, 64, count / 100),
                let other = try processes.allocations(what, 64, count)
            else { return }
            // What both have in common is the loop's own set-up.
            try add("allocations, \(name)", Double(other - one), "per million", goal: .atMost(0))
        }
        // A counter that counts nothing would praise everything.
        if let counted = try processes.allocations("allocating", 64, 1000) {
            try add(
                "allocations, 1000 made on purpose", Double(counted), "counted",
                goal: .atLeast(1000))
        }
    }

    // MARK: One way

    /// Messages of a stream: so many megabytes, and rings enough that what lies in the last one says
    /// little.
    private func messages(_ message: Int, _ ring: Int, megabytes: Int) -> Int {
        max(32 * ring, megabytes << 20) / scale / message
    }

    mutating func streams() throws {
        for ring in [65536, 1 << 20] {
            for message in [64, 512, 4096, 65536] { try stream(message, ring) }
        }
    }

    private mutating func stream(_ message: Int, _ ring: Int) throws {
        // Ours goes so much faster that it needs more for the same time, some tens of milliseconds:
        // in a shorter run the C library now and then needs not sleep at all.
        let (fast, slow) = (
            messages(message, ring, megabytes: 512),
            messages(message, ring, megabytes: message < 512 ? 48 : 256)
        )
        var notifications: [Double] = []
        let costs = try turns {
            let sample = try processes.ours("stream", message, ring, fast, cores)
            notifications.append(Double(sample.notifications) / Double(fast * message) * 1e6)
            return sample.whole / Double(fast)
        } _: {
            try processes.reference(Self.library, "stream", message, ring, slow, cores).whole
                / Double(slow)
        }
        let size = ring == 65536 ? "64 KiB ring" : "1 MiB ring"
        let name = "\(message < 1024 ? "\(message) B" : "\(message >> 10) KiB") messages, \(size)"
        let goals: [Int: Double] =
            ring == 65536 ? [64: 20, 512: 7, 4096: 7] : [64: 15, 4096: 1.2, 65536: 1.2]
        let gigabytes = Double(message) / 1e9
        try add(
            name, .rate(gigabytes: gigabytes), "GB/s", from: costs,
            goal: goals[message].map { .atLeast($0) } ?? .none)
        try add(
            "notifications, \(name)", notifications.min()!, "per MB", goal: .atMost(0.5))
        for way in ["bare", "pipe", "socket"] where message == 64 || message == 4096 {
            let sample = try processes.reference(way, "stream", message, ring, slow, cores)
            try add("\(name), \(way)", gigabytes * Double(slow) / sample.whole, "GB/s")
        }
    }

    // MARK: From pipe to pipe

    mutating func pumps() throws {
        for ring in [4096, 65536, 1 << 20] {
            // A few milliseconds pass until the scheduler has spread four processes.
            let bytes = ((ring == 4096 ? 64 : 512) << 20) / scale
            let perGiB = Double(1 << 30) / Double(bytes)
            var (cpu, speed, copies) = (Costs(), Costs(), Costs())
            for _ in 0..<rounds {
                let ours = try processes.ours("pump", 64, ring, bytes, [-1, -1])
                let theirs = try processes.reference(
                    Self.library, "pump", 64, ring, bytes, [-1, -1])
                let bare = try processes.reference("none", "pump", 64, ring, bytes, [-1, -1])
                cpu.add(ours.cpu * perGiB, theirs.cpu * perGiB)
                copies.add(ours.cpu * perGiB, bare.cpu * perGiB)
                speed.add(ours.whole, theirs.whole)
            }
            let name = "pipe to ring to pipe, \(ring >> 10) KiB"
            try add(name, .share, "CPU-s per GiB", from: cpu, goal: .atMost(0.5))
            try add(
                name, .share, "CPU-s per GiB", from: copies, against: "the two copies alone",
                goal: .none)
            try add(
                name, .rate(gigabytes: Double(bytes) / 1e6), "MB/s", from: speed, .pairs,
                goal: .atLeast(1))
        }
    }

    // MARK: Fewer cores than programs

    /// Both sides on one core, and both cores busy with something else.
    mutating func crowded() throws {
        // On one core the processor time of both sides is the time that they take.
        for figure in try crowd("one core", [0, 0], .best, { $0.cpu }) { try add(figure) }
        var busy: [Figure] = []
        try processes.withBusyCores(cores) {
            busy = try crowd("busy cores", cores, .pairs) { $0.whole }
        }
        for figure in busy { try add(figure) }
    }

    private func crowd(
        _ name: String, _ cores: [Int], _ choice: Costs.Choice, _ cost: (Sample) -> Double
    ) throws -> [Figure] {
        func compare(_ what: String, _ message: Int, _ ring: Int, _ count: Int) throws -> Costs {
            try turns {
                cost(try processes.ours(what, message, ring, count, cores)) / Double(count)
            } _: {
                cost(try processes.reference(Self.library, what, message, ring, count, cores))
                    / Double(count)
            }
        }
        func figure(_ what: String, _ unit: String, _ value: Double, _ factor: Double) -> Figure {
            Figure(
                name: "\(name): \(what)", value: value, unit: unit, ratio: factor,
                against: "libxenvchan", goal: .atLeast(1))
        }
        var results: [Figure] = []
        for (message, ring) in [(64, 65536), (4096, 65536), (65536, 1 << 20)] {
            let count = messages(message, ring, megabytes: 64)
            let (cost, factor) = try compare("stream", message, ring, count).result(choice)
            results.append(
                figure(
                    "\(message) B messages, \(ring >> 10) KiB ring", "GB/s",
                    Double(message) / cost / 1e9, factor))
        }
        let (cost, factor) = try compare("trip", 64, 65536, 10_000 / scale).result(choice)
        return results + [figure("64 B round trip", "us", cost * 1e6, factor)]
    }
}

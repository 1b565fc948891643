import Glibc
import LinuxSystem
import SystemPackage

/// One run of a measurement.
struct Sample {
    /// Seconds of the whole run.
    var whole = 0.0
    /// Seconds that it would have taken had all of it gone as its median slice.
    var usual = 0.0
    /// Processor seconds of both sides.
    var cpu = 0.0
    var notifications: UInt64 = 0
}

struct BenchFailure: Error, CustomStringConvertible {
    let description: String
}

/// Starts the processes of the measurements; their reports come back in files.
struct Processes: ~Copyable {
    /// The program that measures the C library, the bare ring, pipe and socket.
    private let reference: String
    /// The library that counts allocations, if it was given.
    private let counter: String?
    private let directory: TemporaryDirectory
    private let own = "/proc/self/exe"

    init(reference: String, counter: String?) throws(Errno) {
        self.reference = reference
        self.counter = counter
        directory = try TemporaryDirectory(prefix: "/tmp/ring-bench")
    }

    private func start(
        _ path: String, _ arguments: [String], input: Int32? = nil, output: Int32? = nil,
        report: Int32? = nil, preload: String? = nil
    ) throws(Errno) -> ChildProcess {
        var request = SpawnRequest(
            path: path, arguments: ["ring-bench"] + arguments,
            environment: CurrentProcess.environment + (preload.map { ["LD_PRELOAD=\($0)"] } ?? []))
        request.descriptors = [input, output ?? 2, 2, report]
        request.diesWithParent = true
        return try ChildProcess.spawn(request)
    }

    private func openReport(_ name: String) throws(Errno) -> Descriptor {
        let path = "\(directory.path)/\(name)"
        return try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
    }

    private func readReport(_ name: String, status: Int32) throws -> Report {
        let file = try Descriptor.open("\(directory.path)/\(name)", O_RDONLY)
        let line = String(decoding: try file.readAll(limit: 4096), as: UTF8.self)
        guard status == 0, let report = Report(line) else {
            throw BenchFailure(description: "\(name) ended with status \(status)")
        }
        return report
    }

    /// A run of the reference: WAY WHAT MESSAGE RING COUNT, on these two cores.
    func reference(
        _ way: String, _ what: String, _ message: Int, _ ring: Int, _ count: Int, _ cores: [Int]
    ) throws -> Sample {
        let arguments =
            [way, what] + [message, ring, count].map { String($0) } + cores.map { String($0) }
        let output = try openReport("reference")
        var report = Report()
        func measure(_ source: Int32?, _ sink: Int32?) throws {
            let child = try start(
                reference, arguments, input: source, output: sink, report: output.number)
            report = try readReport("reference", status: child.reap())
        }
        if what == "pump" {
            try plumb(ring: ring, bytes: count) { source, sink throws in
                try measure(source, sink)
            }
        } else {
            try measure(nil, nil)
        }
        return sample(report, Report())
    }

    /// A run of the Swift ring.
    func ours(
        _ what: String, _ message: Int, _ ring: Int, _ count: Int, _ cores: [Int]
    ) throws -> Sample {
        let task =
            [what] + [message, ring, count].map { String($0) } + cores.map { String($0) }
            + [directory.path]
        if ["batched", "published", "inPlace"].contains(what) {
            return sample(try pairs(task), Report())
        }
        var result = Sample()
        if what == "pump" {
            try plumb(ring: ring, bytes: count) { source, sink throws in
                result = try bothSides(task, input: source, output: sink)
            }
        } else {
            result = try bothSides(task, input: nil, output: nil)
        }
        return result
    }

    private func pairs(_ task: [String], preload: String? = nil) throws -> Report {
        let output = try openReport("side0")
        let child = try start(
            own, ["--ours", "0"] + task, report: output.number, preload: preload)
        return try readReport("side0", status: child.reap())
    }

    /// Allocations in the loop over so many messages; nil without a counter.
    func allocations(_ what: String, _ message: Int, _ count: Int) throws -> Int? {
        guard let counter else { return nil }
        let task = [what, String(message), "65536", String(count), "-1", "-1", directory.path]
        let report = try pairs(task, preload: counter)
        if report.allocations < 0 { throw BenchFailure(description: "nobody counts allocations") }
        return report.allocations
    }

    private func bothSides(_ task: [String], input: Int32?, output: Int32?) throws -> Sample {
        let (first, second) = (try openReport("side0").release(), try openReport("side1").release())
        defer {
            close(first)
            close(second)
        }
        let server = try start(own, ["--ours", "0"] + task, output: output, report: first)
        let client = try start(own, ["--ours", "1"] + task, input: input, report: second)
        let one = try readReport("side1", status: client.reap())
        let other = try readReport("side0", status: server.reap())
        return sample(one, other)
    }

    private func sample(_ one: Report, _ other: Report) -> Sample {
        Sample(
            whole: max(one.seconds, other.seconds), usual: max(one.usual, other.usual),
            cpu: one.cpu + other.cpu, notifications: one.notifications + other.notifications)
    }

    /// A process that writes so many bytes into a pipe, and one that reads a pipe empty. Pipes are
    /// as large as the ring.
    private func plumb(
        ring: Int, bytes: Int, _ body: (_ source: Int32, _ sink: Int32) throws -> Void
    ) throws {
        let source = try Descriptor.pipe()
        let sink = try Descriptor.pipe()
        // F_SETPIPE_SZ, which the C library shows only with _GNU_SOURCE.
        _ = fcntl(source.first.number, 1031, Int32(ring))
        _ = fcntl(sink.first.number, 1031, Int32(ring))
        let feeder = try start(own, ["--feed", String(bytes)], output: source.second.number)
        let drainer = try start(own, ["--drain", String(bytes)], input: sink.first.number)
        do {
            try body(source.first.number, sink.second.number)
        } catch {
            feeder.signal(SIGKILL)
            drainer.signal(SIGKILL)
            _ = try? feeder.reap()
            _ = try? drainer.reap()
            throw error
        }
        _ = try feeder.reap()
        _ = try drainer.reap()
    }

    /// Runs a body while every core is busy with something else.
    func withBusyCores(_ cores: [Int], _ body: () throws -> Void) throws {
        let one = try start(own, ["--busy", String(cores[0])])
        let other = try start(own, ["--busy", String(cores[1])])
        let result = Result { try body() }
        one.signal(SIGKILL)
        other.signal(SIGKILL)
        _ = try one.reap()
        _ = try other.reap()
        try result.get()
    }
}

/// The small helpers that a measurement starts.
enum Helper {
    static func feed(_ bytes: Int) throws(Errno) {
        let zeroes = [UInt8](repeating: 0, count: 65536)
        var left = bytes
        while left > 0 {
            try Descriptor.writeAll(left < 65536 ? Array(zeroes[..<left]) : zeroes, to: 1)
            left -= min(left, 65536)
        }
    }

    static func drain(_ bytes: Int) throws(Errno) {
        let input = try Descriptor.duplicate(of: 0)
        var buffer = [UInt8](repeating: 0, count: 65536)
        var left = bytes
        while left > 0 {
            let got = try input.read(into: &buffer)
            if got == 0 { throw .brokenPipe }
            left -= got
        }
    }

    static func busy(_ core: Int32) throws(Errno) {
        try CurrentProcess.pin(toCore: core)
        var random = SystemRandomNumberGenerator()
        var sum: UInt64 = 0
        while true {
            for round in 0..<UInt64(1000) { sum = sum &* 31 &+ round }
            if sum == random.next() { CurrentProcess.yield() }
        }
    }
}

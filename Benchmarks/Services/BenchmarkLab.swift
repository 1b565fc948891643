import Foundation

/// A lab of our own in memory, and what its processes cost.
struct BenchmarkLab {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    private let program: String
    let state: String

    /// Starts the lab below /dev/shm.
    init(program: String, configuration: String) throws {
        self.program = program
        state = "/dev/shm/services-bench-\(getpid())"
        let file = "/dev/shm/services-bench-\(getpid()).toml"
        try configuration.write(toFile: file, atomically: false, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: file) }
        let outcome = try Self.start(program, ["up", "--config", file], state: state)
        if outcome.status != 0 {
            throw Failure(description: "the lab does not start: \(outcome.error)")
        }
    }

    /// Ends it; nothing is left.
    func down() { _ = try? Self.start(program, ["down"], state: state) }

    struct Outcome {
        let status: Int32
        let output: String
        let error: String
    }

    /// Runs a shell command in a qube.
    ///
    /// - Throws: when its exit status is not 0.
    @discardableResult
    func run(_ qube: String, _ command: String) throws -> Outcome {
        let outcome = try Self.start(
            program, ["run", qube, "--", "bash", "-c", command], state: state)
        if outcome.status != 0 {
            throw Failure(
                description: "\(command): exit status \(outcome.status): \(outcome.error)")
        }
        return outcome
    }

    /// Runs a command of the lab itself.
    func command(_ arguments: [String]) throws -> Outcome {
        try Self.start(program, arguments, state: state)
    }

    /// Puts a program or a text into a qube, or into a template.
    func install(_ text: String, in qube: String, at path: String) throws {
        let file = "\(state)/qubes/\(qube)/root/\(path)"
        try FileManager.default.createDirectory(
            atPath: (file as NSString).deletingLastPathComponent,
            withIntermediateDirectories: true)
        try text.write(toFile: file, atomically: false, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: file)
    }

    /// A qube's directory of files as this machine sees it.
    func home(_ qube: String) -> String { "\(state)/qubes/\(qube)/root/home/user" }

    /// Runs a shell command outside of the qubes.
    ///
    /// - Throws: when its exit status is not 0.
    static func runHere(_ command: String) throws -> Outcome {
        let outcome = try start("/bin/bash", ["-c", command], state: "")
        if outcome.status != 0 {
            throw Failure(description: "\(command): \(outcome.status): \(outcome.error)")
        }
        return outcome
    }

    private static func start(
        _ program: String, _ arguments: [String], state: String
    ) throws -> Outcome {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        var environment = ProcessInfo.processInfo.environment
        environment["QUBES_LAB_STATE"] = state
        process.environment = environment
        let output = Pipe()
        let error = Pipe()
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = output
        process.standardError = error
        try process.run()
        let text = output.fileHandleForReading.readDataToEndOfFile()
        let errorText = error.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return Outcome(
            status: process.terminationStatus, output: String(decoding: text, as: UTF8.self),
            error: String(decoding: errorText, as: UTF8.self))
    }

    // MARK: Processor time

    /// Seconds of processor time of all processes of the lab, ended ones too.
    func processorTime() -> Double {
        var parents: [Int: Int] = [:]
        var ticks: [Int: Double] = [:]
        var roots: Set<Int> = []
        for name in (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [] {
            guard let pid = Int(name), let stat = Self.statistics(of: pid) else { continue }
            parents[pid] = stat.parent
            ticks[pid] = stat.ticks
            // The manager names its state on its command line; everything else descends from it.
            let command = FileManager.default.contents(atPath: "/proc/\(pid)/cmdline") ?? Data()
            if command.range(of: Data("\0\(state)\0".utf8)) != nil { roots.insert(pid) }
        }
        let inLab = ticks.keys.filter { pid in
            var next: Int? = pid
            while let now = next, now > 1 {
                if roots.contains(now) { return true }
                next = parents[now]
            }
            return false
        }
        return inLab.reduce(0) { $0 + ticks[$1]! } / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    /// Parent, and ticks of a process and its children that have ended.
    private static func statistics(of pid: Int) -> (parent: Int, ticks: Double)? {
        guard let data = FileManager.default.contents(atPath: "/proc/\(pid)/stat") else {
            return nil
        }
        let text = String(decoding: data, as: UTF8.self)
        guard let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[end...].split(separator: " ").dropFirst().map(String.init)
        guard fields.count > 14, let parent = Int(fields[1]) else { return nil }
        return (parent, fields[11...14].compactMap(Double.init).reduce(0, +))
    }
}

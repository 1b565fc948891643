import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage
import Vchan

/// Runs the cases, each side as a child process, and counts.
struct ConformanceRunner {
    private let settings: ConformanceSettings
    private var kept = 0
    private var broken = 0

    init(_ settings: ConformanceSettings) throws(ConformanceFailure) {
        var settings = settings
        let names = ["local", "socket"]
        if let pair = settings.pair {
            if pair.contains("libxenvchan") {
                settings.xenLocal = try Self.userSpaceXen(settings.xenLocal)
            }
        } else if settings.role == nil, !names.contains(settings.end.transportName ?? "") {
            throw ConformanceFailure(
                "both sides can run here over local or socket; for another transport start each "
                    + "side in its domain with --role")
        }
        self.settings = settings
    }

    private static func userSpaceXen(_ given: String) throws(ConformanceFailure) -> String {
        var directory = given
        if directory.isEmpty {
            let program = FileStatus.linkText("/proc/self/exe") ?? ""
            directory = program.split(separator: "/").dropLast().map { "/" + $0 }.joined()
            directory += "/xen-local"
        }
        guard PathStatus.exists(directory + "/libxenstore.so.4") else {
            throw ConformanceFailure(
                "no user-space Xen in \(directory): run 'make build', or name it by --xen-local")
        }
        return directory
    }

    mutating func run() throws(ConformanceFailure) -> Int32 {
        guard settings.role == nil, settings.end.state == nil else {
            return try run(state: settings.end.state)
        }
        let directory: TemporaryDirectory
        do throws(Errno) {
            directory = try TemporaryDirectory(prefix: "/tmp/vchan-conformance")
        } catch {
            throw ConformanceFailure("temporary directory: \(error)")
        }
        return try run(state: directory.path)
    }

    private mutating func run(state: String?) throws(ConformanceFailure) -> Int32 {
        let names = Set(settings.cases.map(\.name))
        for number in settings.allCases.indices where names.contains(settings.allCases[number].name)
        {
            try runCase(number, state)
        }
        Terminal.print("\(kept + broken) cases, \(kept) kept, \(broken) broken")
        if kept + broken == 0 {
            throw ConformanceFailure("no case was run: --case matches none (see --list)")
        }
        return broken == 0 ? 0 : 1
    }

    private mutating func runCase(
        _ number: Int, _ state: String?
    ) throws(ConformanceFailure) {
        let which = settings.allCases[number]
        let sides: [(ConformanceSide.Role, DomainID?, DomainID)]
        if let role = settings.role {
            sides = [(role, settings.end.ownDomain, settings.end.peer!)]
        } else {
            let (server, client) = (DomainID(1)!, DomainID(2)!)
            sides = [(.server, server, client), (.client, client, server)]
        }
        var statuses: [Int32] = []
        do throws(Errno) {
            statuses = try Self.run(
                sides.map { role, own, peer in
                    SpawnRequest(
                        path: "/proc/self/exe",
                        arguments: settings.childArguments(
                            role, case: number, state: state, own: own, peer: peer),
                        environment: settings.childEnvironment(role, state: state, own: own))
                })
        } catch {
            throw ConformanceFailure("cannot start a side: \(error)")
        }
        var problems: [String] = []
        for (side, status) in zip(sides, statuses) {
            let expected: Int32 = side.0 == which.crashing ? 128 + SIGKILL : 0
            if status != expected {
                problems.append("\(side.0.rawValue) ended with \(status), expected \(expected)")
            }
        }
        if problems.isEmpty {
            kept += 1
            if !settings.quiet { Terminal.print("kept    \(which.name)") }
        } else {
            broken += 1
            Terminal.print("BROKEN  \(which.name): \(problems.joined(separator: "; "))")
        }
    }

    /// Runs children at the same time.
    ///
    /// - Returns: their exit statuses.
    private static func run(_ commands: [SpawnRequest]) throws(Errno) -> [Int32] {
        let first = try start(commands[0])
        guard commands.count > 1 else { return [try first.reap()] }
        let second = try start(commands[1])
        // A side that fails leaves the other waiting for ever: it is ended after a grace.
        let (one, other) = (first.pidfd.number, second.pidfd.number)
        var set = PollSet()
        set.add(one, .readable)
        set.add(other, .readable)
        _ = try set.wait()
        let firstIsOver = try !poll(one, .readable, milliseconds: 0).isEmpty
        if try poll(firstIsOver ? other : one, .readable, milliseconds: 150_000).isEmpty {
            if firstIsOver { second.signal(SIGKILL) } else { first.signal(SIGKILL) }
        }
        return [try first.reap(), try second.reap()]
    }

    private static func start(_ command: SpawnRequest) throws(Errno) -> ChildProcess {
        var request = command
        request.diesWithParent = true
        return try ChildProcess.spawn(request)
    }
}

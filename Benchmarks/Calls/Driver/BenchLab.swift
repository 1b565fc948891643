import Foundation
import LinuxSystem
import SystemPackage

/// Where calls are made and served.
protocol CallPlace: AnyObject {
    /// The qube that calls, and the one that is called.
    var caller: String { get }
    var target: String { get }
    /// The client's program, as the caller sees it.
    var client: String { get }
    /// What calls-load reports when it has run where the caller is: numbers by their names.
    func load(_ arguments: [String]) throws -> [[String: Double]]
    /// All long-lived programs.
    func processes() throws -> LabProcesses
    /// Grows by one with each process; nil where that cannot be told.
    func processCount() throws -> Double?
}

/// A lab of its own for the benchmark, gone when it ends.
final class BenchLab: CallPlace {
    let caller = "work"
    let target = "personal"
    let client = "/usr/bin/qrexec-client-vm"

    struct Status: Decodable {
        struct Qube: Decodable {
            let name: String
            let root: String
            let agentPid: Int32?
            let daemonPid: Int32?
        }

        let qubes: [Qube]
        let policyDir: String
    }

    let programs: String
    /// The program calls-load.
    let loadProgram: String
    let state: String
    private let user: UserIdentity?
    private(set) var status: Status
    private var service: Background?
    private var asked = 0.0

    /// - Parameter user: whose lab it is; agents of an ordinary user's lab run services as themselves,
    ///   those of root's in a PAM session and a login shell. Nil for this process's own.
    init(_ settings: Settings, user: UserIdentity?) throws {
        programs = settings.programs
        self.user = user
        loadProgram = settings.load
        let owner = user?.uid ?? CurrentProcess.effectiveUser
        state = "\(settings.place)/calls-bench-\(CurrentProcess.id)-\(owner)"
        let lab = ["\(programs)/qubes-lab"]
        _ = try Background.output(lab + ["up", "--quiet", "--state", state], user: user)
        let text = try Background.output(
            lab + ["status", "--json", "--state", state], user: user)
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        status = try decoder.decode(Status.self, from: Data(text.utf8))
        for qube in ["work", "personal", "dom0"] { try addServices(to: root(qube)) }
        try setRules(1000)
        service = try start(
            "personal", ["/usr/local/bin/calls-load", "serve", "/home/user/bench.socket"])
        let socket = root("personal") + "/home/user/bench.socket"
        for _ in 0..<100 where !FileManager.default.fileExists(atPath: socket) { usleep(50_000) }
    }

    func down() {
        service = nil
        _ = try? Background.output(
            ["\(programs)/qubes-lab", "down", "--state", state], user: user)
    }

    func qube(_ name: String) -> Status.Qube { status.qubes.first { $0.name == name }! }

    func root(_ name: String) -> String { qube(name).root }

    private func addServices(to root: String) throws {
        let files = FileManager.default
        try files.copyItem(atPath: loadProgram, toPath: "\(root)/usr/local/bin/calls-load")
        let load = "/usr/local/bin/calls-load"
        let services = [
            "True": "/usr/bin/true", "Sink": load, "Source": load, "Both": load,
            "Socket": "/home/user/bench.socket", "Hold": "/home/user/bench.socket",
        ]
        for (name, target) in services {
            let link = "\(root)/usr/local/etc/qubes-rpc/bench.\(name)"
            try files.createSymbolicLink(atPath: link, withDestinationPath: target)
        }
    }

    /// Replaces the benchmark's policy: so many rules, those that match last.
    func setRules(_ count: Int) throws {
        let last = [
            "bench.Refused * work @anyvm deny", "bench.True * work @adminvm allow",
            "* * work personal allow",
        ]
        var rules = (0..<count - last.count).map { "bench.Other\($0) * work personal deny" }
        rules += last
        let text = rules.joined(separator: "\n") + "\n"
        let path = "\(status.policyDir)/20-bench.policy"
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        // Written by root for whoever's lab it is.
        try FileManager.default.setAttributes([.posixPermissions: 0o644], ofItemAtPath: path)
        // The first calls after a change pay for reading it.
        _ = try load("work", ["calls", "1", "20", "personal", "bench.True", "0"])
    }

    func load(_ arguments: [String]) throws -> [[String: Double]] {
        try load("work", arguments)
    }

    func load(
        _ qube: String, as account: String = "user", _ arguments: [String]
    ) throws -> [[String: Double]] {
        Self.numbers(
            try Background.output(
                runCommand(qube, as: account) + ["/usr/local/bin/calls-load"] + arguments,
                user: user))
    }

    func processes() throws -> LabProcesses {
        let text = LabProcesses.file("\(state)/manager.pid")
        guard let manager = text.split(separator: " ").first.flatMap({ Int32($0) }) else {
            throw Problem("the lab has no manager")
        }
        return try LabProcesses(below: [manager])
    }

    /// Of the three qubes' own name spaces, the process that asks in each not counted.
    func processCount() throws -> Double? {
        asked += 3
        var sum = 0.0
        for qube in ["dom0", "work", "personal"] { sum += try load(qube, ["mark"])[0]["pid"]! }
        return sum - asked
    }

    /// A name that comes again begins another group.
    static func numbers(_ text: String) -> [[String: Double]] {
        var groups: [[String: Double]] = [[:]]
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count == 2, let value = Double(words[1]) else { continue }
            let key = String(words[0])
            if groups[groups.count - 1][key] != nil { groups.append([:]) }
            groups[groups.count - 1][key] = value
        }
        return groups
    }

    func start(_ qube: String, _ command: [String]) throws -> Background {
        try Background(runCommand(qube) + command, user: user)
    }

    private func runCommand(_ qube: String, as account: String = "user") -> [String] {
        ["\(programs)/qubes-lab", "run", "--state", state, qube, "--user", account, "--"]
    }
}

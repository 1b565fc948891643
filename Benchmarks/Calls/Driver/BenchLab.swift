import Foundation
import LinuxSystem
import SystemPackage

struct Problem: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// A lab of its own for the benchmark, gone when it ends.
final class BenchLab {
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
    let state: String
    private(set) var status: Status
    private var service: Background?

    /// - Parameters:
    ///   - programs: directory with qubes-lab.
    ///   - load: the program calls-load.
    init(programs: String, load: String) throws {
        self.programs = programs
        state = NSTemporaryDirectory() + "calls-bench-\(CurrentProcess.id)"
        let lab = ["\(programs)/qubes-lab"]
        _ = try Self.output(lab + ["up", "--quiet", "--state", state])
        let text = try Self.output(lab + ["status", "--json", "--state", state])
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        status = try decoder.decode(Status.self, from: Data(text.utf8))
        for qube in ["work", "personal", "dom0"] { try addServices(to: root(qube), load) }
        try setRules(1000)
        service = try start(
            "personal", ["/usr/local/bin/calls-load", "serve", "/home/user/bench.socket"])
        let socket = root("personal") + "/home/user/bench.socket"
        for _ in 0..<100 where !FileManager.default.fileExists(atPath: socket) { usleep(50_000) }
    }

    func down() {
        service = nil
        _ = try? Self.output(["\(programs)/qubes-lab", "down", "--state", state])
    }

    func qube(_ name: String) -> Status.Qube { status.qubes.first { $0.name == name }! }

    func root(_ name: String) -> String { qube(name).root }

    private func addServices(to root: String, _ load: String) throws {
        let files = FileManager.default
        try files.copyItem(atPath: load, toPath: "\(root)/usr/local/bin/calls-load")
        let services = [
            "True": "/usr/bin/true", "Sink": "/usr/local/bin/calls-load",
            "Source": "/usr/local/bin/calls-load", "Socket": "/home/user/bench.socket",
            "Hold": "/home/user/bench.socket",
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
        // The first calls after a change pay for reading it.
        _ = try load("work", ["calls", "1", "20", "personal", "bench.True", "0"])
    }

    /// What calls-load reports when it has run in a qube: numbers by their names.
    func load(_ qube: String, _ arguments: [String]) throws -> [[String: Double]] {
        let text = try Self.output(
            runCommand(qube) + ["/usr/local/bin/calls-load"] + arguments)
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
        try Background(runCommand(qube) + command)
    }

    private func runCommand(_ qube: String) -> [String] {
        ["\(programs)/qubes-lab", "run", "--state", state, qube, "--"]
    }

    private static func output(_ command: [String]) throws -> String {
        let running = try Background(command)
        return try running.finish()
    }
}

/// A program of the host, with pipes to and from it; ended when it is let go.
final class Background {
    private let name: String
    private var child: ChildProcess?
    private var input: Descriptor?
    private let output: Descriptor

    init(_ command: [String]) throws {
        name = command.joined(separator: " ")
        let input = try Descriptor.pipe()
        let output = try Descriptor.pipe()
        var request = SpawnRequest(
            path: command[0], arguments: command, environment: CurrentProcess.environment)
        request.descriptors = [input.first.number, output.second.number, 2]
        child = try ChildProcess.spawn(request)
        self.input = consume input.second
        self.output = consume output.first
    }

    /// Waits for its first line.
    func line() throws -> String {
        var text: [UInt8] = []
        var byte: [UInt8] = [0]
        while try output.read(into: &byte) == 1, byte[0] != 0x0A { text += byte }
        return String(decoding: text, as: UTF8.self)
    }

    /// Ends its input, and waits for its end.
    func finish() throws -> String {
        input = nil
        let text = try output.readAll(limit: 1 << 24)
        let status = try child.take()?.reap() ?? 0
        if status != 0 { throw Problem("'\(name)' ended with status \(status)") }
        return String(decoding: text, as: UTF8.self)
    }

    deinit {
        guard let running = child.take() else { return }
        running.signal(SIGTERM)
        _ = try? running.reap()
    }
}

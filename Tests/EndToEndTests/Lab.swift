import Foundation
import LinuxSystem
import Synchronization
import Testing

/// All tests of this module, one after the other: they share a lab.
@Suite("End to end, in a lab", .serialized)
enum EndToEnd {}

/// A lab of the built programs with a state directory of its own.
final class Lab: Sendable {
    let state: String
    private let keeper: Keeper

    /// The lab that the tests share. It ends with the process, however that ends.
    static let shared = Result { try Lab(configuration: configuration) }

    private static let configuration = """
        [qubes.sleeper]
        autostart = false
        [qubes.small]
        home_size = "4M"
        """

    init(configuration: String = "") throws {
        // Before anything is made: this fails where nothing was built.
        _ = try Self.program("qubes-lab")
        let prefix = "/tmp/qrexec-e2e-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        state = "\(prefix)/state"
        try FileManager.default.createDirectory(
            atPath: prefix, withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
        keeper = try Keeper(prefix: prefix, state: state)
        try write("\(prefix)/lab.toml", configuration)
        let up = try command("up", ["--config", "\(prefix)/lab.toml"])
        guard up.status == 0 else { throw Failure(text: "the lab does not start: \(up.errors)") }
        try setPolicy("20-test", "* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n")
    }

    deinit { keeper.end() }

    struct Failure: Error, CustomStringConvertible {
        var text: String
        var description: String { text }
    }

    // MARK: The command line

    /// A built program.
    static func program(_ name: String) throws -> String {
        let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().path
        let directory = ProcessInfo.processInfo.environment["QREXEC_PROGRAMS"]
        let path = (directory ?? "\(package)/.build/bin") + "/" + name
        guard FileManager.default.isExecutableFile(atPath: path) else {
            throw Failure(text: "no program \(path): run 'make build' first")
        }
        return path
    }

    func command(_ name: String, _ arguments: [String] = []) throws -> Outcome {
        let lab = try Self.program("qubes-lab")
        return try Program([lab, name, "--state", state] + arguments, input: []).finish()
    }

    /// Starts a program in a qube.
    func start(_ qube: String, user: String? = nil, _ arguments: [String], input: [UInt8]? = nil)
        throws -> Program
    {
        let user = user.map { ["--user", $0] } ?? []
        let lab = try Self.program("qubes-lab")
        return try Program(
            [lab, "run", "--state", state, qube] + user + ["--"] + arguments, input: input)
    }

    /// Runs a program in a qube to its end.
    func run(_ qube: String, user: String? = nil, _ arguments: [String], input: String = "") throws
        -> Outcome
    {
        try start(qube, user: user, arguments, input: Array(input.utf8)).finish()
    }

    /// Runs a shell script in a qube to its end.
    func script(_ qube: String, user: String? = nil, _ text: String) throws -> Outcome {
        try run(qube, user: user, ["bash", "-c", "set -o pipefail\n" + text])
    }

    func call(
        _ service: String, from source: String = "work", to target: String = "personal",
        input: String = ""
    ) throws -> Outcome {
        try run(source, ["qrexec-client-vm", target, service], input: input)
    }

    var log: String {
        get throws { try command("log").text }
    }

    // MARK: Files of the qubes

    struct Status: Decodable {
        struct Qube: Decodable {
            var name: String
            var domid: Int?
            var root: String
            var powerState: String
            var type: String
            /// False for a halted qube, and for a disposable that waits to be used.
            var inUse: Bool
            var agentPid: Int32?
            var daemonPid: Int32?
        }
        var qubes: [Qube]
        var policyDir: String
    }

    var status: Status {
        get throws {
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            return try decoder.decode(Status.self, from: Data(command("status", ["--json"]).output))
        }
    }

    func qube(_ name: String) throws -> Status.Qube {
        try #require(status.qubes.first { $0.name == name })
    }

    /// Puts a service into a qube.
    func install(_ service: String, in qube: String = "personal", _ script: String) throws {
        let path = try "\(self.qube(qube).root)/usr/local/etc/qubes-rpc/\(service)"
        try write(path, "#!/bin/bash\n\(script)\n")
        try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: path)
    }

    /// Puts a policy file in force.
    func setPolicy(_ name: String, _ text: String?) throws {
        let path = try "\(status.policyDir)/\(name).policy"
        guard let text else { return try FileManager.default.removeItem(atPath: path) }
        try write(path, text)
    }

    private func write(_ path: String, _ text: String) throws {
        // A file that is written in place is half-written for a moment.
        try text.write(toFile: "\(path).new", atomically: false, encoding: .utf8)
        guard rename("\(path).new", path) == 0 else { throw Failure(text: "cannot write \(path)") }
    }

    // MARK: What a call may leave

    /// The most powerful user of a qube: a lab of an ordinary user has no other.
    static let administrator = geteuid() == 0 ? "root" : "user"

    /// A process in a qube, as the qube numbers it.
    struct QubeProcess: Hashable, CustomStringConvertible {
        var pid: Int
        var descriptors: Int
        var mappings: Int
        var command: String
        var description: String {
            "\(pid): \(command) (\(descriptors) descriptors, \(mappings) shared mappings)"
        }
    }

    /// All processes of a qube but its first. Watches do not count: some are kept as spare ones.
    func processes(_ qube: String) throws -> Set<QubeProcess> {
        let script = """
            cd /proc; for p in [0-9]*; do
                [ $p != 1 ] && [ $p != $$ ] && [ -r $p/maps ] || continue
                fds=$(find $p/fd -type l ! -lname anon_inode:inotify | wc -l)
                maps=$(grep -c memfd: $p/maps)
                { read -rd '' name; read -rd '' first; } < $p/cmdline
                echo "$p $fds $maps $name $first"
            done 2>/dev/null; :
            """
        let listing = try run(qube, user: Self.administrator, ["bash", "-c", script]).text
        return Set(
            listing.split(separator: "\n").compactMap { line in
                let words = line.split(separator: " ", maxSplits: 3)
                // An argument may have line breaks; what follows one is no process.
                guard words.count == 4, let pid = Int(words[0]), let descriptors = Int(words[1]),
                    let mappings = Int(words[2])
                else { return nil }
                return QubeProcess(
                    pid: pid, descriptors: descriptors, mappings: mappings,
                    command: String(words[3]))
            })
    }

    func kill(_ pid: Int, in qube: String) throws {
        let outcome = try script(qube, user: Self.administrator, "kill -9 \(pid)")
        // A disposable may end with the process, and the shell that has killed it too.
        #expect([0, 128 + SIGKILL].contains(outcome.status), "\(outcome.errors)")
    }

    /// Sockets at which a qube could be met.
    var rendezvous: Set<String> {
        let xen = "\(state)/xen"
        let names = FileManager.default.enumerator(atPath: xen)
        return Set((names?.compactMap { $0 as? String } ?? []).filter { $0.hasSuffix(".sock") })
    }

    // MARK: The end

    /// Ends the lab, when asked or when this process is gone.
    private final class Keeper: @unchecked Sendable {
        private let process = Process()
        private let pipe = Pipe()
        private static let all = Mutex<[Keeper]>([])

        init(prefix: String, state: String) throws {
            process.executableURL = URL(fileURLWithPath: "/bin/sh")
            process.arguments = [
                "-c",
                #"trap '' INT TERM HUP; cat >/dev/null; "$0" down -q --state "$1"; rm -rf "$2""#,
                try Lab.program("qubes-lab"), state, prefix,
            ]
            process.standardInput = pipe
            try process.run()
            Self.all.withLock { keepers in
                if keepers.isEmpty { atexit { Keeper.endAll() } }
                keepers.append(self)
            }
        }

        func end() {
            try? pipe.fileHandleForWriting.close()
            process.waitUntilExit()
        }

        static func endAll() { for keeper in all.withLock({ $0 }) { keeper.end() } }
    }
}

import Glibc
import LinuxSystem
import SystemPackage

@testable import QubesLab

/// Who starts a lab.
enum Starter: String, CaseIterable, Sendable, CustomStringConvertible {
    case root
    /// A user that the machine has no account of.
    case user

    static let all: [Starter] = CurrentProcess.effectiveUser == 0 ? [.root, .user] : [.user]

    static let userID: UInt32 = 41234

    /// nil for this process's own.
    var identity: UserIdentity? {
        self == .user && CurrentProcess.effectiveUser == 0
            ? UserIdentity(uid: Self.userID, gid: Self.userID, groups: []) : nil
    }

    var description: String { rawValue }
}

/// A program's end and what it printed.
struct Output {
    var status: Int32
    var out: [UInt8]
    var error: String
    var text: String { String(decoding: out, as: UTF8.self) }
}

/// A lab in a directory of its own, with the programs that `make build` left in `.build/bin`.
final class LabUnderTest {
    /// `.build/bin` of this package, or QUBES_LAB_TEST_PROGRAMS.
    static let programs: String = {
        let package = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        return CurrentProcess.variable("QUBES_LAB_TEST_PROGRAMS") ?? "/\(package)/.build/bin"
    }()

    let directory: TemporaryDirectory
    let starter: Starter
    var state: String { directory.path + "/state" }

    /// - Parameter settings: text of lab.toml.
    init(_ starter: Starter, _ settings: String) throws {
        self.starter = starter
        directory = try TemporaryDirectory()
        try directory.write("lab.toml", settings)
        if let user = starter.identity {
            try PathStatus.changeOwner(directory.path, uid: user.uid, gid: user.gid)
        }
    }

    deinit { _ = try? command(["down", "-q"]) }

    /// Runs `qubes-lab` with this lab's state to its end.
    func command(
        _ arguments: [String], input: [UInt8] = [], environment: [String] = []
    ) throws -> Output {
        let files = try (0..<3).map { _ in OwnedDescriptor(try Descriptor.memoryFile("test")) }
        try files[0].descriptor.writeAll(input)
        try files[0].descriptor.seek(to: 0)
        let child = try start(
            arguments, descriptors: files.map { $0.descriptor.number }, environment: environment)
        let status = try child.reap()
        var bytes: [[UInt8]] = []
        for file in files.dropFirst() {
            try file.descriptor.seek(to: 0)
            bytes.append(try file.descriptor.readAll(limit: 1 << 30))
        }
        return Output(
            status: status, out: bytes[0], error: String(decoding: bytes[1], as: UTF8.self))
    }

    /// Starts `qubes-lab` with this lab's state.
    func start(
        _ arguments: [String], descriptors: [Int32?], environment: [String] = [],
        controllingTerminal: Int32? = nil
    ) throws -> ChildProcess {
        var request = SpawnRequest(
            path: "\(Self.programs)/qubes-lab",
            arguments: ["\(Self.programs)/qubes-lab"] + arguments,
            environment: ["PATH=/usr/bin:/bin", "QUBES_LAB_STATE=\(state)", "TERM=vt100"]
                + environment)
        request.descriptors = descriptors
        request.user = starter.identity
        request.newSession = true
        request.controllingTerminal = controllingTerminal
        return try ChildProcess.spawn(request)
    }

    func up() throws -> Output { try command(["up", "--config", "\(directory.path)/lab.toml"]) }

    func status() throws -> LabStatus? {
        Packet.decode(LabStatus.self, try command(["status", "--json"]).out)
    }

    /// What the status says of a qube.
    func entry(_ name: String) throws -> LabStatus.Entry {
        guard let entry = try status()?.qubes.first(where: { $0.name == name }) else {
            throw LabError("no qube \(name) in the status")
        }
        return entry
    }

    /// Runs a program in a qube.
    func run(
        _ qube: String, user: String? = nil, _ program: [String], input: [UInt8] = []
    ) throws -> Output {
        let user = user.map { ["--user", $0] } ?? []
        return try command(["run", qube] + user + ["--"] + program, input: input)
    }

    func shell(_ qube: String, user: String? = nil, _ script: String) throws -> Output {
        try run(qube, user: user, ["sh", "-c", script])
    }

    /// Processes of this machine that this lab started, zombies apart.
    func processes() throws -> [String] {
        var found: [String] = []
        for name in try PathStatus.names(in: "/proc") where Int32(name) != nil {
            guard
                let bytes = try? Descriptor.open("/proc/\(name)/cmdline", O_RDONLY).readAll(
                    limit: 1 << 17)
            else { continue }
            let line = String(decoding: bytes.map { $0 == 0 ? 0x20 : $0 }, as: UTF8.self)
            if line.contains(state + " ") || line.contains(state + "/") { found.append(line) }
        }
        return found
    }
}

/// Waits until something holds; the time is far above what it takes.
func eventually(_ what: () throws -> Bool) throws -> Bool {
    for _ in 0..<1000 {
        if try what() { return true }
        usleep(10_000)
    }
    return false
}

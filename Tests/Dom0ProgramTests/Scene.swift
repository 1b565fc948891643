import Foundation
import Glibc
import LinuxSystem
import QrexecProtocol
import Testing

/// A directory with everything that a daemon or a client of dom0 can meet, played by the test over
/// the byte-stream transport. The programs are the built ones: `make build` comes first.
final class Scene {
    let directory: String
    static let domain: UInt32 = 42
    static let name = "source"
    static let uuid = "6d7a02b5-532b-467f-b9fb-6596bae03c33"

    private var services: [FakeService] = []
    private var programs: [Running] = []

    init() throws {
        var template = Array("/tmp/dom0-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Failure("no directory") }
        directory = String(decoding: template.dropLast().map { UInt8($0) }, as: UTF8.self)
        for name in ["services", "config"] { mkdir("\(directory)/\(name)", 0o755) }
    }

    deinit {
        for program in programs { program.kill() }
        for service in services { service.end() }
        try? FileManager.default.removeItem(atPath: directory)
    }

    // MARK: Programs

    static func program(_ name: String) throws -> String {
        let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().path
        let directory =
            ProcessInfo.processInfo.environment["QREXEC_PROGRAMS"] ?? "\(package)/.build/bin"
        let path = "\(directory)/\(name)"
        guard FileManager.default.isExecutableFile(atPath: path) else {
            throw Failure("no program \(path): run 'make build' first")
        }
        return path
    }

    var environment: [String] {
        [
            "PATH=/usr/bin:/bin", "QREXEC_VCHAN=socket", "VCHAN_DOMAIN=0",
            "VCHAN_SOCKET_DIR=\(directory)", "QREXEC_POLICY_SOCKET=\(directory)/policy.sock",
            "QUBESD_SOCKET=\(directory)/qubesd.sock",
            "QREXEC_SERVICE_PATH=\(directory)/services",
            "QUBES_RPC_CONFIG_PATH=\(directory)/config",
        ]
    }

    func start(
        _ name: String, _ arguments: [String], environment extra: [String] = [],
        input: Int32? = nil
    ) throws -> Running {
        let program = try Running(
            Self.program(name), arguments, environment: environment + extra, input: input)
        programs.append(program)
        return program
    }

    func startDaemon(
        _ options: [String] = [], environment extra: [String] = []
    ) throws -> Running {
        try start(
            "qrexec-daemon",
            ["--socket-dir=\(directory)", "--direct", "--uuid=\(Self.uuid)"] + options
                + ["--", "\(Self.domain)", Self.name, "user"],
            environment: extra)
    }

    /// A daemon whose agent has said HELLO.
    func daemon(
        _ options: [String] = [], version: UInt32 = 4
    ) throws -> (agent: Peer, process: Running) {
        let listener = try controlListener()
        let process = try startDaemon(options)
        let agent = try listener.accept()
        try agent.greet(version)
        try waitForSockets()
        return (agent, process)
    }

    func startClient(
        _ arguments: [String], environment extra: [String] = [], input: Int32? = nil
    ) throws -> Running {
        try start(
            "qrexec-client", ["--socket-dir=\(directory)"] + arguments, environment: extra,
            input: input)
    }

    // MARK: Meeting places

    func controlListener() throws -> Listener { try vchan(server: Self.domain, 512) }

    /// The socket at which a domain offers a channel to dom0.
    func vchan(server: UInt32, _ port: UInt32) throws -> Listener {
        try Listener("\(directory)/vchan.\(server).0.\(port).sock")
    }

    /// Joins a channel that dom0 offers to a domain.
    func joinChannel(_ domain: UInt32, _ port: UInt32) throws -> Peer {
        let path = "\(directory)/vchan.0.\(domain).\(port).sock"
        try eventually("\(path) is there") { access(path, F_OK) == 0 }
        return try Peer(connectingTo: path)
    }

    func socket(_ name: String) -> String { "\(directory)/qrexec.\(name)" }

    func waitForSockets() throws {
        let path = socket("uuid:\(Self.uuid)")
        try eventually("the daemon listens") { access(path, F_OK) == 0 }
    }

    /// A local client of the daemon that has said HELLO.
    func client(_ name: String = "\(Scene.domain)") throws -> Peer {
        let client = try Peer(connectingTo: socket(name))
        try client.greet(3, answer: 3)
        return client
    }

    /// A target's daemon, played by the test.
    func targetDaemon(_ name: String) throws -> Listener { try Listener(socket(name)) }

    @discardableResult
    func policy(
        _ answer: @escaping @Sendable (String) -> String?
    ) throws -> FakeService {
        let service = try FakeService(
            "\(directory)/policy.sock",
            isComplete: { $0.count >= 2 && $0.suffix(2) == [0x0A, 0x0A] },
            answer: { answer(String(decoding: $0, as: UTF8.self)).map { Array($0.utf8) } })
        services.append(service)
        return service
    }

    /// qubesd, which answers each call by its method's name.
    @discardableResult
    func qubesd(
        _ answer: @escaping @Sendable (String) -> String?
    ) throws -> FakeService {
        let service = try FakeService(
            "\(directory)/qubesd.sock", isComplete: { _ in false },
            answer: { answer(String(decoding: $0, as: UTF8.self)).map { Array($0.utf8) } })
        services.append(service)
        return service
    }

    func install(_ service: String, _ script: String) throws {
        let path = "\(directory)/services/\(service)"
        try "#!/bin/sh\n\(script)\n".write(toFile: path, atomically: false, encoding: .utf8)
        chmod(path, 0o755)
    }
}

/// A service that sleeps until it is ended.
final class Sleeper {
    private let service: String
    private let note: String
    private var process: Int32 = 0

    init(_ service: String, in scene: Scene) throws {
        self.service = service
        note = "\(scene.directory)/\(service).process"
        try scene.install(service, "echo $$ >\(note); exec sleep 1000")
    }

    func waitForStart() throws {
        // The file is there before its number is: one that ends in between writes none.
        try eventually("it runs") {
            let text = try? String(contentsOfFile: note, encoding: .utf8)
            process = text?.last == "\n" ? Int32(text!.dropLast()) ?? 0 : 0
            return process > 0
        }
    }

    func waitForEnd() throws {
        try eventually("it ends") {
            // Its number may be somebody else's by now.
            let command = try? String(contentsOfFile: "/proc/\(process)/cmdline", encoding: .utf8)
            return !["sleep", service].contains { command?.contains($0) == true }
        }
    }
}

/// The policy service's answer that allows a call.
func allow(
    _ target: String, uuid: String? = nil, user: String = "DEFAULT", autostart: Bool = true,
    requested: String? = nil, more: String = ""
) -> String {
    "user=\(user)\nresult=allow\ntarget=\(target)\n"
        + (uuid.map { "target_uuid=\($0)\n" } ?? "")
        + "autostart=\(autostart ? "True" : "False")\n"
        + "requested_target=\(requested ?? target)\n" + more
}

/// A program that a test has started; killed with its test.
final class Running {
    let pid: Int32
    private var child: ChildProcess?
    private let pidfd: Int32
    let input: Peer
    let output: Peer
    let errors: ErrorFile

    /// What it prints as errors; a file, because a pipe that nobody reads would stop it.
    final class ErrorFile {
        fileprivate let descriptor: Descriptor

        fileprivate init() throws { descriptor = try Descriptor.memoryFile("errors") }

        func rest() -> [UInt8] {
            try? descriptor.seek(to: 0)
            return (try? descriptor.readAll(limit: 1 << 28)) ?? []
        }
    }

    init(
        _ path: String, _ arguments: [String], environment: [String], input other: Int32?
    ) throws {
        CurrentProcess.ignoreBrokenPipes()
        let input = try UnixSocket.pair()
        let output = try UnixSocket.pair()
        errors = try ErrorFile()
        var request = SpawnRequest(
            path: path, arguments: [path] + arguments, environment: environment)
        request.descriptors = [
            other ?? input.second.number, output.second.number, errors.descriptor.number,
        ]
        request.diesWithParent = true
        let child = try ChildProcess.spawn(request)
        pid = child.pid
        pidfd = child.pidfd.number
        self.child = consume child
        self.input = Peer(try input.first.duplicate())
        self.output = Peer(try output.first.duplicate())
    }

    deinit { kill() }

    func kill() {
        guard let child = child.take() else { return }
        child.signal(SIGKILL)
        _ = try? child.reap()
    }

    func signal(_ number: Int32) { child?.signal(number) }

    var hasEnded: Bool {
        var entry = pollfd(fd: pidfd, events: Int16(POLLIN), revents: 0)
        return child == nil || poll(&entry, 1, 0) == 1
    }

    /// Its exit status when it ends.
    func status(sourceLocation: SourceLocation = #_sourceLocation) throws -> Int32 {
        var entry = pollfd(fd: pidfd, events: Int16(POLLIN), revents: 0)
        guard poll(&entry, 1, 60_000) == 1 else {
            Issue.record("the program does not end", sourceLocation: sourceLocation)
            kill()
            return -1
        }
        return try child.take()!.reap()
    }
}

/// Waits until something holds.
func eventually(_ what: String, _ holds: () throws -> Bool) throws {
    let deadline = CurrentProcess.now + UInt64(Peer.patience) * 1_000_000_000
    while try !holds() {
        guard CurrentProcess.now < deadline else { throw Failure("it never came true: \(what)") }
        usleep(2000)
    }
}

import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Testing

/// The programs of `make build`, or those that QREXEC_PROGRAMS names.
let builtPrograms: String? = {
    let parts = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
    let places = [CurrentProcess.variable("QREXEC_PROGRAMS"), "/\(parts)/.build/release"]
    return places.compactMap(\.self).first { FileStatus.isExecutable($0 + "/qrexec-vm") }
}()

/// The programs where an ordinary user can run them too: the checkout may be readable by root only.
/// Copied before anything is started, as a file that is open for writing anywhere cannot be run.
private let sharedPrograms: String = {
    guard let built = builtPrograms else { return "" }
    guard CurrentProcess.effectiveUser == 0 else { return built }
    try? PathStatus.removeTree(copiesPath)
    try? PathStatus.makeDirectory(copiesPath, mode: 0o755)
    atexit { try? PathStatus.removeTree(copiesPath) }
    for name in programFiles { try? copyProgram("\(built)/\(name)", to: "\(copiesPath)/\(name)") }
    return copiesPath
}()
private let copiesPath = "/tmp/qrexec-agent-programs.\(CurrentProcess.id)"
private let programFiles = ["qrexec-vm", "qrexec-pam-session", "qrexec-client-vm"]

private func copyProgram(_ from: String, to: String) throws {
    let source = try Descriptor.open(from, O_RDONLY)
    let target = try Descriptor.open(to, O_WRONLY | O_CREAT, mode: 0o755)
    try target.writeAll(try source.readAll(limit: 1 << 30))
}

/// A program that was started; killed by its pid if it still runs at the end.
final class Running {
    let pid: Int32
    private var child: ChildProcess?

    init(_ request: SpawnRequest) throws {
        let child = try ChildProcess.spawn(request)
        pid = child.pid
        self.child = consume child
    }

    deinit {
        guard let child = child.take() else { return }
        child.signal(SIGKILL)
        _ = try? child.reap()
    }

    func signal(_ signal: Int32) { child?.signal(signal) }

    var isRunning: Bool {
        guard let number = child?.pidfd.number else { return false }
        return (try? poll(number, .readable, milliseconds: 0).isEmpty) ?? false
    }

    /// Its exit status, waited for.
    func status() throws -> Int32 {
        guard let number = child?.pidfd.number else { throw Gone("waited for already") }
        guard try !poll(number, .readable, milliseconds: patience).isEmpty else {
            throw Gone("the program does not end")
        }
        guard let ended = child.take() else { throw Gone("waited for already") }
        return try ended.reap()
    }
}

/// The process of a program with an argument of its own; not one that is over and not reaped.
func process(_ name: String, argument: String) -> Int32? {
    for entry in (try? PathStatus.names(in: "/proc")) ?? [] {
        guard let pid = Int32(entry),
            let file = try? Descriptor.open("/proc/\(pid)/cmdline", O_RDONLY),
            let text = try? file.readAll(limit: 1 << 20)
        else { continue }
        let words = text.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        if words.first == name, words.contains(argument) { return pid }
    }
    return nil
}

/// A qube's programs over the socket transport, with dom0, other qubes, local programs and services
/// played by the test. The qube is domain 42, its peers are others.
class Scene {
    static let own: UInt32 = 42
    static let peer: UInt32 = 43

    let directory: TemporaryDirectory
    var path: String { directory.path }
    /// Who the qube's programs run as: an ordinary user, also in a test of root's.
    let user: UserAccount
    let asRoot: Bool
    var extra: [String] = []

    /// - Parameter asRoot: the programs run as root, for tests of root's.
    init(asRoot: Bool = false) throws {
        CurrentProcess.ignoreBrokenPipes()
        directory = try TemporaryDirectory(prefix: "/tmp/qrexec-agent-test")
        self.asRoot = asRoot
        let isRoot = CurrentProcess.effectiveUser == 0
        let account =
            isRoot && !asRoot
            ? UserAccount.named("nobody") : UserAccount.numbered(CurrentProcess.effectiveUser)
        user = try #require(account)
        try PathStatus.changeMode(path, 0o755)
        for name in ["bin", "rpc", "local-rpc", "config"] {
            try PathStatus.makeDirectory("\(path)/\(name)", mode: 0o777)
        }
        try FileStatus.makeLink("\(path)/local-config", to: "config")
        try PathStatus.changeMode(path, 0o777)
        _ = try #require(builtPrograms, "run 'make build' first")
        for file in programFiles {
            try FileStatus.makeLink("\(path)/bin/\(file)", to: "\(sharedPrograms)/\(file)")
        }
        for tool in ["qrexec-agent", "qrexec-fork-server"] {
            try FileStatus.makeLink("\(path)/bin/\(tool)", to: "qrexec-vm")
        }
    }

    var environment: [String] {
        CurrentProcess.environment.filter {
            !$0.hasPrefix("QREXEC") && !$0.hasPrefix("VCHAN") && !$0.hasPrefix("QUBES")
        } + [
            "QREXEC_VCHAN=socket", "VCHAN_DOMAIN=\(Self.own)", "VCHAN_SOCKET_DIR=\(path)",
            "QREXEC_SERVICE_PATH=\(path)/local-rpc:\(path)/rpc",
            "QUBES_RPC_CONFIG_PATH=\(path)/config",
        ] + extra
    }

    /// Starts one of the qube's programs.
    func start(
        _ tool: String, _ arguments: [String], descriptors: [Int32?] = [nil, nil, nil]
    ) throws -> Running {
        try start(program: "\(path)/bin/\(tool)", tool, arguments, descriptors: descriptors)
    }

    func start(
        program: String, _ tool: String, _ arguments: [String],
        descriptors: [Int32?] = [nil, nil, nil]
    ) throws -> Running {
        var request = SpawnRequest(
            path: program, arguments: [tool] + arguments, environment: environment)
        let null = try Descriptor.open("/dev/null", O_RDWR)
        let log = try Descriptor.open(
            "\(path)/\(tool).log", O_WRONLY | O_CREAT | O_APPEND, mode: 0o666)
        request.descriptors = descriptors
        for index in 0..<3 where request.descriptors[index] == nil {
            request.descriptors[index] = index == 2 ? log.number : null.number
        }
        if !asRoot, CurrentProcess.effectiveUser == 0 { request.user = user.identity }
        return try Running(request)
    }

    func log(_ tool: String) -> String { (try? text(of: "\(tool).log")) ?? "" }

    func text(of name: String) throws -> String {
        let file = try Descriptor.open("\(path)/\(name)", O_RDONLY)
        return String(decoding: try file.readAll(limit: 1 << 24), as: UTF8.self)
    }

    func make(_ name: String, _ content: String, mode: UInt32 = 0o644) throws {
        try FileStatus.remove("\(path)/\(name)")
        let file = try Descriptor.open("\(path)/\(name)", O_WRONLY | O_CREAT | O_TRUNC, mode: mode)
        try file.writeAll(bytes(content))
        try PathStatus.changeMode("\(path)/\(name)", mode)
    }

    func makeService(_ name: String, _ script: String, in directory: String = "rpc") throws {
        try make("\(directory)/\(name)", "#!/bin/sh\n\(script)\n", mode: 0o755)
    }

    /// Where a data channel is offered that another qube serves.
    func dataListener(_ port: UInt32 = 513, domain: UInt32 = Scene.peer) throws -> Listener {
        try Listener("\(path)/vchan.\(domain).\(Self.own).\(port).sock")
    }
}

/// The agent with dom0 connected.
class AgentScene: Scene {
    private(set) var agent: Running?
    private var options: [String] = []
    var triggerSocket: String { "\(path)/agent.sock" }

    init(_ options: [String] = ["--no-fork-server"], asRoot: Bool = false) throws {
        try super.init(asRoot: asRoot)
        self.options = ["--agent-socket=\(triggerSocket)"] + options
    }

    /// - Parameter forkServer: name of the fork servers' socket in the scene's directory.
    convenience init(forkServer: String) throws {
        try self.init([])
        options.append("--fork-server-socket=\(path)/\(forkServer)")
    }

    deinit {
        agent?.signal(SIGTERM)
        _ = try? agent?.status()
        // The data process would wait for the next agent.
        guard let data = dataProcess else { return }
        kill(data, SIGTERM)
        _ = try? wait(until: "the data process ended") { self.dataProcess == nil }
    }

    /// The process that holds the calls; it may outlive its agent.
    var dataProcess: Int32? { process("qrexec-agent-data", argument: "\(triggerSocket)-data") }

    func startAgent() throws { agent = try launch(options) }

    func launch(_ arguments: [String]) throws -> Running {
        try start("qrexec-agent", arguments)
    }

    /// Connects as dom0's daemon, without a word.
    func connectDom0() throws -> Peer {
        if agent == nil { try startAgent() }
        return try Peer.connected(to: "\(path)/vchan.\(Self.own).0.512.sock")
    }

    /// dom0's daemon after the handshake.
    func dom0(version: UInt32 = 4) throws -> Peer {
        let dom0 = try connectDom0()
        #expect(try dom0.message() == Message(.hello, little(4)))
        try dom0.send(.hello, little(version))
        return dom0
    }

    /// A local program, connected when the agent listens.
    func client() throws -> Peer { try Peer.connected(to: triggerSocket) }

    func command(_ text: String, user: String? = nil) -> [UInt8] {
        bytes("\(user ?? self.user.name):\(text)") + [0]
    }

    func place(_ port: UInt32 = 513, domain: UInt32 = Scene.peer) -> [UInt8] {
        little(domain) + little(port)
    }

    /// Has dom0 order a command; gives its data channel after the handshake.
    func execute(
        _ dom0: Peer, _ text: String, user: String? = nil, type: MessageType = .execCommandLine,
        port: UInt32 = 513, version: UInt32 = 4
    ) throws -> Peer {
        let listener = try dataListener(port)
        try dom0.send(type, place(port) + command(text, user: user))
        let data = try listener.accept()
        #expect(try data.message() == Message(.hello, little(4)))
        try data.send(.hello, little(version))
        return data
    }

    /// The whole of a call without input.
    func call(
        _ dom0: Peer, _ text: String, user: String? = nil, type: MessageType = .execCommandLine,
        input: [UInt8] = [], port: UInt32 = 513
    ) throws -> Streams {
        let data = try execute(dom0, text, user: user, type: type, port: port)
        if !input.isEmpty { try data.send(.dataStdin, input) }
        if type == .execCommandLine { try data.send(.dataStdin) }
        let streams = try data.streams()
        #expect(try dom0.message() == Message(.connectionTerminated, place(port)))
        return streams
    }

    func service(_ dom0: Peer, _ descriptor: String, input: [UInt8] = []) throws -> Streams {
        try call(dom0, "QUBESRPC \(descriptor) domX", input: input)
    }
}

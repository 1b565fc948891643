import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// `qrexec-fork-server`: started in a user's desktop session, it runs the calls for that user that
/// the agent hands it, so that services inherit the session's environment (section 9).
final class ForkServer {
    /// Calls at a time.
    static let maximumCalls = 2 * Limits.dataPorts
    /// A connection that has not asked by then is dropped.
    private static let requestTime = seconds(30)

    private final class Connection {
        var socket: Descriptor?
        var bytes: [UInt8] = []
        var timer: EventLoop.Timer?
        var session: ServiceSession?
    }

    private let loop: EventLoop
    private let log: Log
    private let path: String
    private let transport: Transport
    private let host: ServiceHost
    private let listener: Descriptor
    private var connections: [UInt64: Connection] = [:]
    private var next: UInt64 = 0

    init(listener: consuming Descriptor, path: String, log: Log) throws {
        loop = try EventLoop()
        self.log = log
        self.path = path
        transport = try Transport.selected()
        host = QubeHost.ofSession()
        let number = listener.number
        self.listener = consume listener
        try loop.watch(number, .readable) { [unowned self] _ in self.accept() }
        try loop.onSignalArrivals([SIGTERM, SIGINT, SIGUSR1]) { [unowned self] in
            if $0.signal == SIGUSR1 {
                SingleSocketSwitch.apply(
                    $0, to: self.connections.values.compactMap { $0.session })
            } else {
                self.stop()
            }
        }
    }

    func run() throws(Errno) { try loop.run() }

    private func stop() {
        try? FileStatus.remove(path)
        for connection in connections.values { connection.session?.cancel() }
        loop.stop()
    }

    private func accept() {
        do throws(Errno) {
            let socket = try UnixSocket.accept(listener)
            let peer = try UnixSocket.peer(of: socket)
            guard peer.uid == 0 || peer.uid == CurrentProcess.effectiveUser else {
                log.warning("a connection by another user is refused", ["uid": "\(peer.uid)"])
                return
            }
            guard connections.count < Self.maximumCalls else {
                log.warning("too many calls at a time: one is refused")
                return
            }
            let number = next
            next += 1
            let connection = Connection()
            let descriptor = socket.number
            connection.socket = consume socket
            connections[number] = connection
            try loop.watch(descriptor, .readable) { [unowned self] _ in self.read(number) }
            connection.timer = loop.schedule(after: Self.requestTime) { [unowned self] in
                self.log.warning("a connection that asks for nothing is dropped")
                self.close(number)
            }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            log.warning("a connection cannot be served", ["reason": error.description])
        }
    }

    private func read(_ number: UInt64) {
        guard let connection = connections[number], let socket = connection.socket?.number else {
            return
        }
        var chunk = [UInt8](repeating: 0, count: 4096)
        let count: Int
        do throws(Errno) {
            count = try UnixSocket.receive(socket, into: &chunk)
        } catch .resourceTemporarilyUnavailable {
            return
        } catch {
            return close(number)
        }
        if count == 0 { return close(number) }
        connection.bytes += chunk[..<count]
        do throws(ProtocolError) {
            guard let size = try ForkServerRequest.size(connection.bytes) else { return }
            if connection.bytes.count < size { return }
            let request = try ForkServerRequest(bytes: connection.bytes)
            connection.bytes = []
            begin(request, number)
        } catch {
            log.warning("a request is refused", ["reason": error.description])
            close(number)
        }
    }

    private func begin(_ request: ForkServerRequest, _ number: UInt64) {
        guard let connection = connections[number], let socket = connection.socket?.number else {
            return
        }
        if let timer = connection.timer.take() { loop.cancel(timer) }
        // The agent says nothing more; when it goes away, the call goes on.
        loop.unwatch(socket)
        let exec = ExecRequest(connect: request.connect, command: request.command)
        do throws(VchanError) {
            guard let domain = DomainID(request.connect.domain),
                let port = Port(request.connect.port)
            else {
                throw .badOffer("domain \(request.connect.domain), port \(request.connect.port)")
            }
            let session = ServiceSession(
                loop: loop, host: host, request: exec, justExec: request.type == .justExec,
                prepared: Self.prepared(request.command),
                channel: try transport.connect(to: domain, port: port), log: log
            ) { [unowned self] in self.close(number) }
            connection.session = session
            try session.start()
        } catch {
            log.warning("a data channel cannot be joined", ["reason": error.description])
            close(number)
        }
    }

    /// The agent has read the service's settings, and applied what there is to apply.
    private static func prepared(_ text: [UInt8]) -> Result<PreparedCall, StartFailure> {
        do throws(ProtocolError) {
            return .success(
                PreparedCall(command: try Command(text, hasUser: false), config: RPCConfig()))
        } catch {
            return .failure(StartFailure(reason: error.description))
        }
    }

    private func close(_ number: UInt64) {
        guard let connection = connections.removeValue(forKey: number) else { return }
        if let timer = connection.timer.take() { loop.cancel(timer) }
        guard let socket = connection.socket.take() else { return }
        loop.unwatch(socket.number)
    }
}

/// `qrexec-fork-server [SOCKET]`.
public enum ForkServerProgram {
    static let usage = """
        Usage: qrexec-fork-server [SOCKET]

        Runs calls for this user inside the present desktop session: the agent hands them over at
        SOCKET (default /var/run/qubes/qrexec-server.USER.sock). Started from the session's
        autostart; returns when the socket is there and goes on in the background.

          -h, --help
          --version
        """

    private struct Arguments {
        var socket = ""
        /// Of the process that stays, told by the one that returns.
        var listener: Int32?
    }

    private static let program = Program(
        "qrexec-fork-server", usage: usage, [.init(long: "listener", takesValue: true)])

    public static func run(arguments: [String]) -> Int32 {
        program.run(arguments, Arguments(), option: set, operands: setSocket, body: serve)
    }

    private static func set(
        _ result: inout Arguments, _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        guard let number = Int32(value), (try? Descriptor.kind(of: number)) == .socket else {
            throw OptionParser.UsageError("--\(name) is not for people")
        }
        result.listener = number
    }

    private static func setSocket(
        _ result: inout Arguments, _ operands: [String]
    ) throws(OptionParser.UsageError) {
        guard operands.count <= 1, operands.first != "" else {
            throw OptionParser.UsageError("one socket at most")
        }
        guard let socket = operands.first ?? standardSocket else {
            throw OptionParser.UsageError("this user has no account: name a socket")
        }
        result.socket = socket
    }

    private static var standardSocket: String? {
        UserAccount.numbered(CurrentProcess.effectiveUser).flatMap {
            AgentPaths.forkServer(AgentPaths.forkServer, user: $0.name)
        }
    }

    private static func serve(_ arguments: Arguments) -> Int32 {
        let log = Log(program: program.name)
        CurrentProcess.ignoreBrokenPipes()
        do {
            guard let number = arguments.listener else {
                try startInBackground(arguments.socket)
                return 0
            }
            let listener = try Descriptor.duplicate(of: number)
            _ = Descriptor(taking: number)
            try ForkServer(listener: listener, path: arguments.socket, log: log).run()
            return 0
        } catch {
            Terminal.printError("\(program.name): \(arguments.socket): \(error)")
            return 1
        }
    }

    /// The socket is there before this process ends.
    private static func startInBackground(_ path: String) throws(Errno) {
        try FileStatus.remove(path)
        let listener = try UnixSocket.listen(path, mode: 0o600)
        var request = SpawnRequest(
            path: "/proc/self/exe", arguments: [program.name, "--listener=3", path],
            environment: CurrentProcess.environment)
        let null = try Descriptor.open("/dev/null", O_RDWR)
        request.descriptors = [null.number, null.number, 2, listener.number]
        request.newSession = true
        _ = try ChildProcess.spawn(request)
    }
}

import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// `qrexec-client`: calls from dom0 (specification, section 7).
public enum ClientProgram {
    static let usage = """
        Usage: qrexec-client -d QUBE [OPTIONS] USER:COMMAND

        Runs COMMAND as USER (DEFAULT: the qube's default user) in QUBE and connects it to standard
        input and output. `USER:QUBESRPC SERVICE[+ARGUMENT] SOURCE` calls a service. A halted qube
        is started. QUBE is a name, a domain number, uuid:UUID, or dom0.

          -d QUBE
          -l PROGRAM           connect PROGRAM (a shell command, or QUBESRPC …) instead
          -e                   only start the command: return when it has started
          -E, --no-exit-code   end with status 0 whatever the command's
          -t, -T               replace what a terminal cannot be trusted with in output, errors
          -w SECONDS           for the qube to connect (default 10, 0: no limit)
          -k                   kill the qube at the end
          -p, --prefix-data=TEXT  send TEXT before standard input
          --use-stdin-socket   standard input is a socket, to be used both ways
          --socket-dir=DIR     where the daemons' sockets are (default /var/run/qubes)
          -h, --help
          --version

        Exit status: that of the command; 125 it could not be started, 126 refused, 127 no such
        service, 255 the connection was lost; 1 wrong usage.
        """

    struct Arguments {
        var target = ""
        var command: [UInt8] = []
        var session = CallerSession.Options()
        var localProgram: String?
        var startsOnly = false
        var ignoresStatus = false
        var killsTarget = false
        var socketDirectory = "/var/run/qubes"
        var shown: String?
    }

    public static func run(arguments: [String]) -> Int32 {
        let parsed: Arguments
        do throws(OptionParser.UsageError) {
            parsed = try parse(Array(arguments.dropFirst()))
        } catch {
            Terminal.printError("qrexec-client: \(error.description)")
            Terminal.printError("Try 'qrexec-client --help'.")
            return 1
        }
        if let shown = parsed.shown {
            Terminal.print(shown)
            return 0
        }
        CurrentProcess.ignoreBrokenPipes()
        var log = Log(program: "qrexec-client")
        log.stampsTime = false
        do {
            let status =
                RequestedCall.isDom0(parsed.target)
                ? try InnerCall.run(parsed)
                : try ClientCall(parsed, log: log).run()
            return parsed.ignoresStatus ? 0 : status & 0xFF
        } catch let failure as StartFailure {
            Terminal.printError("qrexec-client: \(failure.reason)")
            return failure.status
        } catch {
            Terminal.printError("qrexec-client: \(error)")
            return CallStatus.problem
        }
    }

    private static let parser = OptionParser(
        [
            .init(short: "d", takesValue: true), .init(short: "l", takesValue: true),
            .init(short: "e"), .init(short: "E", long: "no-exit-code"),
            .init(short: "t"), .init(short: "T"), .init(short: "w", takesValue: true),
            .init(short: "k"), .init(short: "p", long: "prefix-data", takesValue: true),
            .init(long: "use-stdin-socket"), .init(long: "socket-dir", takesValue: true),
            .init(short: "h", long: "help"), .init(long: "version"),
        ], stopsAtOperand: true)

    private static func parse(
        _ list: [String]
    ) throws(OptionParser.UsageError) -> Arguments {
        var result = Arguments()
        result.session.connectTimeout = TimeLimits.dom0Connect
        let operands = try parser.parse(list) { (name, value) throws(OptionParser.UsageError) in
            try set(name, value, in: &result)
        }
        if result.shown != nil { return result }
        guard !result.target.isEmpty, !result.target.contains("/") else {
            throw OptionParser.UsageError("-d QUBE is needed")
        }
        guard operands.count == 1 else {
            throw OptionParser.UsageError("one USER:COMMAND is needed, in one argument")
        }
        result.command = Array(operands[0].utf8)
        guard result.command.contains(0x3A) else {
            throw OptionParser.UsageError("'\(operands[0])' names no user: expected USER:COMMAND")
        }
        if result.localProgram != nil, result.startsOnly || result.session.usesInputSocket {
            throw OptionParser.UsageError("-l excludes -e and --use-stdin-socket")
        }
        result.session.startsOnly = result.startsOnly
        return result
    }

    private static func set(
        _ name: String, _ value: String, in result: inout Arguments
    ) throws(OptionParser.UsageError) {
        switch name {
        case "d": result.target = value
        case "l": result.localProgram = value
        case "e": result.startsOnly = true
        case "no-exit-code": result.ignoresStatus = true
        case "t": result.session.filtersOutput = true
        case "T": result.session.filtersError = true
        case "w":
            guard let limit = UInt64(value), limit < 1 << 30 else {
                throw OptionParser.UsageError("-w: '\(value)' is no number of seconds")
            }
            result.session.connectTimeout = limit == 0 ? nil : limit
        case "k": result.killsTarget = true
        case "prefix-data": result.session.prefix = Array(value.utf8)
        case "use-stdin-socket": result.session.usesInputSocket = true
        case "socket-dir": result.socketDirectory = value
        case "help": result.shown = usage
        default: result.shown = Version.line("qrexec-client")
        }
    }
}

/// A call from dom0 to dom0: the service is started right here.
private enum InnerCall {
    static func run(_ arguments: ClientProgram.Arguments) throws -> Int32 {
        guard arguments.localProgram == nil else {
            throw StartFailure(reason: "-l cannot be used with a call from dom0 to dom0")
        }
        let command = try Command(arguments.command, hasUser: true)
        guard case .service(let call) = command.kind else {
            throw StartFailure(reason: "in dom0 only services (QUBESRPC …) can be called")
        }
        return try ChildProcess.spawn(request(for: call)).reap()
    }

    /// The local service of a `QUBESRPC …` command, which must be an executable.
    static func request(for call: ServiceCall) throws -> SpawnRequest {
        let service: ServiceLookup.Service
        do throws(ServiceLookup.Failure) {
            service = try ServiceLookup.configured.find(call)
        } catch {
            throw StartFailure(status: error.status, reason: "\(call.service): \(error)")
        }
        guard case .executable(let path) = service else {
            throw StartFailure(reason: "\(call.service): no executable service")
        }
        return try Dom0Host.make().request(.executable(path: path, call: call), nil)
    }
}

/// A call from dom0 to a qube: command to its daemon, then the data channel.
private final class ClientCall {
    private let arguments: ClientProgram.Arguments
    private let log: Log
    private let loop: EventLoop
    private let qubesd: QubesdCall
    private var connection: DaemonConnection?
    private var session: CallerSession?
    private var result: Result<Int32, StartFailure> = .success(CallStatus.problem)

    private static let startTime = seconds(180)

    init(_ arguments: ClientProgram.Arguments, log: Log) throws {
        self.arguments = arguments
        self.log = log
        loop = try EventLoop()
        qubesd = QubesdCall(loop: loop)
        try loop.onSignals([SIGINT, SIGTERM, SIGHUP]) { [unowned self] signal in
            self.session?.restoreStreams()
            CurrentProcess.die(of: signal)
        }
    }

    func run() throws -> Int32 {
        connect(started: false)
        try loop.run()
        if arguments.killsTarget { try kill() }
        return try result.get()
    }

    private func end(_ result: Result<Int32, StartFailure>) {
        self.result = result
        loop.stop()
    }

    private func kill() throws {
        qubesd.call("admin.vm.Kill", destination: arguments.target, timeout: Self.startTime) {
            [unowned self] in
            if case .failure(let failure) = $0 {
                self.log.warning("\(self.arguments.target) cannot be killed: \(failure)")
            }
            self.loop.stop()
        }
        try loop.run()
    }

    private func connect(started: Bool) {
        let path = "\(arguments.socketDirectory)/qrexec.\(arguments.target)"
        let request = ExecRequest(
            connect: ConnectParameters(domain: 0, port: 0), command: arguments.command)
        do throws(DaemonConnection.Failure) {
            connection = try DaemonConnection(
                loop: loop, path: path,
                type: arguments.startsOnly ? .justExec : .execCommandLine, request: request
            ) { [unowned self] in self.answered($0) }
        } catch {
            guard case .unreachable(_, let reason) = error, !started,
                reason == .noSuchFileOrDirectory || reason == .connectionRefused
            else {
                end(.failure(StartFailure(reason: error.description)))
                return
            }
            startTarget()
        }
    }

    private func startTarget() {
        qubesd.call("admin.vm.Start", destination: arguments.target, timeout: Self.startTime) {
            [unowned self] in
            switch $0 {
            case .success, .failure(.refused(type: "QubesVMNotHaltedError", text: _)):
                self.connect(started: true)
            case .failure(let failure):
                let reason = "\(self.arguments.target) cannot be started: \(failure)"
                self.end(.failure(StartFailure(reason: reason)))
            }
        }
    }

    private func answered(_ answer: Result<ConnectParameters, DaemonConnection.Failure>) {
        do {
            try serve(answer.get())
        } catch let failure as StartFailure {
            end(.failure(failure))
        } catch {
            end(.failure(StartFailure(reason: "\(error)")))
        }
    }

    private func serve(_ place: ConnectParameters) throws {
        var options = arguments.session
        if let program = arguments.localProgram {
            options.localProgram = try localProgram(program)
        }
        session = try CallerSession.serving(
            place, ringSize: Limits.dataRing, loop: loop, options: options, log: log
        ) { [unowned self] in self.end(.success($0)) }
    }

    private func localProgram(_ text: String) throws -> SpawnRequest {
        let command = try Command(Array(text.utf8), hasUser: false)
        switch command.kind {
        case .service(let call): return try InnerCall.request(for: call)
        case .shell(let line):
            var request = try Dom0Host.make().request(.shell(line), nil)
            request.environment.append("QREXEC_REMOTE_DOMAIN=\(arguments.target)")
            return request
        }
    }
}

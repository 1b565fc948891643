import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// `qrexec-daemon`.
public enum DaemonProgram {
    static let usage = """
        Usage: qrexec-daemon [OPTIONS] [--] DOMID NAME [DEFAULT_USER]

        Stands in dom0 for the qube NAME with domain number DOMID: asks the policy for the qube's
        calls and passes dom0's and other qubes' calls to its agent. Returns when the agent is
        connected. DEFAULT_USER is "user" unless given.

          -u, --uuid=UUID       the qube's uuid
          -D, --direct          stay in the foreground, log to standard error
          -q, --quiet           warnings and errors only
          -p, --policy-program=PROGRAM  asked about a call when the policy service does not answer:
                                PROGRAM [--requested-source=REMOTE] -- SOURCE TARGET SERVICE
          --socket-dir=DIR      where the daemons' sockets are (default /var/run/qubes)
          -h, --help
          --version

        Environment: QREXEC_STARTUP_TIMEOUT (seconds, default 60), QREXEC_STARTUP_NOWAIT,
        QREXEC_POLICY_SOCKET, QUBESD_SOCKET, QREXEC_VCHAN.

        Exit status: 0; 3 the agent did not connect in time; 1 any other failure.
        """

    struct Arguments {
        /// The program's name: the daemon itself, or its starter.
        var program = "qrexec-daemon"
        var daemon = Daemon.Options()
        var direct = false
        var quiet = false
        /// Of the process that stays, told by the one that waits.
        var readyDescriptor: Int32?
        /// Of a confined daemon: leads to the dispatcher.
        var dispatcherDescriptor: Int32?
        /// Of the starter: where daemons are registered, and what is started as one.
        var dispatcherSocket = Dispatcher.defaultSocket
        var confinedProgram: String?
    }

    private static let program = Program(
        "qrexec-daemon", usage: usage, options, stopsAtOperand: true)

    public static func run(arguments: [String]) -> Int32 {
        program.run(arguments, Arguments(), option: set, operands: setQube) { parsed in
            CurrentProcess.ignoreBrokenPipes()
            do {
                if parsed.direct || parsed.readyDescriptor != nil { return try serve(parsed) }
                return try startInBackground(parsed, arguments, waits: waitsForAgent)
            } catch {
                Terminal.printError("\(program.name): \(error)")
                return 1
            }
        }
    }

    /// Those that the starter has too.
    static let options: [OptionParser.Option] = [
        .init(short: "u", long: "uuid", takesValue: true),
        .init(short: "D", long: "direct"),
        .init(short: "q", long: "quiet"),
        .init(short: "p", long: "policy-program", takesValue: true),
        .init(long: "socket-dir", takesValue: true),
        .init(long: "ready-descriptor", takesValue: true),
        .init(long: "dispatcher-descriptor", takesValue: true),
    ]

    static func set(
        _ result: inout Arguments, _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        switch name {
        case "uuid": result.daemon.uuid = value
        case "direct": result.direct = true
        case "quiet": result.quiet = true
        case "policy-program": result.daemon.policyProgram = value
        case "socket-dir": result.daemon.socketDirectory = value
        case "ready-descriptor": result.readyDescriptor = Int32(value)
        default: result.dispatcherDescriptor = Int32(value)
        }
    }

    static func setQube(
        _ result: inout Arguments, _ operands: [String]
    ) throws(OptionParser.UsageError) {
        guard (2...3).contains(operands.count) else {
            throw OptionParser.UsageError("DOMID and NAME are needed")
        }
        guard let number = UInt32(operands[0]), let domain = DomainID(number), domain != .dom0
        else {
            throw OptionParser.UsageError("'\(operands[0])' is no domain number above 0")
        }
        result.daemon.domain = domain
        result.daemon.name = operands[1]
        guard !operands[1].isEmpty, operands[1].utf8.allSatisfy(Names.isTargetCharacter) else {
            throw OptionParser.UsageError("'\(LogText.line(operands[1]))' is no qube's name")
        }
        let uuid = result.daemon.uuid ?? "-"
        // It becomes a part of a path.
        guard !uuid.isEmpty, uuid.utf8.allSatisfy(Names.isServiceCharacter) else {
            throw OptionParser.UsageError("'\(LogText.line(uuid))' is no uuid")
        }
        if operands.count == 3 { result.daemon.defaultUser = operands[2] }
    }

    private static var startupTimeout: UInt64 {
        guard let text = CurrentProcess.variable("QREXEC_STARTUP_TIMEOUT"),
            let value = UInt64(text), value > 0, value < 1 << 30
        else { return TimeLimits.daemonStart }
        return value
    }

    static var waitsForAgent: Bool {
        CurrentProcess.variable("QREXEC_STARTUP_NOWAIT") == nil
    }

    private static func serve(_ arguments: Arguments) throws -> Int32 {
        var log = Log(program: "qrexec-daemon/\(arguments.daemon.name)")
        if arguments.quiet { log.threshold = .warning }
        let daemon: Daemon
        if let number = arguments.dispatcherDescriptor {
            daemon = try Daemon(
                options: arguments.daemon, log: log, dispatcher: Descriptor(taking: number))
            try DaemonConfinement.finish()
        } else {
            daemon = try Daemon(options: arguments.daemon, log: log)
        }
        if let number = arguments.readyDescriptor {
            var ready: Descriptor? = Descriptor(taking: number)
            daemon.onReady = {
                try? ready?.writeAll([1])
                _ = ready.take()
            }
        }
        let timeout = waitsForAgent ? startupTimeout : UInt64(1) << 30
        return try daemon.run(startupTimeout: timeout)
    }

    private static func openLog(_ path: String) throws(Errno) -> Descriptor {
        do throws(Errno) {
            let log = try Descriptor.open(path, O_WRONLY | O_CREAT | O_APPEND, mode: 0o660)
            // Whatever the mask; of a file that is somebody else's the mode stays.
            try? PathStatus.changeMode(path, 0o660)
            return log
        } catch {
            Terminal.printError("qrexec-daemon: \(path): \(error); there will be no log")
            return try Descriptor.open("/dev/null", O_WRONLY)
        }
    }

    /// Starts the process that stays, with its log, and waits until its agent has connected.
    static func startInBackground(
        _ arguments: Arguments, _ list: [String], waits: Bool
    ) throws -> Int32 {
        let ready = try Descriptor.pipe()
        let null = try Descriptor.open("/dev/null", O_RDONLY)
        let logPath = "/var/log/qubes/qrexec.\(arguments.daemon.name).log"
        let logFile = try openLog(logPath)
        var request = SpawnRequest(
            path: "/proc/self/exe",
            arguments: [arguments.program, "--ready-descriptor=3"] + list.dropFirst(),
            environment: CurrentProcess.environment)
        request.descriptors = [null.number, logFile.number, logFile.number, ready.second.number]
        request.directory = "/"
        request.newSession = true
        let child = try ChildProcess.spawn(request)
        _ = consume ready.second
        if !waits { return 0 }
        var byte: [UInt8] = [0]
        if try ready.first.read(into: &byte) == 1 { return 0 }
        let status = try child.reap()
        Terminal.printError(
            "\(arguments.program): did not start (status \(status)); see \(logPath)")
        return status == 3 ? 3 : 1
    }
}

import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// `qrexec-daemon-starter`: starts a daemon that has nothing but its log, and a line to the
/// dispatcher that is bound to its qube (design: blast radius).
public enum StarterProgram {
    public static let name = "qrexec-daemon-starter"

    static let usage = """
        Usage: qrexec-daemon-starter [OPTIONS] [--] DOMID NAME [DEFAULT_USER]

        Starts qrexec-daemon for a qube, confined: no capabilities, no file, no connection, no other
        program; only its qube's channels, its own socket, and the dispatcher in
        qrexec-policy-daemon, which knows it as NAME whatever it says. Started by root, it runs as
        the first member of the group qubes.

          -u, --uuid=UUID       the qube's uuid
          -D, --direct          stay in the foreground, log to standard error
          -q, --quiet           warnings and errors only
          --socket-dir=DIR      where the daemons' sockets are (default /var/run/qubes)
          --dispatcher-socket=PATH  of the dispatcher (default /run/qubes/dispatcher.sock)
          --program=PATH        confined in the place of qrexec-daemon; statically linked
          -h, --help
          --version

        With QREXEC_VCHAN=libxenvchan, whose channels cannot be handed to a confined process,
        qrexec-daemon is started with all its starter's rights, and the log says so.

        Environment: as for qrexec-daemon; policy and qubesd are the dispatcher's.

        Exit status: 0; 3 the agent did not connect in time; 1 any other failure.
        """

    /// For the dispatcher to come up.
    private static let patience = seconds(10)
    /// The account that owns nothing, where there is nobody else.
    private static let nobody: UInt32 = 65534

    /// Whom daemons and the services of dom0 run as when the starter is root.
    static var daemonUser: UserIdentity {
        UserGroup.firstMember(of: "qubes").flatMap(UserAccount.named)?.identity
            ?? UserIdentity(uid: nobody, gid: nobody, groups: [])
    }

    private static let program = Program(
        name, usage: usage,
        DaemonProgram.options + [
            .init(long: "dispatcher-socket", takesValue: true),
            .init(long: "program", takesValue: true),
        ], stopsAtOperand: true)

    public static func run(arguments: [String]) -> Int32 {
        var start = DaemonProgram.Arguments()
        start.program = name
        return program.run(
            arguments, start, option: set, operands: DaemonProgram.setQube
        ) { parsed in
            do {
                if !parsed.direct, parsed.readyDescriptor == nil {
                    return try DaemonProgram.startInBackground(
                        parsed, arguments, waits: DaemonProgram.waitsForAgent)
                }
                if (try? Transport.selected())?.handsOver == false { try startUnconfined(parsed) }
                try self.start(parsed)
            } catch {
                Terminal.printError("\(name): \(error)")
                return 1
            }
        }
    }

    private static func set(
        _ result: inout DaemonProgram.Arguments, _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        switch name {
        case "dispatcher-socket": result.dispatcherSocket = value
        case "program": result.confinedProgram = value
        default: try DaemonProgram.set(&result, name, value)
        }
    }

    /// The way of the reference implementation, for a transport that leaves no other.
    private static func startUnconfined(_ arguments: DaemonProgram.Arguments) throws -> Never {
        let daemon = arguments.daemon
        Log(program: name).warning(
            "the C libxenvchan opens its devices itself: qrexec-daemon is not confined",
            ["qube": daemon.name])
        var list = ["qrexec-daemon", "--direct", "--socket-dir=\(daemon.socketDirectory)"]
        if let uuid = daemon.uuid { list.append("--uuid=\(uuid)") }
        if let program = daemon.policyProgram { list.append("--policy-program=\(program)") }
        if let ready = arguments.readyDescriptor { list.append("--ready-descriptor=\(ready)") }
        if arguments.quiet { list.append("--quiet") }
        list += ["--", "\(daemon.domain)", daemon.name, daemon.defaultUser]
        try CurrentProcess.execute(
            arguments.confinedProgram ?? "/proc/self/exe", list,
            environment: CurrentProcess.environment)
    }

    private static func start(_ arguments: DaemonProgram.Arguments) throws -> Never {
        let openPathOnly: Int32 = 0o10000000
        let path = arguments.confinedProgram ?? "/proc/self/exe"
        let program = try Descriptor.open(path, openPathOnly)
        let null = try Descriptor.open("/dev/null", O_RDWR)
        let pair = try UnixSocket.pair(.sequencedPacket)
        try register(arguments, pair.second)
        if CurrentProcess.effectiveUser == 0 {
            let user = daemonUser
            try Confinement.become(user: user.uid, group: user.gid)
        }
        var list = ["qrexec-daemon", "--direct", "--dispatcher-descriptor=3"]
        var descriptors = [null.release(), 2, 2, pair.first.release()]
        if let ready = arguments.readyDescriptor {
            list.append("--ready-descriptor=4")
            descriptors.append(ready)
        }
        if arguments.quiet { list.append("--quiet") }
        let daemon = arguments.daemon
        list += ["--", "\(daemon.domain)", daemon.name, daemon.defaultUser]
        try DaemonConfinement.become(
            program, path: path, arguments: list, environment: CurrentProcess.environment,
            descriptors: descriptors
        ) { gaps in
            if let landlock = gaps.landlock {
                Terminal.printError(
                    "\(name): no Landlock (\(landlock)); the filter of system calls has to do")
            }
        }
    }

    /// Tells the dispatcher which qube the daemon at the other end of `line` is for.
    private static func register(
        _ arguments: DaemonProgram.Arguments, _ line: borrowing Descriptor
    ) throws {
        let deadline = CurrentProcess.now + patience
        let daemon = arguments.daemon
        let message = DispatchMessage(
            "register",
            [
                "domain": "\(daemon.domain)", "name": daemon.name, "uuid": daemon.uuid,
                "socket-dir": daemon.socketDirectory,
            ])
        while true {
            do throws(Errno) {
                let connection = try UnixSocket.connect(
                    arguments.dispatcherSocket, .sequencedPacket)
                _ = try UnixSocket.send(
                    connection, message.bytes, descriptors: [line.number, 2], wait: true)
                return
            } catch {
                let isAway =
                    [.noSuchFileOrDirectory, .connectionRefused, .resourceTemporarilyUnavailable]
                    .contains(error)
                guard isAway, CurrentProcess.now < deadline else {
                    throw StartFailure(
                        reason: "\(arguments.dispatcherSocket): \(error); is "
                            + "qrexec-policy-daemon running?")
                }
            }
            usleep(20_000)
        }
    }
}

extension StartFailure: CustomStringConvertible {
    public var description: String { reason }
}

import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qrexec-agent`.
public enum AgentProgram {
    static let usage = """
        Usage: qrexec-agent [OPTIONS]

        Serves this qube's calls: starts services for dom0 and other qubes, and asks dom0 for local
        programs (qrexec-client-vm). As root it runs services as any user, in a PAM session of the
        service "qrexec"; else only as its own user, without PAM.

          -a, --agent-socket=PATH  socket for local programs
                                   (default /var/run/qubes/qrexec-agent)
          -s, --fork-server-socket=PATH
                                   socket of the users' fork servers, "%s" stands for the user
                                   (default /var/run/qubes/qrexec-server.%s.sock)
          -S, --no-fork-server     never hand a call to a fork server
          --no-pam                 no PAM sessions (images without PAM)
          -h, --help
          --version

        Environment: QREXEC_VCHAN (xen, libxenvchan, local, socket), QREXEC_SERVICE_PATH,
        QUBES_RPC_CONFIG_PATH.
        """

    private static let program = Program(
        "qrexec-agent", usage: usage,
        [
            .init(short: "a", long: "agent-socket", takesValue: true),
            .init(short: "s", long: "fork-server-socket", takesValue: true),
            .init(short: "S", long: "no-fork-server"),
            .init(long: "no-pam"),
        ])

    public static func run(arguments: [String]) -> Int32 {
        program.run(arguments, Agent.Options(), option: set, operands: Program.none, body: serve)
    }

    private static func set(
        _ options: inout Agent.Options, _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        switch name {
        case "agent-socket": options.triggerSocket = value
        case "fork-server-socket": options.calls.forkServer = value
        case "no-fork-server": options.calls.forkServer = nil
        default: options.calls.usesPAM = false
        }
        if value.isEmpty, name.hasSuffix("-socket") {
            throw OptionParser.UsageError("option --\(name) needs a path")
        }
    }

    private static func serve(_ options: Agent.Options) -> Int32 {
        let log = Log(program: program.name)
        CurrentProcess.ignoreBrokenPipes()
        do {
            try Agent(options: options, log: log).run()
            return 0
        } catch {
            log.error("cannot run", ["reason": "\(error)"])
            return 1
        }
    }
}

/// `qrexec-agent-data SOCKET [SETTINGS]`: started by the agent only, with the listening socket as
/// descriptor 3.
public enum AgentDataProgram {
    public static func run(arguments: [String]) -> Int32 {
        let log = Log(program: AgentDataStarter.programName)
        guard arguments.count >= 2, arguments[1].hasPrefix("/"),
            (try? Descriptor.kind(of: AgentDataStarter.listenerNumber)) == .socket
        else {
            Terminal.printError(
                "qrexec-agent-data: is started by qrexec-agent, which holds what it needs")
            return 2
        }
        CurrentProcess.ignoreBrokenPipes()
        do {
            let listener = try Descriptor.duplicate(of: AgentDataStarter.listenerNumber)
            _ = Descriptor(taking: AgentDataStarter.listenerNumber)
            try AgentDataProcess(
                listener: listener, path: arguments[1],
                options: CallOptions(arguments: Array(arguments[2...])), log: log
            ).run()
            return 0
        } catch {
            log.error("cannot run", ["reason": "\(error)"])
            return 1
        }
    }
}

/// How calls are started in this qube.
struct CallOptions: Equatable {
    /// Socket of a user's fork server, `%s` stands for the user; nil for none.
    var forkServer: String? = AgentPaths.forkServer
    /// Whether an agent that is root opens PAM sessions.
    var usesPAM = true

    init() {}

    /// As `arguments` gives them.
    init(arguments: [String]) {
        forkServer = nil
        for argument in arguments {
            if argument == Self.noPAM { usesPAM = false }
            if argument.hasPrefix(Self.forkServerPrefix) {
                forkServer = String(argument.dropFirst(Self.forkServerPrefix.count))
            }
        }
    }

    private static let noPAM = "--no-pam"
    private static let forkServerPrefix = "--fork-server-socket="

    var arguments: [String] {
        (usesPAM ? [] : [Self.noPAM]) + (forkServer.map { [Self.forkServerPrefix + $0] } ?? [])
    }
}

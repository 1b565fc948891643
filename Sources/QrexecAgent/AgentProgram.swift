import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qrexec-agent`.
public enum AgentProgram {
    static let usage = """
        Usage: qrexec-agent [OPTIONS]

        Serves this qube's calls: starts services for dom0 and other qubes, and asks dom0 for local
        programs (qrexec-client-vm). As root it runs services as any user; else only as its own.

          -a, --agent-socket=PATH  socket for local programs
                                   (default /var/run/qubes/qrexec-agent)
          -h, --help
          --version

        Environment: QREXEC_VCHAN (xen, libxenvchan, local, socket), QREXEC_SERVICE_PATH,
        QUBES_RPC_CONFIG_PATH.
        """

    private struct Arguments {
        var agent = Agent.Options()
        var shown: String?
    }

    private static func parse(
        _ list: [String]
    ) throws(OptionParser.UsageError) -> Arguments {
        let parser = OptionParser([
            .init(short: "a", long: "agent-socket", takesValue: true),
            .init(short: "h", long: "help"),
            .init(long: "version"),
        ])
        var result = Arguments()
        let operands = try parser.parse(list) { name, value in
            switch name {
            case "agent-socket": result.agent.triggerSocket = value
            case "help": result.shown = usage
            default: result.shown = Version.line("qrexec-agent")
            }
        }
        if let extra = operands.first {
            throw OptionParser.UsageError("unexpected argument '\(extra)'")
        }
        return result
    }

    public static func run(arguments: [String]) -> Int32 {
        let log = Log(program: "qrexec-agent")
        let parsed: Arguments
        do throws(OptionParser.UsageError) {
            parsed = try parse(Array(arguments.dropFirst()))
        } catch {
            Terminal.printError("qrexec-agent: \(error.description)")
            Terminal.printError("Try 'qrexec-agent --help'.")
            return 1
        }
        if let shown = parsed.shown {
            Terminal.print(shown)
            return 0
        }
        CurrentProcess.ignoreBrokenPipes()
        do {
            try Agent(options: parsed.agent, log: log).run()
            return 0
        } catch {
            log.error("cannot run", ["reason": "\(error)"])
            return 1
        }
    }
}

/// `qrexec-agent-data SOCKET`: started by the agent only, with the listening socket as descriptor 3.
public enum AgentDataProgram {
    public static func run(arguments: [String]) -> Int32 {
        let log = Log(program: AgentDataStarter.programName)
        guard arguments.count == 2, arguments[1].hasPrefix("/"),
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
            try AgentDataProcess(listener: listener, path: arguments[1], log: log).run()
            return 0
        } catch {
            log.error("cannot run", ["reason": "\(error)"])
            return 1
        }
    }
}

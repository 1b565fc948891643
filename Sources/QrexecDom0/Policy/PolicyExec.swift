import LinuxSystem
import QrexecPolicy
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// `qrexec-policy-exec`: decides one call without the service, asking people where a rule says so.
public enum PolicyExec {
    static let program = "qrexec-policy-exec"

    static let help = """
        usage: qrexec-policy-exec [OPTION]... SOURCE TARGET SERVICE[+ARG]
               qrexec-policy-exec [OPTION]... DOMID SOURCE TARGET SERVICE[+ARG] IDENT

        Decides a call by the policy of this machine and prints the answer that a daemon gets. The
        second form, which no daemon of today uses, connects an allowed call instead: request IDENT
        of domain DOMID, which waits for it.

          --assume-yes-for-ask    count 'ask' as allowed where the target may be chosen
          --just-evaluate         print nothing, ask nobody: the exit status tells
          --requested-source NAME the remote qube that SOURCE, a relay, makes the call for
          --path PATH             directory of policy files; may be given several times
          -h, --help              this text
          --version               the version

        Exit status: 0 allowed, 1 denied or in doubt, 64 for a wrong command line. The second form
        ends with the status of the call's connection.

        """

    private struct Command {
        var assumesYes = false
        var justEvaluates = false
        var requestedSource = ""
        var paths: [String] = []
        var call: [String] = []
    }

    /// Decides one call.
    ///
    /// - Parameter arguments: the program's name first.
    public static func run(arguments: [String]) -> Int32 {
        var command = Command()
        let parser = OptionParser([
            .init(long: "assume-yes-for-ask"), .init(long: "just-evaluate"),
            .init(long: "requested-source", takesValue: true),
            .init(long: "path", takesValue: true), .init(short: "h", long: "help"),
            .init(long: "version"),
        ])
        var isHelp = false
        var isVersion = false
        do throws(OptionParser.UsageError) {
            command.call = try parser.parse(Array(arguments.dropFirst())) { name, value in
                switch name {
                case "assume-yes-for-ask": command.assumesYes = true
                case "just-evaluate": command.justEvaluates = true
                case "requested-source": command.requestedSource = value
                case "path": command.paths.append(value)
                case "help": isHelp = true
                default: isVersion = true
                }
            }
        } catch {
            return misused(error.description)
        }
        if isHelp || isVersion {
            let text = isHelp ? help : Version.line(program) + "\n"
            try? Descriptor.writeAll(Array(text.utf8), to: 1)
            return 0
        }
        switch command.call.count {
        case 3: return decide(command)
        case 5: return execute(command)
        default:
            return misused(
                "expected SOURCE TARGET SERVICE[+ARG], "
                    + "or DOMID SOURCE TARGET SERVICE[+ARG] IDENT")
        }
    }

    private static func misused(_ text: String) -> Int32 {
        let line = "\(program): \(text); try --help\n"
        try? Descriptor.writeAll(Array(line.utf8), to: 2)
        return 64
    }

    private static func decide(_ command: Command) -> Int32 {
        let log = Log(program: program)
        CurrentProcess.ignoreBrokenPipes()
        do throws(Errno) {
            let verdict = try verdict(command, command.call, try EventLoop(), log)
            guard let verdict else { return 1 }
            if !command.justEvaluates { try Descriptor.writeAll(verdict.answer, to: 1) }
            return verdict.isAllowed ? 0 : 1
        } catch {
            log.error("cannot decide: \(error)")
            return 1
        }
    }

    /// - Parameter call: source, target, service.
    private static func verdict(
        _ command: Command, _ call: [String], _ loop: EventLoop, _ log: Log
    ) throws(Errno) -> PolicyVerdict? {
        let directories =
            command.paths.isEmpty ? PolicyDirectories() : PolicyDirectories(command.paths)
        let authority = try PolicyAuthority(loop, directories, log: log)
        let query = PolicyQuery(
            source: Array(call[0].utf8), target: Array(call[1].utf8),
            service: Array(call[2].utf8), claimedSource: Array(command.requestedSource.utf8),
            assumesYes: command.assumesYes, justEvaluates: command.justEvaluates)
        var verdict: PolicyVerdict?
        let pending = authority.decide(query) {
            verdict = $0
            loop.stop()
        }
        if verdict == nil {
            try withExtendedLifetime((pending, authority)) { () throws(Errno) in try loop.run() }
        }
        return verdict
    }

    private static func execute(_ command: Command) -> Int32 {
        let log = Log(program: program)
        CurrentProcess.ignoreBrokenPipes()
        do {
            let loop = try EventLoop()
            let execution = try PolicyExecution(
                domain: command.call[0], source: command.call[1], identifier: command.call[4],
                service: command.call[3], client: PolicyAuthority.Paths().client, loop: loop)
            guard let verdict = try verdict(command, Array(command.call[1...3]), loop, log),
                verdict.isAllowed
            else { return 1 }
            if command.justEvaluates { return 0 }
            guard let permission = try PolicyAnswer(bytes: verdict.answer).permission else {
                return 1
            }
            return try execution.execute(permission)
        } catch {
            log.error("\(error)")
            return 1
        }
    }
}

import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qvm-run-vm`: runs a command in another qube, by its `qubes.VMShell`. Exit status: the command's;
/// 2 for a wrong command line, 126 when refused.
public enum RunInVMTool {
    struct Command: Equatable {
        var target = ""
        var waitsForSession = true
        /// What the shell there is to run.
        var line = ""
    }

    private static let help = """
        usage: qvm-run-vm [-t] QUBE COMMAND [ARGUMENT]...
               qvm-run-vm [-t] --dispvm COMMAND [ARGUMENT]...

        Runs a command in another qube, with this standard input, output and error. The words are
        joined by blanks and run by a shell there (service qubes.VMShell).

          -d, --dispvm   in a new disposable qube; so do @dispvm and @dispvm:TEMPLATE as QUBE
          -t, --no-gui   do not wait for the graphical session of the other qube
          -h, --help     this text
          --version      the version

        Example: qvm-run-vm --dispvm firefox https://example.org

        Exit status: that of the command, 125 it could not be started, 126 refused, 255 the
        connection was lost; 2 wrong command line.

        """

    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qvm-run-vm")
        var command = Command()
        var isHelp = false
        var isVersion = false
        do throws(OptionParser.UsageError) {
            command = try parse(Array(arguments.dropFirst())) {
                if $0 == "help" { isHelp = true } else { isVersion = true }
            }
        } catch {
            if isHelp || isVersion {
                say(isHelp ? help : Version.line(program) + "\n")
                return 0
            }
            complain(program, "\(error.description); see --help")
            return 2
        }
        let service = command.waitsForSession ? "qubes.VMShell+WaitForSession" : "qubes.VMShell"
        return ClientCall.replaceProcess(
            target: command.target, service: service, prefix: ShellInput.text(command.line),
            reporter: program)
    }

    static func parse(
        _ list: [String], _ shows: (String) -> Void = { _ in }
    ) throws(OptionParser.UsageError) -> Command {
        var command = Command()
        var isDisposable = false
        let parser = OptionParser(
            [
                .init(short: "d", long: "dispvm"), .init(short: "t", long: "no-gui"),
                .init(short: "h", long: "help"), .init(long: "version"),
            ], stopsAtOperand: true)
        var operands = try parser.parse(list) { name, _ in
            switch name {
            case "dispvm": isDisposable = true
            case "no-gui": command.waitsForSession = false
            default: shows(name)
            }
        }[...]
        if isDisposable {
            command.target = "@dispvm"
        } else {
            command.target = operands.popFirst() ?? ""
        }
        guard !command.target.isEmpty, !command.target.hasPrefix("-") else {
            throw OptionParser.UsageError("expected a qube, or --dispvm, and a command")
        }
        guard !operands.isEmpty else { throw OptionParser.UsageError("expected a command") }
        command.line = operands.joined(separator: " ")
        return command
    }
}

/// What `qubes.VMShell` gets on its standard input (specification 16.2).
enum ShellInput {
    /// The command, after which the shell ends; standard input follows, which is the command's.
    static func text(_ line: String, isWindows: Bool = false) -> String {
        isWindows ? "\(line)& exit\n" : "\(line); exit\n"
    }

    /// Words as one shell word each, whatever they hold.
    static func quoted(_ words: [String]) -> String {
        words.map { word in
            let isPlain =
                !word.isEmpty
                && word.utf8.allSatisfy {
                    switch $0 {
                    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
                    default: "_@%+=:,./-".utf8.contains($0)
                    }
                }
            return isPlain ? word : "'" + word.replacing("'", with: #"'"'"'"#) + "'"
        }.joined(separator: " ")
    }
}

/// A call of a service that this process turns into.
enum ClientCall {
    /// Makes the call with this process's standard streams.
    ///
    /// - Parameter prefix: sent before standard input.
    /// - Returns: the call's exit status.
    static func replaceProcess(
        target: String, service: String, prefix: String = "", options: [String] = [],
        reporter: String
    ) -> Int32 {
        let prefixed = prefix.isEmpty ? [] : ["--prefix-data=\(prefix)"]
        let rest = options + prefixed + ["--", target, service]
        do throws(FileProblem) {
            let client = try Programs.client()
            return Execution.become(
                ([client] + rest).map { Array($0.utf8) }, reporter: reporter)
        } catch {
            complain(reporter, error.line)
            return 1
        }
    }
}

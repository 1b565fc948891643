import Glibc
import QrexecRuntime

/// `qubes-vmexec` and the services `qubes.VMExec`, `qubes.VMExecGUI` and `qubes.VMRootExec`: runs
/// the program that the argument names (specification 16.2), without any shell. Exit status: the
/// program's; 1 for an argument that is no command, 127 for a program that is not there, 126 for one
/// that cannot be started.
public enum VMExecTool {
    private static let help = """
        usage: qubes-vmexec COMMAND

        Runs a program whose words are joined by '+', each byte outside A-Za-z0-9._ written as '-'
        and two upper-case hexadecimal digits, '-' as '--': 'ls+--l' runs "ls -l". This is how
        qubes.VMExec gets its command.

          -h, --help    this text
          --version     the version

        Exit status: the program's; 1 for a wrong COMMAND, 127 for a program that is not there, 126
        for one that cannot be started.

        """

    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes-vmexec")
        if !program.hasPrefix("qubes."), arguments.count == 2 {
            if arguments[1] == "-h" || arguments[1] == "--help" {
                say(help)
                return 0
            }
            if arguments[1] == "--version" {
                say(Version.line(program) + "\n")
                return 0
            }
        }
        guard arguments.count == 2, !arguments[1].isEmpty else {
            complain(program, "expected one argument, the command; an example is ls+--l")
            return 1
        }
        do throws(ArgumentCoding.Invalid) {
            let command = try ArgumentCoding.decode(arguments[1])
            return Execution.become(command, reporter: program)
        } catch {
            complain(program, "the argument is no command: \(error.reason)")
            return 1
        }
    }
}

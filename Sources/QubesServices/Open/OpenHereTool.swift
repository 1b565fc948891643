import LinuxSystem
import SystemPackage

/// `qubes-open FILE|ADDRESS`: opens a file or an address in this qube with the program that the qube
/// has chosen for that. Exit status: that program's, 1 when there is none, 2 for a wrong command
/// line.
public enum OpenHereTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        var command = ToolArguments(arguments, name: "qubes-open")
        if let ended = command.takeOptions(help: help, { _ in false }) { return ended }
        guard let what = command.next(), command.rest.isEmpty, !what.isEmpty else {
            return command.refuse("expected one file or address")
        }
        guard let opener = Opener() else { return 1 }
        // Many openers would take it for an option.
        let safe = what.hasPrefix("-") ? "./" + what : what
        do throws(Errno) {
            try CurrentProcess.execute(
                opener.path, [opener.path, safe], environment: CurrentProcess.environment)
        } catch {
            complain(command.program, "\(opener.path): \(error.message)")
            return 1
        }
    }

    private static let help = """
        Usage: qubes-open [--] FILE|ADDRESS
        Opens a file or an address here, as the services qubes.OpenInVM and qubes.OpenURL do for
        other qubes: with the program that "opener = PATH" in ~/.config/qubes/open.conf or
        /etc/qubes/open.conf names, else with xdg-open.

          -h, --help        show this text
              --version     show the version

        Exit status: that of the program, 1 when there is none, 2 for a wrong command line.

        """
}

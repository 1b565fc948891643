import LinuxSystem

/// `qubes-fs-tree-check`: whether files can be copied, and how large they are. Exit status: 0 when
/// they can, 2 when only to a receiver that allows all names, 1 when they cannot or for a wrong
/// command line.
public enum TreeCheckTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        var command = ToolArguments(arguments, name: "qubes-fs-tree-check", usageStatus: 1)
        var options = TreeCheck.Options()
        var isMachineReadable = false
        let ended = command.takeOptions(help: help) { option in
            let no = option.hasPrefix("--no-")
            switch no ? "--" + option.dropFirst("--no-".count) : option {
            case "--machine-readable": isMachineReadable = !no
            case "--ignore-symlinks": options.ignoreLinks = !no
            case "--allow-symlinks": options.allowLinks = !no
            case "--allow-directories": options.allowDirectories = !no
            case "--allow-all-names": options.allowAllNames = !no
            default: return false
            }
            return true
        }
        if let ended { return ended }
        if command.rest.isEmpty { return command.refuse("no path to check") }
        return check(command.program, Array(command.rest), options, isMachineReadable)
    }

    private static func check(
        _ program: String, _ paths: [String], _ options: TreeCheck.Options,
        _ isMachineReadable: Bool
    ) -> Int32 {
        CurrentProcess.raiseDescriptorLimit()
        let finding: TreeCheck.Finding
        do throws(FileProblem) {
            finding = try TreeCheck(options: options).check(paths)
        } catch {
            complain(program, error.line)
            return 1
        }
        if isMachineReadable {
            say("\(finding.totalBytes)\n")
        } else {
            say("\(finding.files) files, \(CopyProgress.size(finding.totalBytes))\n")
        }
        guard let name = finding.firstUnusualName, !options.allowAllNames else { return 0 }
        if !isMachineReadable {
            complain(
                program, "\(displayable(name)): only a receiver that allows all names takes it")
        }
        return 2
    }

    private static let help = """
        Usage: qubes-fs-tree-check [OPTION]... [--] PATH...
        Checks that files and directories can be copied to another qube, and how large they are.

              --machine-readable         print only the number of bytes
              --[no-]ignore-symlinks     take no notice of symbolic links (default: check them)
              --[no-]allow-symlinks      symbolic links are fine (default) or an error
              --[no-]allow-directories   directories are fine (default) or an error
              --[no-]allow-all-names     any character in names is fine, or exit status 2 (default)
          -h, --help                     show this text
              --version                  show the version

        Exit status: 0 when all can be copied, 2 when only to qubes.Filecopy+allow-all-names, 1 when
        something cannot be copied or the command line is wrong.

        """
}

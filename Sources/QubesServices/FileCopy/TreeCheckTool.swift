import LinuxSystem
import QrexecRuntime

/// `qubes-fs-tree-check`: whether files can be copied, and how large they are. Exit status: 0 when
/// they can, 2 when only to a receiver that allows all names, 1 when they cannot or for a wrong
/// command line.
public enum TreeCheckTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes-fs-tree-check")
        var options = TreeCheck.Options()
        var isMachineReadable = false
        var rest = arguments.dropFirst()
        while let option = rest.first, option.hasPrefix("-"), option != "-" {
            rest.removeFirst()
            if option == "--" { break }
            switch option {
            case "--machine-readable": isMachineReadable = true
            case "--no-machine-readable": isMachineReadable = false
            case "--ignore-symlinks": options.ignoreLinks = true
            case "--no-ignore-symlinks": options.ignoreLinks = false
            case "--allow-symlinks": options.allowLinks = true
            case "--no-allow-symlinks": options.allowLinks = false
            case "--allow-directories": options.allowDirectories = true
            case "--no-allow-directories": options.allowDirectories = false
            case "--allow-all-names": options.allowAllNames = true
            case "--no-allow-all-names": options.allowAllNames = false
            case "--help", "-h":
                say(help)
                return 0
            case "--version":
                say(Version.line(program) + "\n")
                return 0
            default:
                complain(program, "unknown option \(option); see --help")
                return 1
            }
        }
        if rest.isEmpty {
            complain(program, "no path to check; see --help")
            return 1
        }
        return check(program, Array(rest), options, isMachineReadable)
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

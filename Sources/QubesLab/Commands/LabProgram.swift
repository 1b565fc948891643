import LinuxSystem
import SystemPackage

/// The program `qubes-lab`.
public enum LabProgram {
    /// Runs it and exits.
    public static func main() {
        // What is opened later must not become a standard stream.
        CurrentProcess.openClosedStreams()
        // Programs of the lab itself come first: they start once a qube, and need no command line
        // parser.
        let arguments = CommandLine.arguments
        let rest = Array(arguments.dropFirst(2))
        switch arguments.dropFirst().first {
        case "init": CurrentProcess.exit(QubeInit.run())
        case "launch": CurrentProcess.exit(Launcher.run(rest))
        case "manager": CurrentProcess.exit(ManagerProcess.run(rest))
        case "copy-qube": CurrentProcess.exit(TreeCopy.run(rest))
        case "empty-store": CurrentProcess.exit(SandboxPlan.emptyStore(rest))
        case "remove-tree": CurrentProcess.exit(removeTrees(rest))
        default: LabCommand.main()
        }
    }

    private static func removeTrees(_ paths: [String]) -> Int32 {
        do throws(Errno) {
            for path in paths { try PathStatus.removeTree(path) }
            return 0
        } catch {
            return 1
        }
    }
}

import LinuxSystem
import SystemPackage

// Programs of the lab itself come first: they start once a qube, and need no command line parser.
let arguments = CommandLine.arguments
switch arguments.dropFirst().first {
case "init": CurrentProcess.exit(QubeInit.run())
case "launch": CurrentProcess.exit(Launcher.run(Array(arguments.dropFirst(2))))
case "manager": CurrentProcess.exit(ManagerProcess.run(Array(arguments.dropFirst(2))))
case "remove-tree":
    do throws(Errno) {
        for path in arguments.dropFirst(2) { try PathStatus.removeTree(path) }
    } catch {
        CurrentProcess.exit(1)
    }
default: QubesLab.main()
}

import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// The services `qubes.VMShell` and `qubes.VMRootShell`: a shell that runs what standard input says
/// (specification 16.2). It has no prompt and no terminal. Exit status: the shell's.
public enum ShellService {
    /// - Parameter arguments: all of argv; the service takes none but `WaitForSession`, which is
    ///   done already when it is started.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.VMShell")
        let argument = arguments.dropFirst().first ?? ""
        guard arguments.count <= 2, argument.isEmpty || argument == "WaitForSession" else {
            complain(program, "expected no argument or WaitForSession; commands come on stdin")
            return 1
        }
        let account = UserAccount.numbered(CurrentProcess.effectiveUser)
        let shells = ["/bin/bash", account?.shell ?? "/bin/sh", "/bin/sh"]
        let shell = shells.first { FileStatus.isExecutable($0) } ?? "/bin/sh"
        do throws(Errno) {
            try CurrentProcess.become(
                Array(shell.utf8), [Array(programName(shell).utf8)])
        } catch {
            complain(program, "\(shell): \(error.message)")
            return Execution.cannotStart
        }
    }
}

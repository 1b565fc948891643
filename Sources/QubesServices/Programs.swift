import Glibc
import LinuxSystem
import SystemPackage

/// Where the programs are that a tool of this package starts.
enum Programs {
    private static let installed = "/usr/lib/qubes"

    /// `qrexec-client-vm`: where it is installed, next to this program, or in PATH.
    static func client() throws(FileProblem) -> String {
        let name = "qrexec-client-vm"
        let path = CurrentProcess.variable("PATH") ?? "/usr/bin:/bin"
        let directories =
            [installed] + [ownDirectory].compactMap(\.self)
            + path.split(separator: ":").map(String.init)
        for directory in directories where directory.hasPrefix("/") {
            let candidate = "\(directory)/\(name)"
            if FileStatus.isExecutable(candidate) { return candidate }
        }
        let text = "not found in \(installed), next to this program or in PATH; install the agent"
        throw FileProblem(Array(name.utf8), text)
    }

    /// The absolute path of another tool of this package, and the arguments that choose it: a link
    /// next to this program, an installed one, or this program itself with the tool's name first.
    static func own(_ tool: String) -> [String] {
        let directories = [ownDirectory, installed].compactMap(\.self)
        for directory in directories {
            let candidate = "\(directory)/\(tool)"
            if FileStatus.isExecutable(candidate) { return [candidate] }
        }
        return [executable ?? "/proc/self/exe", tool]
    }

    /// This program's file, links resolved.
    private static var executable: String? { FileStatus.linkText("/proc/self/exe") }

    private static var ownDirectory: String? {
        guard let executable, let cut = executable.lastIndex(of: "/") else { return nil }
        return String(executable[..<cut])
    }
}

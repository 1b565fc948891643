import Glibc
import LinuxSystem
import SystemPackage

/// Where the programs are that a tool of this package starts.
enum Programs {
    private static let installedPlace = "/usr/lib/qubes"

    /// A program of PATH.
    static func find(_ name: String) -> String? {
        let path = CurrentProcess.variable("PATH") ?? "/usr/bin:/bin"
        return path.split(separator: ":").map { "\($0)/\(name)" }.first {
            $0.hasPrefix("/") && FileStatus.isExecutable($0)
        }
    }

    /// `qrexec-client-vm`, or dom0's `qrexec-client`: where it is installed, next to this program,
    /// or in PATH.
    static func client(_ name: String = "qrexec-client-vm") throws(FileProblem) -> String {
        if let place = installed(name) ?? find(name) { return place }
        let text = "not found in \(installedPlace), next to this program or in PATH; install it"
        throw FileProblem(Array(name.utf8), text)
    }

    /// A program of qrexec where it is installed, or next to this one.
    static func installed(_ name: String) -> String? {
        [installedPlace, ownDirectory].compactMap(\.self).map { "\($0)/\(name)" }
            .first { FileStatus.isExecutable($0) }
    }

    /// Whether a program is this one under another name.
    static func isOwn(_ program: String) -> Bool {
        guard let executable else { return false }
        return leads(program, to: executable)
    }

    /// Whether the client of this qube came with this program, which then makes calls by itself: it
    /// speaks to the agent as that client does.
    static var callsItself: Bool {
        get throws(FileProblem) {
            guard let ownDirectory else { return false }
            return leads(try client(), to: "\(ownDirectory)/qrexec-client-vm")
        }
    }

    private static func leads(_ path: String, to file: String) -> Bool {
        guard let real = try? Descriptor.realPath(Array(path.utf8) + [0]) else { return false }
        return real.elementsEqual(file.utf8)
    }

    /// The absolute path of another tool of this package, and the arguments that choose it: a link
    /// next to this program, an installed one, or this program itself with the tool's name first.
    static func own(_ tool: String) -> [String] {
        let directories = [ownDirectory, installedPlace].compactMap(\.self)
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

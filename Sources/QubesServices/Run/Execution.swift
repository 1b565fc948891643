import Glibc
import LinuxSystem
import SystemPackage

/// Becoming another program, as a shell's `exec` does.
enum Execution {
    /// Exit statuses for a program that cannot be started, those of shells.
    static let notFound: Int32 = 127
    static let cannotStart: Int32 = 126

    /// Becomes the program that the first word names: a path, or a name that is looked for in PATH.
    ///
    /// - Returns: the exit status for the failure, which has been reported.
    static func become(_ command: [[UInt8]], reporter: String) -> Int32 {
        let name = displayable(command[0])
        guard let path = find(command[0]) else {
            complain(reporter, "\(name): no such program")
            return notFound
        }
        do throws(Errno) {
            try CurrentProcess.become(path, command)
        } catch {
            complain(reporter, "\(name): \(error.message)")
            return error == .noSuchFileOrDirectory ? notFound : cannotStart
        }
    }

    /// The path of a program; one that exists and cannot be executed is found too, so that the
    /// system says why.
    private static func find(_ name: [UInt8]) -> [UInt8]? {
        if name.contains(slash) { return name }
        let path = CurrentProcess.variable("PATH") ?? "/usr/local/bin:/usr/bin:/bin"
        for directory in path.split(separator: ":") where directory.hasPrefix("/") {
            let candidate = Array(directory.utf8) + [slash] + name
            if FileStatus.isExecutable(bytes: candidate) { return candidate }
        }
        return nil
    }

    /// Gives a standard stream another end: no program that is started here shares the caller's.
    static func redirect(_ number: Int32, to path: String, _ flags: Int32) throws(Errno) {
        try Descriptor.open(path, flags).replace(number)
    }
}

import Glibc
import LinuxSystem
import SystemPackage

/// Programs of this qube's administrator that run when something happens: the executable files of
/// directories, in the order of their names.
enum Hooks {
    private static let limit = 1000

    /// Runs them one after the other; a failed one is reported and does not stop the others.
    ///
    /// - Returns: whether all ended with 0.
    static func run(_ directories: [String], arguments: [String] = [], reporter: String) -> Bool {
        var isGood = true
        for path in files(in: directories) {
            if !run(path, arguments, reporter: reporter) { isGood = false }
        }
        return isGood
    }

    /// Directories after each other; names that begin with a dot, and copies that editors and
    /// package managers leave, are none.
    static func files(in directories: [String]) -> [String] {
        directories.flatMap { directory in
            let names = (try? Directory.names(in: directory, limit: limit)) ?? []
            return names.sorted().filter { name in
                !name.hasPrefix(".")
                    && ![
                        ".bak", "~", ".rpmnew", ".rpmsave", ".dpkg-old",
                        ".dpkg-new", ".dpkg-dist",
                    ].contains { name.hasSuffix($0) }
            }.map { "\(directory)/\($0)" }.filter {
                (try? FileStatus.kind(of: $0)) == .regular && FileStatus.isExecutable($0)
            }
        }
    }

    static func run(_ path: String, _ arguments: [String], reporter: String) -> Bool {
        do throws(Errno) {
            let null = try Descriptor.open("/dev/null", O_RDONLY)
            var request = SpawnRequest(
                path: path, arguments: [path] + arguments,
                environment: CurrentProcess.environment)
            // Standard output belongs to the caller, who is told nothing but the result.
            request.descriptors = [null.number, 2, 2]
            let status = try ChildProcess.spawn(request).reap()
            if status != 0 { complain(reporter, "\(path) ended with status \(status)") }
            return status == 0
        } catch {
            complain(reporter, "\(path): \(error.message)")
            return false
        }
    }
}

/// The services that dom0 calls around a suspend (specification 16.2): `qubes.SuspendPre` and
/// `qubes.SuspendPost` of qubes that have devices, `qubes.SuspendPreAll` and `qubes.SuspendPostAll`
/// of all. No data goes either way. Exit status: 0, or 1 when a program that they ran failed.
public enum SuspendServices {
    static let names = [
        "qubes.SuspendPre", "qubes.SuspendPost", "qubes.SuspendPreAll", "qubes.SuspendPostAll",
    ]
    /// Prepares devices and the network; part of the system, where it is.
    private static let preparation = "/usr/lib/qubes/prepare-suspend"

    /// - Parameter arguments: all of argv; the services take none.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.SuspendPre")
        let isBefore = program.contains("Pre")
        var isGood = true
        if program.hasSuffix("All") {
            let name = isBefore ? "suspend-pre.d" : "suspend-post.d"
            isGood = Hooks.run(
                ["/etc/qubes/\(name)", "/usr/local/etc/qubes/\(name)"], reporter: program)
        } else if FileStatus.isExecutable(preparation) {
            isGood = Hooks.run(
                preparation, [isBefore ? "suspend" : "resume"], reporter: program)
        }
        return isGood ? 0 : 1
    }
}

import LinuxSystem
import SystemPackage

/// What one domain's sandbox is made of: the directories of the state that it needs, and the
/// arguments of bubblewrap.
///
/// The state directory is closed to the qube's ids, so bubblewrap cannot resolve paths in it. The
/// launcher therefore gathers what is needed below `gathered` in a mount namespace of its own.
struct SandboxPlan: Equatable {
    /// Where the launcher gathers the directories; a place that exists everywhere, and that only
    /// the launcher and bubblewrap see changed.
    static let gathered = "/tmp"

    /// One directory that the launcher gathers as `<gathered>/<name>`.
    struct Part: Equatable {
        let source: String
        let name: String
        let readOnly: Bool
    }

    let files: QubeFiles
    let domain: UInt32
    let programs: Programs
    /// `<state>/usr/<side>`.
    let programTree: String
    /// `<state>/xen`.
    let xen: String

    static func == (left: SandboxPlan, right: SandboxPlan) -> Bool {
        left.domain == right.domain && left.launcherArguments == right.launcherArguments
            && left.sandboxArguments == right.sandboxArguments
    }

    /// Writable directories of the qube, and where they are mounted.
    private var writable: [(source: String, target: String)] {
        ["etc", "var", "run", "tmp", "root", "usr/local"].map { ("\(files.root)/\($0)", "/\($0)") }
            + [(files.home, "/home")]
    }

    var parts: [Part] {
        var parts: [Part] = []
        for (index, directory) in writable.enumerated() {
            parts.append(Part(source: directory.source, name: "w\(index)", readOnly: false))
        }
        parts.append(Part(source: programTree, name: "usr", readOnly: true))
        for (index, directory) in (programs.directories + Self.libraryDirectories).enumerated() {
            parts.append(Part(source: directory, name: "p\(index)", readOnly: true))
        }
        parts.append(Part(source: "\(xen)/\(domain)", name: "xen/self", readOnly: false))
        for peer in 0..<LabSettings.maximumDomains {
            parts.append(
                Part(source: "\(xen)/\(peer)/\(domain)", name: "xen/peers/\(peer)", readOnly: true))
        }
        return parts
    }

    /// Directories outside /usr that hold shared libraries this program runs with: a build that is
    /// not linked statically has the compiler's.
    static let libraryDirectories: [String] = {
        guard let maps = try? Descriptor.open("/proc/self/maps", 0).readAll(limit: 1 << 22) else {
            return []
        }
        var directories: Set<String> = []
        for line in String(decoding: maps, as: UTF8.self).split(separator: "\n") {
            guard let slash = line.firstIndex(of: "/") else { continue }
            let path = line[slash...]
            guard path.contains(".so"), !path.hasPrefix("/usr/"), !path.hasPrefix("/lib"),
                let end = path.lastIndex(of: "/")
            else { continue }
            directories.insert(String(path[..<end]))
        }
        return directories.sorted()
    }()

    /// The launcher's own arguments; bubblewrap's follow behind `--`.
    var launcherArguments: [String] {
        var arguments: [String] = []
        if case .mapped(let base) = files.ownership { arguments += ["--base", String(base)] }
        arguments += ["--domain", String(domain)]
        for part in parts {
            arguments += [part.readOnly ? "--read-only" : "--writable", part.source, part.name]
        }
        return arguments
    }

    /// bubblewrap's arguments, from the first option to the command.
    var sandboxArguments: [String] {
        var arguments = [
            "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
            "--unshare-cgroup-try", "--hostname", files.settings.name, "--die-with-parent",
            "--as-pid-1",
        ]
        if !files.ownership.isMapped {
            let user = String(Ownership.userID)
            arguments += ["--unshare-user", "--uid", user, "--gid", user]
        }
        arguments += machineArguments
        arguments += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm"]
        for (index, directory) in writable.enumerated() {
            arguments += ["--bind", "\(Self.gathered)/w\(index)", directory.target]
        }
        for name in GeneratedFile.fromMachine {
            arguments += ["--ro-bind-try", "/etc/\(name)", "/etc/\(name)"]
        }
        if let size = files.settings.homeSize {
            arguments += ["--perms", "0700", "--size", String(size), "--tmpfs", "/home/user"]
        }
        // The store of the local transport: numbers of the domain and its peers are mounts, which
        // the qube cannot change.
        let xen = "\(Self.gathered)/xen"
        arguments += ["--ro-bind", xen, "/run/xen-local"]
        arguments += ["--bind", "\(xen)/self", "/run/xen-local/self"]
        for directory in ["/mnt", "/opt", "/srv", "/media", "/rw"] {
            arguments += ["--dir", directory]
        }
        return arguments + ["--chdir", "/", "--", "/usr/lib/qubes/qubes-lab", "init"]
    }

    /// The machine's programs, with ours among them.
    private var machineArguments: [String] {
        var arguments = ["--dir", "/usr", "--ro-bind", "/usr", ProgramTree.machine]
        for name in ((try? PathStatus.names(in: "/usr")) ?? []).sorted()
        where !ProgramTree.directories.contains(name) && name != "local" {
            if let text = FileStatus.linkText("/usr/\(name)") {
                arguments += ["--symlink", text, "/usr/\(name)"]
            } else {
                arguments += ["--ro-bind", "/usr/\(name)", "/usr/\(name)"]
            }
        }
        for name in ProgramTree.directories {
            arguments += ["--ro-bind", "\(Self.gathered)/usr/\(name)", "/usr/\(name)"]
        }
        // Parents that bubblewrap makes by itself are closed to all but their owner.
        arguments += ["--dir", ProgramTree.programs]
        for index in programs.directories.indices {
            arguments += [
                "--ro-bind", "\(Self.gathered)/p\(index)", "\(ProgramTree.programs)/\(index)",
            ]
        }
        for (index, directory) in Self.libraryDirectories.enumerated() {
            let name = "p\(programs.directories.count + index)"
            arguments += Self.parents(of: directory).flatMap { ["--dir", $0] }
            arguments += ["--ro-bind", "\(Self.gathered)/\(name)", directory]
        }
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            if let text = FileStatus.linkText("/\(name)") {
                arguments += ["--symlink", text, "/\(name)"]
            } else if PathStatus.exists("/\(name)") {
                arguments += ["--ro-bind", "/\(name)", "/\(name)"]
            }
        }
        return arguments
    }

    /// `/a` and `/a/b` for `/a/b/c`.
    private static func parents(of path: String) -> [String] {
        let parts = path.split(separator: "/").dropLast()
        return parts.indices.map { "/" + parts[...$0].joined(separator: "/") }
    }

    /// Makes the directories of the domain in the store, both ways, for every number there is.
    func prepareStore() throws(Errno) {
        try PathStatus.makeDirectory("\(xen)/\(domain)", mode: 0o755)
        for peer in 0..<LabSettings.maximumDomains {
            try PathStatus.makeDirectory("\(xen)/\(domain)/\(peer)", mode: 0o777)
            try PathStatus.makeDirectory("\(xen)/\(peer)", mode: 0o755)
            try PathStatus.makeDirectory("\(xen)/\(peer)/\(domain)", mode: 0o777)
        }
    }

    /// Takes away what an ended domain left in its directories of the store, in a process of its
    /// own. The directories stay the same: they are mounted in running domains.
    ///
    /// - Parameter arguments: the domain's directory.
    static func emptyStore(_ arguments: [String]) -> Int32 {
        for domain in arguments {
            for peer in (try? PathStatus.names(in: domain)) ?? [] {
                let directory = "\(domain)/\(peer)"
                for name in (try? PathStatus.names(in: directory)) ?? [] {
                    try? PathStatus.removeTree("\(directory)/\(name)")
                }
            }
        }
        return 0
    }
}

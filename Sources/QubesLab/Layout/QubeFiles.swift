import Glibc
import LinuxSystem
import SystemPackage

/// Whose ids a qube's files have on the host.
enum Ownership: Equatable, Sendable {
    /// The lab was started by root: inside ids count from `base` on the host.
    case mapped(base: UInt32)
    /// The lab was started by an ordinary user, who is `user` inside.
    case own

    static let userID: UInt32 = 1000
    /// Group `qubes` where there can be several groups.
    static let qubesGroup: UInt32 = 98

    var isMapped: Bool { self != .own }

    /// Gives a path to an id inside.
    func give(_ path: String, uid: UInt32, gid: UInt32) throws(Errno) {
        if case .mapped(let base) = self {
            try PathStatus.changeOwner(path, uid: base + uid, gid: base + gid)
        }
    }
}

/// The writable files of a qube, below `<state>/qubes/<name>/root`.
struct QubeFiles {
    let settings: QubeSettings
    let uuid: String
    let ownership: Ownership
    /// The qube's directory in the state directory.
    let directory: String

    var root: String { directory + "/root" }
    /// What is mounted on /home: apart from `root` when /home/user is a file system of its own.
    var home: String { settings.homeSize == nil ? root + "/home" : directory + "/home" }

    private var qubesGroup: UInt32 { ownership.isMapped ? Ownership.qubesGroup : Ownership.userID }
    /// Root inside, or the only user there is.
    private var administrator: UInt32 { ownership.isMapped ? 0 : Ownership.userID }

    /// Makes what is missing and writes the generated files anew; /run and /tmp are emptied. Nothing
    /// of the qube runs meanwhile.
    ///
    /// - Parameter share: a tree of files that come with the programs, laid over the rest.
    func prepare(share: String?) throws(Errno) {
        try PathStatus.makeDirectory(directory, mode: 0o755)
        try PathStatus.makeDirectory(root, mode: 0o755)
        try give(root)
        for volatile in ["run", "tmp"] { try PathStatus.removeTree("\(root)/\(volatile)") }
        try makeDirectories()
        try makeGeneratedFiles()
        if let share, PathStatus.exists(share) { try overlay(share, onto: root) }
    }

    private func give(_ path: String, uid: UInt32? = nil, gid: UInt32? = nil) throws(Errno) {
        try ownership.give(path, uid: uid ?? administrator, gid: gid ?? administrator)
    }

    private func makeDirectory(
        _ path: String, mode: UInt32 = 0o755, uid: UInt32? = nil, gid: UInt32? = nil
    ) throws(Errno) {
        if try Self.isDirectory("\(root)/\(path)") { return }
        try PathStatus.makeDirectory("\(root)/\(path)", mode: mode)
        try give("\(root)/\(path)", uid: uid, gid: gid)
        // Changing the owner drops the set-group-id bit.
        try PathStatus.changeMode("\(root)/\(path)", mode)
    }

    /// Whether a directory is there. What else the qube may have put in its place (a link that leads
    /// out of it, say) is removed: the manager writes below as a user of the host.
    private static func isDirectory(_ path: String) throws(Errno) -> Bool {
        guard let status = try? PathStatus(of: path) else { return false }
        if status.kind != .directory { try FileStatus.remove(path) }
        return status.kind == .directory
    }

    private func makeDirectories() throws(Errno) {
        let user = Ownership.userID
        for path in [
            "etc", "etc/pam.d", "etc/qubes", "etc/qubes-rpc", "etc/qubes/rpc-config",
            "etc/profile.d",
            "var", "var/cache", "var/lib", "var/log", "var/spool", "var/opt", "var/mail",
            "var/local",
            "run", "run/lock", "run/user", "run/xen-local", "run/qubes-rpc", "usr", "usr/local",
            "usr/local/bin", "usr/local/sbin", "usr/local/lib", "usr/local/share", "usr/local/etc",
            "usr/local/etc/qubes-rpc", "usr/local/etc/qubes", "usr/local/etc/qubes/rpc-config",
        ] { try makeDirectory(path) }
        try makeDirectory("tmp", mode: 0o1777)
        try makeDirectory("var/tmp", mode: 0o1777)
        try makeDirectory("root", mode: 0o700)
        try makeDirectory("run/user/\(user)", mode: 0o700, uid: user, gid: user)
        try makeDirectory("var/log/qubes", mode: 0o2775, gid: qubesGroup)
        for (link, text) in [("var/run", "/run"), ("var/lock", "/run/lock")]
        where !PathStatus.exists("\(root)/\(link)") {
            try PathStatus.makeLink("\(root)/\(link)", to: text)
        }
        try PathStatus.makeDirectory(home, mode: 0o755)
        try give(home)
        if try !Self.isDirectory("\(home)/user") {
            try PathStatus.makeDirectory("\(home)/user", mode: 0o700)
            try give("\(home)/user", uid: user, gid: user)
        }
        if settings.isDom0 {
            try makeDirectory("run/qubes", mode: 0o2770, gid: qubesGroup)
            // The policy daemon puts its evaluation services here.
            try give("\(root)/etc/qubes-rpc", gid: qubesGroup)
            try PathStatus.changeMode("\(root)/etc/qubes-rpc", 0o2775)
            // The directory of the old policy format, which is read as well.
            try makeDirectory("etc/qubes-rpc/policy", mode: 0o2775, gid: qubesGroup)
            for path in ["etc/qubes/policy.d", "etc/qubes/policy.d/include", "run/qubes/policy.d"] {
                try makeDirectory(path, mode: 0o2775, gid: qubesGroup)
            }
        } else {
            try makeDirectory("run/qubes")
        }
    }

    private func makeGeneratedFiles() throws(Errno) {
        for file in GeneratedFile.all(
            host: settings.name, uuid: uuid, hasAccounts: ownership.isMapped)
        {
            let path = "\(root)/\(file.path)"
            try PathStatus.removeTree(path)
            try Self.write(file.text, to: path, mode: file.mode)
            try give(path)
        }
    }

    /// Copies a tree of files; what is there already is replaced, but for the users' own policy.
    private func overlay(_ source: String, onto target: String) throws(Errno) {
        for name in try PathStatus.names(in: source) {
            let from = "\(source)/\(name)"
            let to = "\(target)/\(name)"
            if let text = FileStatus.linkText(from) {
                try PathStatus.removeTree(to)
                try PathStatus.makeLink(to, to: text)
                try give(to)
            } else if try FileStatus.kind(of: from) == .directory {
                if try !Self.isDirectory(to) {
                    try PathStatus.makeDirectory(to, mode: 0o755)
                    try give(to)
                }
                try overlay(from, onto: to)
            } else {
                let mode: UInt32 = FileStatus.isExecutable(from) ? 0o755 : 0o644
                try PathStatus.removeTree(to)
                try Self.copy(from, to: to, mode: mode)
                try give(to)
            }
        }
    }

    /// Gives dom0 its policy: the shipped files, and the user's own with examples if there is none.
    func preparePolicy(shipped: String?) throws(Errno) {
        let target = "\(root)/etc/qubes/policy.d"
        if let shipped, PathStatus.exists(shipped) { try overlay(shipped, onto: target) }
        let user = "\(target)/30-user.policy"
        if !PathStatus.exists(user) {
            try Self.write(GeneratedFile.userPolicy, to: user, mode: 0o664)
            try give(user, gid: qubesGroup)
        }
    }

    static func write(_ text: String, to path: String, mode: UInt32) throws(Errno) {
        let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
        try file.writeAll(Array(text.utf8))
        try PathStatus.changeMode(path, mode)
    }

    private static func copy(_ source: String, to path: String, mode: UInt32) throws(Errno) {
        let bytes = try Descriptor.open(source, O_RDONLY).readAll(limit: 64 << 20)
        let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
        try file.writeAll(bytes)
        try PathStatus.changeMode(path, mode)
    }
}

import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// An error for people: what is wrong, and the way out where there is one.
struct LabError: Error, Equatable, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// The directory that holds everything of one lab: private to the user who started it.
struct StateDirectory: Sendable, Equatable {
    let path: String

    /// Where a lab's state is when nobody says otherwise: `QUBES_LAB_STATE`, else below the
    /// user's run-time directory.
    static var standardPath: String {
        if let path = CurrentProcess.variable("QUBES_LAB_STATE"), !path.isEmpty { return path }
        let user = CurrentProcess.effectiveUser
        if user == 0 { return "/run/qubes-lab/default" }
        if let runtime = CurrentProcess.variable("XDG_RUNTIME_DIR"), runtime.hasPrefix("/") {
            return "\(runtime)/qubes-lab/default"
        }
        // Sessions without a session manager (su, containers) have no run-time directory.
        return PathStatus.exists("/run/user/\(user)")
            ? "/run/user/\(user)/qubes-lab/default" : "/tmp/qubes-lab-\(user)/default"
    }

    /// - Parameter path: relative paths count from the current directory.
    init(_ path: String) {
        var parts: [Substring] = []
        let absolute = path.hasPrefix("/") ? path : Self.currentDirectory + "/" + path
        for part in absolute.split(separator: "/") where part != "." {
            if part == "..", !parts.isEmpty { parts.removeLast() } else { parts.append(part) }
        }
        self.path = "/" + parts.joined(separator: "/")
    }

    private static var currentDirectory: String {
        FileStatus.linkText("/proc/self/cwd") ?? "/"
    }

    var lock: String { path + "/lock" }
    var settings: String { path + "/settings.json" }
    var managerLog: String { path + "/manager.log" }
    var qubeLog: String { path + "/lab.log" }
    var socket: String { path + "/manager.sock" }
    /// The user-space Xen: `<domain>/<peer>/`.
    var xen: String { path + "/xen" }
    /// The programs' file systems: `dom0` and `vm`.
    var programs: String { path + "/usr" }

    func qube(_ name: String) -> String { "\(path)/qubes/\(name)" }

    /// Makes it if need be; it must be a directory of this user's that nobody else may enter.
    func prepare() throws(LabError) {
        let parent = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        do throws(Errno) {
            try makeParents(parent)
            try PathStatus.makeDirectory(path, mode: 0o700)
        } catch {
            throw LabError("cannot make the state directory \(path): \(error)")
        }
        try check()
    }

    private func makeParents(_ path: String) throws(Errno) {
        if path.isEmpty || PathStatus.exists(path) { return }
        try makeParents(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]))
        try PathStatus.makeDirectory(path, mode: 0o700)
    }

    /// Whether it exists; refused when it is somebody else's, open to others, or a link.
    @discardableResult
    func check() throws(LabError) -> Bool {
        let status: PathStatus
        do throws(Errno) {
            status = try PathStatus(of: path)
        } catch .noSuchFileOrDirectory {
            return false
        } catch {
            throw LabError("cannot look at the state directory \(path): \(error)")
        }
        let wayOut = "; choose another directory with --state"
        guard status.kind != .link else {
            throw LabError("the state directory \(path) is a link, which is refused\(wayOut)")
        }
        guard status.kind == .directory else {
            throw LabError("the state directory \(path) is not a directory\(wayOut)")
        }
        guard status.uid == CurrentProcess.effectiveUser else {
            throw LabError(
                "the state directory \(path) belongs to user \(status.uid), not to you\(wayOut)")
        }
        guard status.mode & 0o077 == 0 else {
            throw LabError(
                "the state directory \(path) is open to others (mode "
                    + "\(String(status.mode, radix: 8))); run: chmod 700 \(path)")
        }
        return true
    }

    /// Whether a directory that is there holds a lab or nothing: only then is it ours to remove.
    func isOurs() -> Bool {
        guard let names = try? PathStatus.names(in: path) else { return false }
        return names.isEmpty || names.contains("lock")
    }

    /// Takes the lab's lock.
    ///
    /// - Returns: its descriptor, which holds the lock as long as any copy of it is open; nil when
    ///   a running manager has it.
    func takeLock() throws(LabError) -> OwnedDescriptor? {
        do throws(Errno) {
            let file = try Descriptor.open(lock, O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
            return try file.lockExclusive() ? OwnedDescriptor(file) : nil
        } catch {
            throw LabError("cannot lock \(lock): \(error)")
        }
    }
}

/// A descriptor that can be kept in collections; open while this object lives.
final class OwnedDescriptor {
    let descriptor: Descriptor

    init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
}

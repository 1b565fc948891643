import Glibc
import LinuxSystem
import SystemPackage

/// Copies a disposable template's writable files to a new disposable, in a process of its own.
struct TreeCopy {
    /// What is copied; /etc is made anew, /run and /tmp begin empty.
    private static let directories = ["var", "root", "home", "usr"]

    /// Exit status where the copy has no room; other files that cannot be copied are left out.
    static let noRoom: Int32 = 3

    let arguments: [String]

    init(from source: QubeFiles, to target: QubeFiles) {
        arguments = [
            "copy-qube", source.root, target.root, String(source.ownership.base),
            String(target.ownership.base),
        ]
    }

    /// The process's part.
    ///
    /// - Parameter arguments: source, target, and what to take from and add to user ids.
    static func run(_ arguments: [String]) -> Int32 {
        guard arguments.count == 4, let from = UInt32(arguments[2]), let to = UInt32(arguments[3])
        else { return 2 }
        let existing = directories.map { "\(arguments[0])/\($0)" }.filter {
            (try? PathStatus(of: $0))?.kind == .directory
        }
        do throws(Errno) {
            try PathStatus.makeDirectory(arguments[1], mode: 0o755)
            var request = SpawnRequest(
                path: "/bin/cp",
                arguments: ["cp", "-a", "--reflink=auto", "--"] + existing + [arguments[1]],
                environment: ["LANG=C.UTF-8"])
            request.diesWithParent = true
            let status = try ChildProcess.spawn(request).reap()
            if status != 0, !hasRoom(in: arguments[1]) { return noRoom }
            if from != to { try shift(arguments[1], from: from, to: to) }
            return status
        } catch .noSpace {
            return noRoom
        } catch {
            return 1
        }
    }

    private static func hasRoom(in directory: String) -> Bool {
        guard let place = try? Descriptor.open(directory, O_RDONLY | O_DIRECTORY) else {
            return false
        }
        return ((try? place.freeSpace()) ?? 0) >= smallestRoom
    }

    /// Bytes that a file system has where something else was the reason.
    private static let smallestRoom: UInt64 = 1 << 20

    /// Gives a tree to the same ids of another qube.
    private static func shift(_ path: String, from: UInt32, to: UInt32) throws(Errno) {
        let status = try PathStatus(of: path)
        if status.uid >= from, status.uid < from &+ Launcher.idCount {
            try PathStatus.changeOwner(
                path, uid: status.uid - from + to, gid: status.gid &- from &+ to)
            // A change of the owner drops these bits.
            if status.kind != .link, status.mode & 0o6000 != 0 {
                try PathStatus.changeMode(path, status.mode)
            }
        }
        guard status.kind == .directory else { return }
        for name in try PathStatus.names(in: path) {
            try shift("\(path)/\(name)", from: from, to: to)
        }
    }

    /// Entries that are looked at for changes: the look is a part of every call to a disposable.
    private static let entriesLookedAt = 1000

    /// The latest change, in nanoseconds since 1970, of the files that a disposable begins with, those
    /// nearest to the root first.
    static func changedAt(_ files: QubeFiles) -> Int {
        var latest = 0
        // What people change comes first.
        var places = ["usr", "home", "root", "var"].map { "\(files.root)/\($0)" }
        var next = 0
        while next < min(places.count, entriesLookedAt) {
            let path = places[next]
            next += 1
            guard let status = try? PathStatus(of: path) else { continue }
            latest = max(latest, status.changed)
            guard status.kind == .directory, places.count < entriesLookedAt else { continue }
            places += ((try? PathStatus.names(in: path)) ?? []).map { "\(path)/\($0)" }
        }
        return latest
    }
}

extension Ownership {
    /// The host's id of root inside; 0 where ids are not mapped.
    var base: UInt32 {
        if case .mapped(let base) = self { base } else { 0 }
    }
}

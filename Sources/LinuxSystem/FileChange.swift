import Glibc
public import SystemPackage

/// Changing files so that others see either the old or the new state.
public enum FileChange {
    /// Replaces a file, or makes it: written beside it, made durable, and renamed.
    ///
    /// - Parameters:
    ///   - mode: permission bits, whatever the umask.
    ///   - group: nil leaves the group of this process.
    public static func replace(
        _ path: String, with bytes: [UInt8], mode: UInt32, group: UInt32? = nil
    ) throws(Errno) {
        let (directory, name) = split(path)
        // Programs that read the directory leave names with a dot in front alone.
        let temporary = "\(directory)/.\(name).new"
        try FileStatus.remove(temporary)
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW
        let file = try Descriptor.open(temporary, flags, mode: 0o600)
        do throws(Errno) {
            try file.writeAll(bytes)
            _ = try check(fchmod(file.number, mode))
            if let group, geteuid() == 0 { _ = try check(fchown(file.number, uid_t.max, group)) }
            _ = try check(fsync(file.number))
            _ = try check(unsafe Glibc.rename(temporary, path))
        } catch {
            try? FileStatus.remove(temporary)
            throw error
        }
        try makeDurable(directory)
    }

    /// Removes a file for good; `ENOENT` when there is none.
    public static func remove(_ path: String) throws(Errno) {
        _ = try check(unsafe unlink(path))
        try makeDurable(split(path).directory)
    }

    /// Appends to a file, which is made with these permission bits if there is none.
    public static func append(
        _ bytes: [UInt8], to path: String, mode: UInt32
    ) throws(Errno) {
        let flags = O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NOCTTY
        try Descriptor.open(path, flags, mode: mode).writeAll(bytes)
    }

    /// Makes a directory with its parents; one that exists is no error.
    public static func makeDirectories(_ path: String, mode: UInt32) throws(Errno) {
        if unsafe mkdir(path, mode) == 0 || errno == EEXIST { return }
        guard errno == ENOENT, path.contains("/") else { throw Errno(rawValue: errno) }
        try makeDirectories(split(path).directory, mode: mode)
        if unsafe mkdir(path, mode) < 0 && errno != EEXIST { throw Errno(rawValue: errno) }
    }

    /// A path without links; `ENOENT` when it leads nowhere.
    public static func resolve(_ path: String) throws(Errno) -> String {
        // SAFETY: realpath gives a NUL-terminated string that is ours to free.
        guard let resolved = unsafe realpath(path, nil) else { throw Errno(rawValue: errno) }
        defer { unsafe free(resolved) }
        return unsafe String(cString: resolved)
    }

    private static func makeDurable(_ directory: String) throws(Errno) {
        let opened = try Descriptor.open(directory, O_RDONLY | O_DIRECTORY)
        _ = try check(fsync(opened.number))
    }

    private static func split(_ path: String) -> (directory: String, name: String) {
        guard let slash = path.lastIndex(of: "/") else { return (".", path) }
        let directory = slash == path.startIndex ? "/" : String(path[..<slash])
        return (directory, String(path[path.index(after: slash)...]))
    }
}

/// A lock on a directory or file that everybody who takes it respects; given up at its end, also
/// when the process dies.
public struct FileLock: ~Copyable {
    private let file: Descriptor

    /// Takes the lock alone.
    ///
    /// - Parameter wait: whether to wait for others; else `EWOULDBLOCK`.
    public init(_ path: String, wait: Bool) throws(Errno) {
        let file = try Descriptor.open(path, O_RDONLY | O_NOCTTY)
        let number = file.number
        _ = try retrying { flock(number, LOCK_EX | (wait ? 0 : LOCK_NB)) }
        self.file = file
    }
}

import CLinuxSystem
import Glibc
public import SystemPackage

/// What a path leads to.
public enum FileStatus {
    public enum Kind: Sendable, Equatable {
        case regular
        case directory
        case socket
        case other
    }

    /// The kind of what a path leads to, links followed.
    public static func kind(of path: String) throws(Errno) -> Kind {
        var status = stat()
        _ = try retrying { unsafe stat(path, &status) }
        switch status.st_mode & S_IFMT {
        case S_IFREG: return .regular
        case S_IFDIR: return .directory
        case S_IFSOCK: return .socket
        default: return .other
        }
    }

    /// When the contents or properties of what a path leads to changed last, in nanoseconds since
    /// 1970; nil when it leads nowhere.
    public static func changeTime(of path: String) -> Int? {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else { return nil }
        return status.st_ctim.tv_sec * 1_000_000_000 + status.st_ctim.tv_nsec
    }

    /// Whether the effective user may execute what a path leads to.
    public static func isExecutable(_ path: String) -> Bool {
        unsafe faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0
    }

    /// The text of a symbolic link of at most 4095 bytes; nil when the path is none.
    public static func linkText(_ path: String) -> String? {
        var buffer = [UInt8](repeating: 0, count: 4096)
        // SAFETY: readlink writes at most `count` bytes into the array's own storage.
        let count = unsafe buffer.withUnsafeMutableBytes {
            unsafe readlink(path, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
        }
        if count <= 0 || count == buffer.count { return nil }
        return String(decoding: buffer[..<count], as: UTF8.self)
    }

    /// Removes a file, link or socket; one that does not exist is no error.
    public static func remove(_ path: String) throws(Errno) {
        do throws(Errno) {
            _ = try retrying { unsafe unlink(path) }
        } catch .noSuchFileOrDirectory {}
    }
}

extension FileStatus {
    /// Makes a symbolic link; an existing path is `EEXIST`.
    public static func makeLink(_ path: String, to text: String) throws(Errno) {
        _ = try retrying { unsafe symlink(text, path) }
    }
}

import CLinuxSystem
import Glibc
public import SystemPackage

/// Whose a path is and what it is, links not followed, and changes of both.
public struct PathStatus: Sendable, Equatable {
    public enum Kind: Sendable, Equatable {
        case regular, directory, link, socket, other
    }

    public let kind: Kind
    public let uid: UInt32
    public let gid: UInt32
    /// Permission bits with set-uid, set-gid and sticky.
    public let mode: UInt32
    /// Last change of the contents or of these properties, in nanoseconds since 1970.
    public let changed: Int

    /// - Parameter path: a link is described itself.
    public init(of path: String) throws(Errno) {
        var status = stat()
        _ = try retrying { unsafe lstat(path, &status) }
        switch status.st_mode & S_IFMT {
        case S_IFREG: kind = .regular
        case S_IFDIR: kind = .directory
        case S_IFLNK: kind = .link
        case S_IFSOCK: kind = .socket
        default: kind = .other
        }
        uid = status.st_uid
        gid = status.st_gid
        changed = status.st_ctim.tv_sec * 1_000_000_000 + status.st_ctim.tv_nsec
        mode = status.st_mode & 0o7777
    }

    public static func exists(_ path: String) -> Bool { (try? PathStatus(of: path)) != nil }

    /// Changes the owner of a path itself, links not followed.
    public static func changeOwner(_ path: String, uid: UInt32, gid: UInt32) throws(Errno) {
        _ = try retrying { unsafe lchown(path, uid, gid) }
    }

    /// Sets permission bits whatever the umask.
    public static func changeMode(_ path: String, _ mode: UInt32) throws(Errno) {
        _ = try retrying { unsafe chmod(path, mode) }
    }

    /// Makes a directory with exactly this mode; one that is there already is no error.
    public static func makeDirectory(_ path: String, mode: UInt32) throws(Errno) {
        do throws(Errno) {
            _ = try retrying { unsafe mkdir(path, 0o700) }
        } catch .fileExists {
            return
        }
        try changeMode(path, mode)
    }

    public static func makeLink(_ path: String, to text: String) throws(Errno) {
        _ = try retrying { unsafe symlink(text, path) }
    }

    /// Names in a directory, without `.` and `..`, in no order.
    public static func names(in path: String) throws(Errno) -> [String] {
        guard let directory = unsafe opendir(path) else { throw Errno(rawValue: errno) }
        // SAFETY: the stream is open until the function ends, and an entry is used before the next.
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) {
                    unsafe String(cString: $0)
                }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// Removes a directory tree or a file, whatever the modes of its directories and however deep;
    /// what does not exist is no error. Links are removed, not followed.
    public static func removeTree(_ path: String) throws(Errno) {
        var moved = 0
        try removeTree(path, top: path, moved: &moved)
    }

    /// Paths may grow by this before they come near what the system takes, 4096 bytes.
    private static let deep = 2048

    private static func removeTree(
        _ path: String, top: String, moved: inout Int
    ) throws(Errno) {
        let status: PathStatus
        do throws(Errno) {
            status = try PathStatus(of: path)
        } catch .noSuchFileOrDirectory {
            return
        }
        guard status.kind == .directory else { return try FileStatus.remove(path) }
        if status.mode & 0o700 != 0o700 { try changeMode(path, 0o700) }
        if path.utf8.count > top.utf8.count + deep {
            // What is too deep goes to the top, where its path is short again.
            moved += 1
            let higher = "\(top)/.removed-\(moved)"
            try rename(path, to: higher)
            return try removeTree(higher, top: top, moved: &moved)
        }
        for name in try names(in: path) {
            try removeTree("\(path)/\(name)", top: top, moved: &moved)
        }
        _ = try retrying { unsafe rmdir(path) }
    }
}

extension Descriptor {
    /// Takes the advisory lock of the open file without waiting.
    ///
    /// - Returns: false when another process has it.
    public func lockExclusive() throws(Errno) -> Bool {
        do throws(Errno) {
            _ = try check(cs_lock_exclusive(number))
            return true
        } catch .wouldBlock {
            return false
        }
    }

    /// An anonymous file in memory.
    public static func memoryFile(_ name: String) throws(Errno) -> Descriptor {
        Descriptor(taking: try check(unsafe cs_memfd_create(name, closeOnExec)))
    }

    /// Sets the position for the next read or write, in bytes from the start.
    public func seek(to offset: Int) throws(Errno) {
        _ = try check(lseek(number, offset, SEEK_SET))
    }

    /// The length of a regular file in bytes.
    public func fileSize() throws(Errno) -> Int {
        var status = stat()
        _ = try check(unsafe fstat(number, &status))
        return Int(status.st_size)
    }
}

/// MFD_CLOEXEC, which the overlay does not know.
private let closeOnExec: UInt32 = 1

extension PathStatus {
    /// Gives a path another name in the same file system.
    public static func rename(_ path: String, to new: String) throws(Errno) {
        _ = try retrying { unsafe Glibc.rename(path, new) }
    }
}

extension PathStatus {
    /// Removes a directory if it is empty.
    public static func removeEmpty(_ path: String) { _ = unsafe rmdir(path) }
}

extension PathStatus {
    /// Lets every user who has a pipe without a name open it again as `/dev/stdout` and the like:
    /// its users in a sandbox are others than its maker. Anything else is left alone.
    public static func openPipe(_ number: Int32) {
        guard FileStatus.linkText("/proc/self/fd/\(number)")?.hasPrefix("pipe:[") == true else {
            return
        }
        // A pipe that another user made cannot be changed, and is no worse than before.
        _ = fchmod(number, 0o666)
    }
}

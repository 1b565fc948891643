import Glibc
public import SystemPackage

/// Reading directories.
public enum Directory {
    /// The names of a directory's entries but `.` and `..`, in no order. Names that are not UTF-8
    /// come with replacement characters.
    ///
    /// - Parameter limit: more entries are refused with `EOVERFLOW`.
    public static func names(in path: String, limit: Int) throws(Errno) -> [String] {
        // SAFETY: the stream is closed on every way out; an entry is copied before the next read.
        guard let stream = unsafe opendir(path) else { throw Errno(rawValue: errno) }
        defer { _ = unsafe closedir(stream) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = unsafe readdir(stream) else {
                if errno != 0 { throw Errno(rawValue: errno) }
                return names
            }
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) {
                unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name == "." || name == ".." { continue }
            if names.count == limit { throw .overflow }
            names.append(name)
        }
    }
}

extension FileStatus {
    /// The kind of an open file.
    public static func kind(of file: borrowing Descriptor) throws(Errno) -> Kind {
        var status = stat()
        _ = try check(unsafe fstat(file.number, &status))
        switch status.st_mode & S_IFMT {
        case S_IFREG: return .regular
        case S_IFDIR: return .directory
        case S_IFSOCK: return .socket
        default: return .other
        }
    }
}

extension FileStatus {
    /// Gives a file to a group; its owner stays.
    public static func setGroup(_ path: String, _ group: UInt32) throws(Errno) {
        _ = try retrying { unsafe chown(path, uid_t.max, group) }
    }
}

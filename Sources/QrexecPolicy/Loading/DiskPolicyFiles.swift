import Glibc
import LinuxSystem
public import SystemPackage

/// Policy files on the disk.
public struct DiskPolicyFiles: PolicyFiles {
    public init() {}

    public func entries(of directory: String) throws(Errno) -> [PolicyDirectoryEntry] {
        var entries: [PolicyDirectoryEntry] = []
        for name in try Directory.names(in: directory, limit: PolicyLimits.directoryEntries) {
            let kind = try? FileStatus.kind(of: directory + "/" + name)
            entries.append(PolicyDirectoryEntry(name: name, isRegularFile: kind == .regular))
        }
        return entries
    }

    public func read(_ path: String, limit: Int) throws(Errno) -> [UInt8] {
        // Not blocking: a named pipe in the directory must not stop the policy.
        let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
        switch try FileStatus.kind(of: file) {
        case .regular: break
        case .directory: throw .isDirectory
        case .socket, .other: throw .invalidArgument
        }
        return try file.readAll(limit: limit)
    }
}

/// Bounds of a policy, each far above what anybody writes by hand.
public enum PolicyLimits {
    /// Bytes of one file.
    public static let fileSize = 32 << 20
    /// Bytes of one line.
    public static let lineLength = 64 << 10
    /// Files inside each other by includes.
    public static let includeDepth = 16
    /// Files read in all, each time one is included counted.
    public static let files = 10_000
    /// Rules in all.
    public static let rules = 1_000_000
    /// Entries of one directory.
    public static let directoryEntries = 100_000
    /// Errors and warnings that are told.
    public static let diagnostics = 1_000
}

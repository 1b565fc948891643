import CLinuxSystem
import Glibc
public import SystemPackage

/// What a file is.
public enum FileKind: Sendable, Equatable {
    case regular
    case directory
    case symbolicLink
    /// A device, socket or pipe.
    case special

    /// The kind in `st_mode`.
    public init(mode: UInt32) {
        switch mode & UInt32(S_IFMT) {
        case UInt32(S_IFREG): self = .regular
        case UInt32(S_IFDIR): self = .directory
        case UInt32(S_IFLNK): self = .symbolicLink
        default: self = .special
        }
    }

    /// The type bits that `st_mode` has for it; none for a special file.
    public var modeBits: UInt32 {
        switch self {
        case .regular: UInt32(S_IFREG)
        case .directory: UInt32(S_IFDIR)
        case .symbolicLink: UInt32(S_IFLNK)
        case .special: 0
        }
    }
}

/// A moment of a file: seconds since 1970 and nanoseconds.
public struct FileTime: Sendable, Equatable {
    public var seconds: Int64
    public var nanoseconds: UInt32

    public init(seconds: Int64, nanoseconds: UInt32) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }
}

/// What the system says about a file.
public struct FileAttributes: Sendable, Equatable {
    public var device: UInt64
    public var inode: UInt64
    /// `st_mode`: type and permission bits.
    public var mode: UInt32
    public var user: UInt32
    /// Bytes of contents.
    public var size: UInt64
    /// Bytes that the file system keeps for it: fewer than `size` when it has holes.
    public var allocated: UInt64
    public var accessed: FileTime
    public var modified: FileTime

    public var kind: FileKind { FileKind(mode: mode) }

    init(_ s: cs_file_status) {
        device = s.device
        inode = s.inode
        mode = s.mode
        user = s.user
        size = s.size
        allocated = s.allocated
        accessed = FileTime(seconds: s.accessed_seconds, nanoseconds: s.accessed_nanoseconds)
        modified = FileTime(seconds: s.modified_seconds, nanoseconds: s.modified_nanoseconds)
    }
}

/// Names and paths of this file are the kernel's: bytes that end with a NUL, of any encoding. With
/// `from` a path begins inside such an array, so that the last component of a path needs no copy.
private func withPath<Result>(
    _ path: [UInt8], _ from: Int, _ body: (UnsafePointer<CChar>) -> Result
) -> Result {
    precondition(path.last == 0 && from >= 0 && from < path.count, "path without its NUL")
    // SAFETY: the bytes from `from` on end with a NUL inside the array, which outlives `body`.
    return unsafe path.withUnsafeBytes {
        unsafe body($0.baseAddress!.advanced(by: from).assumingMemoryBound(to: CChar.self))
    }
}

extension Descriptor {
    // MARK: Opening

    /// Opens a path that must stay beneath this directory and pass through no symbolic link, also
    /// not as its last component.
    ///
    /// - Parameter path: relative, with its NUL; longer than the kernel takes at once is fine.
    public func openBeneath(
        _ path: [UInt8], from: Int = 0, _ flags: Int32, mode: UInt32 = 0
    ) throws(Errno) -> Descriptor {
        if path.count - from > Self.maximumPath {
            return try openByComponents(path, from, flags, mode)
        }
        // A rename elsewhere in the tree can make the kernel give up on its own check: try again.
        for _ in 0..<100 {
            do throws(Errno) {
                let number = self.number
                return Descriptor(
                    taking: try retrying {
                        unsafe withPath(path, from) {
                            unsafe cs_open_beneath(number, $0, flags, mode)
                        }
                    })
            } catch {
                switch error {
                case .resourceTemporarilyUnavailable: continue
                case .noFunction, .notPermitted:
                    return try openByComponents(path, from, flags, mode)
                default: throw error
                }
            }
        }
        throw .resourceTemporarilyUnavailable
    }

    /// The same with one open per component, for long paths and for kernels without openat2.
    private func openByComponents(
        _ path: [UInt8], _ from: Int, _ flags: Int32, _ mode: UInt32
    ) throws(Errno) -> Descriptor {
        var directory: Int32 = -1
        defer { if directory >= 0 { _ = Glibc.close(directory) } }
        var components = path[from..<(path.count - 1)].split(separator: UInt8(ascii: "/"))
        guard let last = components.popLast() else { throw .noSuchFileOrDirectory }
        for component in components + [last] where component.elementsEqual([46, 46]) {
            throw .init(rawValue: EXDEV)
        }
        func step(_ name: ArraySlice<UInt8>, _ flags: Int32, _ mode: UInt32) throws(Errno) -> Int32
        {
            let parent = directory >= 0 ? directory : number
            return try retrying {
                unsafe withPath(name + [0], 0) { unsafe cs_open_at(parent, $0, flags, mode) }
            }
        }
        for component in components {
            let next = try step(component, Self.pathOnly | O_DIRECTORY | O_NOFOLLOW, 0)
            if directory >= 0 { _ = Glibc.close(directory) }
            directory = next
        }
        return Descriptor(taking: try step(last, flags | O_NOFOLLOW, mode))
    }

    /// Longest path, with its NUL, that the kernel takes (PATH_MAX).
    private static var maximumPath: Int { 4096 }

    /// O_PATH: a place in the file system, neither to read nor to write.
    public static var pathOnly: Int32 { 0o10000000 }

    /// Opens a path as given, with every symbolic link that it passes through.
    ///
    /// - Parameter path: with its NUL.
    public static func open(bytes path: [UInt8], _ flags: Int32) throws(Errno) -> Descriptor {
        Descriptor(
            taking: try retrying { unsafe withPath(path, 0) { unsafe cs_open($0, flags, 0) } })
    }

    /// Creates a directory at a path unless there is something.
    ///
    /// - Parameter path: with its NUL.
    public static func makeDirectory(bytes path: [UInt8], mode: UInt32) throws(Errno) {
        do throws(Errno) {
            _ = try check(unsafe withPath(path, 0) { unsafe mkdir($0, mode) })
        } catch .fileExists {}
    }

    /// Creates a directory for this user only, whose name begins with a path and ends by chance.
    public static func makeTemporaryDirectory(prefix: String) throws(Errno) -> String {
        var path = Array((prefix + "XXXXXX").utf8) + [0]
        // SAFETY: mkdtemp changes six bytes of the array's own storage, before the NUL.
        let made = unsafe path.withUnsafeMutableBytes {
            unsafe mkdtemp($0.baseAddress!.assumingMemoryBound(to: CChar.self)) != nil
        }
        if !made { throw Errno(rawValue: errno) }
        return String(decoding: path.dropLast(), as: UTF8.self)
    }

    /// Removes an empty directory.
    public static func removeDirectory(_ path: String) throws(Errno) {
        _ = try check(unsafe rmdir(path))
    }

    /// Tells whoever reads standard output that nothing more comes, while the number stays in use.
    public static func endStandardOutput() {
        _ = Glibc.shutdown(1, Int32(SHUT_WR))
        _ = cs_close_standard_output()
    }

    /// The absolute path without links of something that exists, without NUL.
    ///
    /// - Parameter path: with its NUL.
    public static func realPath(_ path: [UInt8]) throws(Errno) -> [UInt8] {
        // SAFETY: the C library allocates the result, which ends with NUL, and we free it.
        guard let result = unsafe withPath(path, 0, { unsafe realpath($0, nil) }) else {
            throw Errno(rawValue: errno)
        }
        defer { unsafe free(result) }
        return unsafe Array(UnsafeBufferPointer(start: result, count: strlen(result))).map {
            UInt8(bitPattern: $0)
        }
    }

    /// Opens an entry of this directory; flags decide whether a link is followed.
    ///
    /// - Parameter name: with its NUL.
    public func open(
        entry name: [UInt8], from: Int = 0, _ flags: Int32, mode: UInt32 = 0
    ) throws(Errno) -> Descriptor {
        let number = self.number
        return Descriptor(
            taking: try retrying {
                unsafe withPath(name, from) { unsafe cs_open_at(number, $0, flags, mode) }
            })
    }

    // MARK: Creating

    /// A new file without a name, for writing; it vanishes unless `link` names it.
    public func openUnnamed(mode: UInt32) throws(Errno) -> Descriptor {
        let number = self.number
        return Descriptor(taking: try retrying { cs_open_unnamed(number, mode) })
    }

    /// The same for reading and writing.
    public func openUnnamedForReading(mode: UInt32) throws(Errno) -> Descriptor {
        try open(relative: ".", 0o20200000 | O_RDWR, mode: mode)
    }

    /// MFD_CLOEXEC.
    private static var closeOnExecute: UInt32 { 1 }

    /// A file in memory that no name leads to.
    public static func memoryFile(named name: String) throws(Errno) -> Descriptor {
        Descriptor(taking: try check(unsafe cs_memfd_create(name, closeOnExecute)))
    }

    /// Gives a file of `openUnnamed` its name in this directory; `EEXIST` when there is one.
    ///
    /// - Parameter descriptors: number of an open `/proc/self/fd`, for kernels that need it, or -1.
    public func link(
        _ file: borrowing Descriptor, as name: [UInt8], from: Int = 0, descriptors: Int32
    ) throws(Errno) {
        _ = try check(
            unsafe withPath(name, from) {
                unsafe cs_link_unnamed(file.number, descriptors, number, $0)
            })
    }

    public func makeDirectory(
        _ name: [UInt8], from: Int = 0, mode: UInt32
    ) throws(Errno) {
        _ = try check(unsafe withPath(name, from) { unsafe mkdirat(number, $0, mode) })
    }

    /// - Parameter target: with its NUL.
    public func makeSymbolicLink(
        _ name: [UInt8], from: Int = 0, to target: [UInt8]
    ) throws(Errno) {
        _ = try check(
            unsafe withPath(name, from) { name in
                unsafe withPath(target, 0) { unsafe symlinkat($0, number, name) }
            })
    }

    // MARK: Looking

    /// The status of the open file.
    public func status() throws(Errno) -> FileAttributes {
        var status = cs_file_status()
        _ = try check(unsafe cs_file_status(number, &status))
        return FileAttributes(status)
    }

    /// The status of an entry of this directory.
    public func status(
        of name: [UInt8], from: Int = 0, followingLink: Bool = false
    ) throws(Errno) -> FileAttributes {
        var status = cs_file_status()
        _ = try check(
            unsafe withPath(name, from) {
                unsafe cs_file_status_at(number, $0, followingLink ? 1 : 0, &status)
            })
        return FileAttributes(status)
    }

    /// The target of a symbolic link in this directory.
    ///
    /// - Parameter limit: a longer target is refused with `ENAMETOOLONG`.
    public func target(
        of name: [UInt8], from: Int = 0, limit: Int
    ) throws(Errno) -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: limit + 1)
        let count = try check(
            unsafe withPath(name, from) { name in
                // SAFETY: the kernel writes at most `count` bytes into the array's own storage.
                unsafe buffer.withUnsafeMutableBytes {
                    unsafe readlinkat(
                        number, name, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
                }
            })
        if count > limit { throw .fileNameTooLong }
        buffer.removeLast(buffer.count - count)
        return buffer
    }

    /// Fills the buffer with records of getdents64 and returns their length; 0 is the end.
    public func readDirectory(into buffer: inout [UInt8]) throws(Errno) -> Int {
        let number = self.number
        // SAFETY: the kernel writes at most `count` bytes into the array's own storage.
        return try check(
            unsafe buffer.withUnsafeMutableBytes {
                unsafe cs_read_directory(number, $0.baseAddress, $0.count)
            })
    }

    /// Bytes that this user may still write to the file system.
    public func freeSpace() throws(Errno) -> UInt64 {
        var bytes: UInt64 = 0
        _ = try check(unsafe cs_free_space(number, &bytes))
        return bytes
    }

    // MARK: Changing

    /// Sets the twelve permission bits.
    public func setMode(_ mode: UInt32) throws(Errno) {
        _ = try check(fchmod(number, mode & 0o7777))
    }

    public func setTimes(accessed: FileTime, modified: FileTime) throws(Errno) {
        _ = try check(
            cs_set_times(
                number, nil, accessed.seconds, accessed.nanoseconds, modified.seconds,
                modified.nanoseconds))
    }

    /// Sets the times of an entry of this directory, of a link itself.
    public func setTimes(
        of name: [UInt8], from: Int = 0, accessed: FileTime, modified: FileTime
    ) throws(Errno) {
        _ = try check(
            unsafe withPath(name, from) {
                unsafe cs_set_times(
                    number, $0, accessed.seconds, accessed.nanoseconds, modified.seconds,
                    modified.nanoseconds)
            })
    }

    /// Removes an entry of this directory.
    public func remove(
        _ name: [UInt8], from: Int = 0, directory: Bool
    ) throws(Errno) {
        _ = try check(
            unsafe withPath(name, from) {
                unsafe unlinkat(number, $0, directory ? AT_REMOVEDIR : 0)
            })
    }

    /// Gives an entry of this directory the name of another one, which it replaces at once.
    public func rename(_ name: [UInt8], over other: [UInt8]) throws(Errno) {
        let number = self.number
        _ = try check(
            unsafe withPath(name, 0) { name in
                unsafe withPath(other, 0) { unsafe renameat(number, name, number, $0) }
            })
    }

    /// Writes everything in the file system of this file to its medium.
    public func syncFileSystem() throws(Errno) { _ = try check(cs_sync_file_system(number)) }

    // MARK: Contents

    /// Reads into a part of a buffer; 0 is the end of the file.
    public func read(
        into buffer: inout [UInt8], at offset: Int, count: Int
    ) throws(Errno) -> Int {
        try Self.read(number, into: &buffer, at: offset, count: count)
    }

    /// The same from a descriptor that somebody else owns (0).
    public static func read(
        _ number: Int32, into buffer: inout [UInt8], at offset: Int, count: Int
    ) throws(Errno) -> Int {
        precondition(offset >= 0 && count >= 0 && offset <= buffer.count - count)
        return try retrying {
            // SAFETY: the range was checked to lie inside the array's own storage.
            unsafe buffer.withUnsafeMutableBytes {
                unsafe Glibc.read(number, $0.baseAddress?.advanced(by: offset), count)
            }
        }
    }

    /// Writes everything to a blocking descriptor that somebody else owns (1).
    public static func writeAll(_ number: Int32, _ bytes: Span<UInt8>) throws(Errno) {
        var done = 0
        while done < bytes.count {
            done += try retrying {
                // SAFETY: the kernel reads at most `count` bytes of a span that outlives the call.
                unsafe bytes.extracting(droppingFirst: done).withUnsafeBufferPointer {
                    unsafe Glibc.write(number, $0.baseAddress, $0.count)
                }
            }
        }
    }

    /// Whether a read of the descriptor would return at once.
    ///
    /// - Parameter milliseconds: how long to wait for that; -1 is for ever.
    public static func isReadable(_ number: Int32, milliseconds: Int32 = 0) throws(Errno) -> Bool {
        try retrying { cs_is_readable(number, milliseconds) } == 1
    }

    /// Waits until one or both of two descriptors are readable, or have ended.
    ///
    /// - Parameters:
    ///   - second: -1 waits for the first only.
    ///   - milliseconds: -1 waits for ever.
    public static func waitForEither(
        _ first: Int32, _ second: Int32, milliseconds: Int32 = -1
    ) throws(Errno) -> (first: Bool, second: Bool) {
        let which = try retrying { cs_wait_for_either(first, second, milliseconds) }
        return (which & 1 != 0, which & 2 != 0)
    }

    /// Where `seek` counts from.
    public enum Whence: Sendable {
        case start
        case current
        /// The next byte at or after the offset that is not in a hole.
        case data
        /// The next hole at or after the offset; the end of the file is one.
        case hole
    }

    /// Moves the position of the open file and returns the new one.
    @discardableResult
    public func seek(_ offset: Int64, _ whence: Whence) throws(Errno) -> Int64 {
        let code: Int32 =
            switch whence {
            case .start: SEEK_SET
            case .current: SEEK_CUR
            case .data: 3
            case .hole: 4
            }
        return Int64(try check(Int(cs_seek(number, offset, code))))
    }

    /// Sets the size; what is new is a hole.
    public func setSize(_ size: UInt64) throws(Errno) {
        _ = try check(ftruncate(number, off_t(size)))
    }
}

extension Span<UInt8> {
    /// How many of the first bytes are zero.
    public var leadingZeros: Int {
        // SAFETY: the C side reads `count` bytes of a span that outlives the call.
        unsafe withUnsafeBufferPointer { unsafe cs_leading_zeros($0.baseAddress, $0.count) }
    }
}

extension Errno {
    /// Why the system refused, in its words.
    public var message: String { unsafe String(cString: strerror(rawValue)) }
}

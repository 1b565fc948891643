import CLinuxSystem
import Glibc
import Synchronization
public import SystemPackage

/// Changes in directories, by inotify.
public struct Inotify: ~Copyable {
    /// Readable when events are pending.
    public let descriptor: Descriptor

    public init() throws(Errno) {
        let flags = Int32(IN_CLOEXEC | IN_NONBLOCK)
        descriptor = Descriptor(taking: try check(inotify_init1(flags)))
    }

    /// Watches a directory for entries that come, go, or change, and for its own end.
    ///
    /// - Returns: the watch's number, which each of its events carries.
    @discardableResult
    public func watchDirectory(_ path: String) throws(Errno) -> Int32 {
        let mask =
            IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO
            | IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB | IN_ONLYDIR
        return try check(unsafe inotify_add_watch(descriptor.number, path, UInt32(mask)))
    }

    /// Watches a directory for programs that end their use of what is in it: files that are closed,
    /// removed or renamed.
    public func watchEndOfUse(of directory: String) throws(Errno) {
        let mask =
            IN_CLOSE_WRITE | IN_CLOSE_NOWRITE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR
        _ = try check(unsafe inotify_add_watch(descriptor.number, directory, UInt32(mask)))
    }

    public func remove(watch: Int32) {
        _ = inotify_rm_watch(descriptor.number, watch)
    }

    /// Throws away the pending events without waiting.
    ///
    /// - Returns: whether there were any.
    public func drain() throws(Errno) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 4096)
        var any = false
        while true {
            do throws(Errno) {
                if try descriptor.read(into: &buffer) == 0 { return any }
                any = true
            } catch .resourceTemporarilyUnavailable {
                return any
            }
        }
    }
}

/// A watch for what comes into one directory, for a while.
///
/// Closing an inotify descriptor waits in the kernel for a grace period, some milliseconds that a
/// call would pay for. Descriptors whose watch has ended are therefore kept for the next ones; as
/// many as calls begin at a time, and not more, because Linux gives each user 128.
public struct DirectoryWatch: ~Copyable {
    /// Readable when something has changed, now and then also when nothing has.
    public let number: Int32
    private let watch: Int32

    private static let spare = Mutex<[Int32]>([])
    private static let spareLimit = 16
    /// A socket is there when it is made, renamed, or has its mode changed, by who makes it.
    private static let mask = UInt32(IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR)

    public init(_ directory: String) throws(Errno) {
        var number = Self.takeSpare() ?? -1
        if number < 0 { number = try check(inotify_init1(Int32(IN_CLOEXEC | IN_NONBLOCK))) }
        let watch = unsafe inotify_add_watch(number, directory, Self.mask)
        guard watch >= 0 else {
            let error = Errno(rawValue: errno)
            Self.release(number)
            throw error
        }
        self.number = number
        self.watch = watch
    }

    /// Takes the changes so far.
    ///
    /// - Returns: whether one of them may be of this entry of the directory.
    public func hasChanged(_ entry: String) -> Bool {
        let name = Array(entry.utf8)
        var isIt = false
        take { if $0.isEmpty || $0.elementsEqual(name) { isIt = true } }
        return isIt
    }

    private static let headerSize = 16
    private static let longestEvent = headerSize + 256

    /// - Parameter body: gets the name of the entry of each change; an empty one for the directory
    ///   itself, and for changes that were lost.
    private func take(_ body: (ArraySlice<UInt8>) -> Void) {
        var buffer = [UInt8](repeating: 0, count: 2048)
        while true {
            // SAFETY: the kernel writes at most `count` bytes into the array's own storage.
            let count = unsafe buffer.withUnsafeMutableBytes {
                unsafe read(number, $0.baseAddress, $0.count)
            }
            if count < 0, errno == EINTR { continue }
            var at = 0
            while at + Self.headerSize <= count {
                // The last of four words of the header is the length of the name, with its NULs.
                let length = Int(buffer[at + 12]) | Int(buffer[at + 13]) << 8
                let end = min(at + Self.headerSize + length, count)
                body(buffer[(at + Self.headerSize)..<end].prefix { $0 != 0 })
                at = end
            }
            // With this much room left there was nothing more.
            if count + Self.longestEvent <= buffer.count { return }
        }
    }

    private static func takeSpare() -> Int32? { spare.withLock { $0.popLast() } }

    private static func release(_ number: Int32) {
        let isKept = spare.withLock { spare in
            if spare.count < spareLimit { spare.append(number) }
            return spare.last == number
        }
        if !isKept { _ = Glibc.close(number) }
    }

    deinit {
        _ = inotify_rm_watch(number, watch)
        // The next one shall not wake for what happened here.
        take { _ in }
        Self.release(number)
    }
}

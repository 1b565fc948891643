import CLinuxSystem
import Glibc
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

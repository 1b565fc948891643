import Glibc
public import SystemPackage

/// A few descriptors to wait for at once, for programs without an event loop.
public struct PollSet: ~Copyable {
    private var entries: [pollfd] = []

    public init() {}

    /// Forgets all descriptors.
    public mutating func removeAll() { entries.removeAll(keepingCapacity: true) }

    /// Waits for this one too; a hang-up is always noticed.
    public mutating func add(_ number: Int32, _ interest: Readiness) {
        var events: Int32 = 0
        if interest.contains(.readable) { events |= POLLIN }
        if interest.contains(.writable) { events |= POLLOUT }
        entries.append(pollfd(fd: number, events: Int16(events), revents: 0))
    }

    /// Waits until one of them is ready.
    ///
    /// - Parameter milliseconds: -1 waits for ever.
    /// - Returns: whether one is; false when the time is over.
    public mutating func wait(milliseconds: Int32 = -1) throws(Errno) -> Bool {
        let count = nfds_t(entries.count)
        // SAFETY: the array's own storage, `count` entries.
        let ready = unsafe entries.withUnsafeMutableBufferPointer {
            unsafe Glibc.poll($0.baseAddress, count, milliseconds)
        }
        if ready < 0, errno == EINTR { return true }
        return try check(ready) > 0
    }
}

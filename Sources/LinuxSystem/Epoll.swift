import CLinuxSystem
import Glibc
public import SystemPackage

/// What a descriptor is watched for, or what happened on it.
public struct Readiness: OptionSet, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static let readable = Readiness(rawValue: 1)
    public static let writable = Readiness(rawValue: 2)
    /// The peer is gone or the descriptor has an error; always reported.
    public static let hangup = Readiness(rawValue: 4)
}

/// Watches many descriptors, level-triggered.
public struct Epoll: ~Copyable {
    private let descriptor: Descriptor
    private var tags = [UInt64](repeating: 0, count: Int(CS_EPOLL_MAX_EVENTS))
    private var readiness = [UInt8](repeating: 0, count: Int(CS_EPOLL_MAX_EVENTS))

    public init() throws(Errno) {
        descriptor = Descriptor(taking: try check(cs_epoll_create()))
    }

    private func control(
        _ operation: Int32, _ number: Int32, _ interest: Readiness, _ tag: UInt64
    ) throws(Errno) {
        let interest = UInt32(interest.rawValue)
        _ = try check(cs_epoll_control(descriptor.number, operation, number, interest, tag))
    }

    /// Starts to watch; `EPERM` for regular files, which are always ready.
    ///
    /// - Parameter tag: comes back with each event.
    public func add(_ number: Int32, _ interest: Readiness, tag: UInt64) throws(Errno) {
        try control(0, number, interest, tag)
    }

    public func modify(_ number: Int32, _ interest: Readiness, tag: UInt64) throws(Errno) {
        try control(1, number, interest, tag)
    }

    public func remove(_ number: Int32) throws(Errno) {
        try control(2, number, [], 0)
    }

    /// Waits for events, which `event` then tells.
    ///
    /// - Parameter milliseconds: 0 looks without waiting, -1 waits for ever.
    /// - Returns: how many; 0 when the time is over or a signal came.
    public mutating func wait(milliseconds: Int32) throws(Errno) -> Int {
        let number = descriptor.number
        // SAFETY: the C side writes at most CS_EPOLL_MAX_EVENTS entries, the size of both arrays.
        let count = unsafe tags.withUnsafeMutableBufferPointer { tags in
            unsafe readiness.withUnsafeMutableBufferPointer { readiness in
                unsafe cs_epoll_wait(
                    number, tags.baseAddress, readiness.baseAddress, milliseconds)
            }
        }
        if count >= 0 { return Int(count) }
        let error = Errno(rawValue: errno)
        if error == .interrupted { return 0 }
        throw error
    }

    /// Event `index` of those that the last wait counted.
    public func event(_ index: Int) -> (tag: UInt64, readiness: Readiness) {
        (tags[index], Readiness(rawValue: readiness[index]))
    }
}

/// Waits for one descriptor, for programs without an event loop.
///
/// - Parameter milliseconds: -1 waits for ever.
/// - Returns: what happened; empty when the time is over.
public func poll(
    _ number: Int32, _ interest: Readiness, milliseconds: Int32
) throws(Errno) -> Readiness {
    var entry = pollfd(fd: number, events: 0, revents: 0)
    if interest.contains(.readable) { entry.events |= Int16(POLLIN) }
    if interest.contains(.writable) { entry.events |= Int16(POLLOUT) }
    _ = try retrying { unsafe Glibc.poll(&entry, 1, milliseconds) }
    var readiness: Readiness = []
    if entry.revents & Int16(POLLIN) != 0 { readiness.insert(.readable) }
    if entry.revents & Int16(POLLOUT) != 0 { readiness.insert(.writable) }
    if entry.revents & Int16(POLLHUP | POLLERR | POLLNVAL) != 0 { readiness.insert(.hangup) }
    return readiness
}

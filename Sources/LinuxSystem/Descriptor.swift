import CLinuxSystem
import Glibc
public import SystemPackage

/// An open file descriptor that is closed exactly once, when the value goes away.
public struct Descriptor: ~Copyable, Sendable {
    /// The descriptor's number, valid as long as this value lives.
    public let number: Int32

    /// Takes over an open descriptor; nobody else may close it.
    public init(taking number: Int32) {
        precondition(number >= 0, "not an open descriptor")
        self.number = number
    }

    deinit { _ = Glibc.close(number) }

    /// Gives up ownership: the caller closes the number.
    public consuming func release() -> Int32 {
        let number = self.number
        discard self
        return number
    }

    /// A second descriptor of the same open file description, at number 3 or above.
    public func duplicate() throws(Errno) -> Descriptor {
        try Self.duplicate(of: number)
    }

    /// A descriptor of our own for one that this process does not own (0, 1, 2).
    public static func duplicate(of number: Int32) throws(Errno) -> Descriptor {
        Descriptor(taking: try check(cs_duplicate(number)))
    }

    /// Opens a path close-on-exec.
    ///
    /// - Parameters:
    ///   - flags: `O_*` flags; `O_CLOEXEC` is added.
    ///   - mode: permission bits of a file that is created.
    public static func open(
        _ path: String, _ flags: Int32, mode: UInt32 = 0
    ) throws(Errno) -> Descriptor {
        Descriptor(taking: try retrying { unsafe cs_open(path, flags, mode) })
    }

    /// Opens a path relative to this directory, close-on-exec.
    public func open(
        relative path: String, _ flags: Int32, mode: UInt32 = 0
    ) throws(Errno) -> Descriptor {
        Descriptor(taking: try retrying { unsafe cs_open_at(number, path, flags, mode) })
    }

    /// Reads at most `buffer.count` bytes; 0 is the end of the file.
    public func read(into buffer: inout [UInt8]) throws(Errno) -> Int {
        try retrying {
            // SAFETY: the kernel writes at most `count` bytes into the array's own storage.
            unsafe buffer.withUnsafeMutableBytes {
                unsafe Glibc.read(number, $0.baseAddress, $0.count)
            }
        }
    }

    /// Reads to the end of the file.
    ///
    /// - Parameter limit: a longer file is refused with `EFBIG`.
    public func readAll(limit: Int) throws(Errno) -> [UInt8] {
        var result: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: min(limit + 1, 65536))
        while true {
            let count = try read(into: &chunk)
            if count == 0 { return result }
            if result.count + count > limit { throw .fileTooLarge }
            result.append(contentsOf: chunk[..<count])
        }
    }

    /// Writes as much as the descriptor takes.
    public func write(_ bytes: Span<UInt8>) throws(Errno) -> Int {
        try Self.write(bytes, to: number)
    }

    private static func write(_ bytes: Span<UInt8>, to number: Int32) throws(Errno) -> Int {
        try retrying {
            // SAFETY: the kernel reads at most `count` bytes of a span that outlives the call.
            unsafe bytes.withUnsafeBufferPointer {
                unsafe Glibc.write(number, $0.baseAddress, $0.count)
            }
        }
    }

    /// Writes everything; for blocking descriptors.
    public func writeAll(_ bytes: [UInt8]) throws(Errno) {
        try Self.writeAll(bytes, to: number)
    }

    /// Writes everything to a blocking descriptor that this process does not own (1, 2).
    public static func writeAll(_ bytes: [UInt8], to number: Int32) throws(Errno) {
        var done = 0
        while done < bytes.count {
            done += try write(bytes.span.extracting(droppingFirst: done), to: number)
        }
    }

    /// Switches non-blocking mode of the open file description, which other processes may share.
    public func setNonblocking(_ on: Bool) throws(Errno) {
        _ = try check(cs_set_nonblocking(number, on ? 1 : 0))
    }

    /// Switches non-blocking mode of a descriptor that somebody else owns; best effort.
    public static func setNonblocking(_ number: Int32, _ on: Bool) {
        _ = cs_set_nonblocking(number, on ? 1 : 0)
    }

    /// Makes another number (0, 1, 2) a copy of this descriptor, inherited by programs.
    public func replace(_ target: Int32) throws(Errno) {
        _ = try check(dup2(number, target))
    }

    /// Both ends of a pipe, close-on-exec and blocking.
    ///
    /// - Returns: the end to read from, then the end to write to.
    public static func pipe() throws(Errno) -> DescriptorPair {
        var ends: [Int32] = [-1, -1]
        _ = try check(unsafe ends.withUnsafeMutableBufferPointer { unsafe cs_pipe($0.baseAddress) })
        return DescriptorPair(
            first: Descriptor(taking: ends[0]), second: Descriptor(taking: ends[1]))
    }
}

extension Descriptor {
    /// What a descriptor is, as far as moving bytes cares.
    public enum Kind: Sendable {
        case socket
        case pipe
        case terminal
        /// A regular file or something else that is always ready and never blocks for long.
        case file
    }

    /// The kind of an open descriptor, whoever owns it.
    public static func kind(of number: Int32) throws(Errno) -> Kind {
        var status = stat()
        _ = try check(unsafe fstat(number, &status))
        switch status.st_mode & S_IFMT {
        case S_IFSOCK: return .socket
        case S_IFIFO: return .pipe
        case S_IFCHR: return isatty(number) == 1 ? .terminal : .file
        default: return .file
        }
    }

    /// A non-blocking descriptor for one of the process's standard streams that leaves the shared
    /// open file description alone where the system lets us open a new one (pipes, terminals).
    ///
    /// - Parameters:
    ///   - kind: when the caller knows it already.
    ///   - switched: set when the shared description was switched to non-blocking because there was
    ///     no other way; the caller then switches it back at its end.
    public static func privateNonblocking(
        _ number: Int32, of kind: Kind? = nil, writing: Bool, switched: inout Bool
    ) throws(Errno) -> Descriptor {
        let known = if let kind { kind } else { try self.kind(of: number) }
        switch known {
        case .file, .socket:
            // Sockets are read and written with MSG_DONTWAIT: no mode to change.
            return try duplicate(of: number)
        case .pipe, .terminal:
            let access = (writing ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY
            let fd = unsafe cs_open("/proc/self/fd/" + decimalText(UInt64(number)), access, 0)
            if fd >= 0 { return Descriptor(taking: fd) }
            let copy = try duplicate(of: number)
            switched = try check(cs_is_nonblocking(copy.number)) == 0
            try copy.setNonblocking(true)
            return copy
        }
    }
}

/// Two descriptors that belong together: the ends of a pipe or of a socket pair.
@frozen
public struct DescriptorPair: ~Copyable, Sendable {
    public var first: Descriptor
    public var second: Descriptor

    public init(first: consuming Descriptor, second: consuming Descriptor) {
        self.first = first
        self.second = second
    }
}

/// The result of a system call, or its error.
package func check(_ result: Int32) throws(Errno) -> Int32 {
    if result < 0 { throw Errno(rawValue: errno) }
    return result
}

/// The same for one that counts bytes.
package func check(_ result: Int) throws(Errno) -> Int {
    if result < 0 { throw Errno(rawValue: errno) }
    return result
}

/// The result of a system call that is made again when a signal interrupts it.
@inline(__always)
package func retrying<Result: SignedInteger>(_ call: () -> Result) throws(Errno) -> Result {
    while true {
        let result = call()
        if result >= 0 { return result }
        let error = Errno(rawValue: errno)
        if error != .interrupted { throw error }
    }
}

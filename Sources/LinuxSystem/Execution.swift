import CLinuxSystem
import Glibc
public import SystemPackage

extension CurrentProcess {
    /// All of argv as bytes, whatever their encoding.
    public static var argumentBytes: [[UInt8]] {
        var arguments: [[UInt8]] = []
        // SAFETY: the C library hands over a NULL-terminated list that lives as long as the process.
        var next = unsafe cs_arguments()
        while let argument = unsafe next?.pointee {
            unsafe arguments.append(
                Array(UnsafeBufferPointer(start: argument, count: strlen(argument))).map {
                    UInt8(bitPattern: $0)
                })
            unsafe next = next?.advanced(by: 1)
        }
        return arguments
    }

    /// Becomes another program in this process's environment, with the signals that programs expect.
    ///
    /// - Parameters:
    ///   - path: no search in PATH.
    ///   - arguments: all of argv, without NUL bytes.
    public static func become(_ path: [UInt8], _ arguments: [[UInt8]]) throws(Errno) -> Never {
        precondition(![path].contains { $0.contains(0) } && !arguments.contains { $0.contains(0) })
        var bytes = path + [0]
        var offsets: [Int] = []
        for argument in arguments {
            offsets.append(bytes.count)
            bytes += argument + [0]
        }
        _ = Glibc.signal(SIGPIPE, SIG_DFL)
        // SAFETY: the vector points into `bytes`, which outlives the call; a failed call changes
        // nothing.
        unsafe bytes.withUnsafeMutableBytes { storage in
            let base = unsafe storage.baseAddress!.assumingMemoryBound(to: CChar.self)
            var vector: [UnsafeMutablePointer<CChar>?] = unsafe []
            for offset in offsets { unsafe vector.append(base + offset) }
            unsafe vector.append(nil)
            _ = unsafe cs_execute(base, vector, cs_environment())
        }
        throw Errno(rawValue: errno)
    }

    /// Changes the directory that relative paths begin in.
    public static func changeDirectory(_ path: String) throws(Errno) {
        _ = try check(unsafe chdir(path))
    }

    /// Sets the machine's clock; only who administers the machine may.
    public static func setWallClock(seconds: Int, nanoseconds: Int) throws(Errno) {
        var time = timespec(tv_sec: seconds, tv_nsec: nanoseconds)
        _ = try check(unsafe clock_settime(CLOCK_REALTIME, &time))
    }
}

extension FileStatus {
    /// Whether the effective user may execute a file: like `isExecutable`, for names of any bytes.
    ///
    /// - Parameter path: without NUL.
    public static func isExecutable(bytes path: [UInt8]) -> Bool {
        // SAFETY: the array ends with NUL and outlives the call.
        unsafe (path + [0]).withUnsafeBytes {
            unsafe faccessat(
                AT_FDCWD, $0.baseAddress!.assumingMemoryBound(to: CChar.self), X_OK, AT_EACCESS)
        } == 0
    }
}

extension TCPSocket {
    /// Listens on a port of this machine's IPv4 loopback address, close-on-exec and blocking.
    public static func listen(loopbackPort port: UInt16) throws(Errno) -> Descriptor {
        Descriptor(taking: try check(cs_tcp_listen(port)))
    }
}

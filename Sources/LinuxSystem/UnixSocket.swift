import CLinuxSystem
import Glibc
public import SystemPackage

/// Unix sockets by path, close-on-exec and non-blocking, and descriptors passed over them.
public enum UnixSocket {
    public enum Kind: Sendable {
        case stream
        case sequencedPacket
        case datagram

        var rawValue: Int32 {
            switch self {
            case .stream: Int32(SOCK_STREAM.rawValue)
            case .sequencedPacket: Int32(SOCK_SEQPACKET.rawValue)
            case .datagram: Int32(SOCK_DGRAM.rawValue)
            }
        }
    }

    /// Listens at a path that must not exist yet. Who sees the path can connect.
    ///
    /// - Parameters:
    ///   - mode: permission bits of the socket file, from its first moment, whatever the umask.
    ///   - backlog: connections that may wait for accept.
    public static func listen(
        _ path: String, _ kind: Kind = .stream, mode: Int32, backlog: Int32 = 128
    ) throws(Errno) -> Descriptor {
        Descriptor(taking: try check(unsafe cs_unix_listen(path, kind.rawValue, backlog, mode)))
    }

    /// Connects without waiting: a full backlog is `EAGAIN`. A name that begins with `@` and holds no
    /// slash is an abstract one.
    public static func connect(
        _ path: String, _ kind: Kind = .stream
    ) throws(Errno) -> Descriptor {
        Descriptor(taking: try retrying { unsafe cs_unix_connect(path, kind.rawValue) })
    }

    /// Takes the next waiting connection; `EAGAIN` when there is none.
    public static func accept(_ listener: borrowing Descriptor) throws(Errno) -> Descriptor {
        let number = listener.number
        return Descriptor(taking: try retrying { cs_accept(number) })
    }

    /// Two sockets connected to each other, close-on-exec and blocking.
    public static func pair(_ kind: Kind = .stream) throws(Errno) -> DescriptorPair {
        var ends: [Int32] = [-1, -1]
        let type = kind.rawValue | Int32(SOCK_CLOEXEC.rawValue)
        _ = try check(
            unsafe ends.withUnsafeMutableBufferPointer {
                unsafe socketpair(AF_UNIX, type, 0, $0.baseAddress)
            })
        return DescriptorPair(
            first: Descriptor(taking: ends[0]), second: Descriptor(taking: ends[1]))
    }

    /// Lets a socket hold twice as many bytes of a stream that its other end has not read as it does
    /// by itself: fewer turns of the processes at both ends. What the system does not allow
    /// (`net.core.wmem_max`) it leaves out.
    public static func enlargeSendBuffer(of socket: borrowing Descriptor) {
        // The kernel doubles the number that it is given, for its own book-keeping.
        var bytes: Int32 = 208 << 10
        let size = socklen_t(MemoryLayout<Int32>.size)
        // SAFETY: an integer of that size, which outlives the call.
        _ = unsafe setsockopt(socket.number, SOL_SOCKET, SO_SNDBUF, &bytes, size)
    }

    /// The process at the other end when it connected.
    public struct Peer: Sendable {
        public let pid: Int32
        public let uid: UInt32
        public let gid: UInt32
    }

    public static func peer(of socket: borrowing Descriptor) throws(Errno) -> Peer {
        var pid: pid_t = 0
        var uid: uid_t = 0
        var gid: gid_t = 0
        _ = try check(unsafe cs_peer_credentials(socket.number, &pid, &uid, &gid))
        return Peer(pid: pid, uid: uid, gid: gid)
    }

    /// Sends bytes without waiting and without a SIGPIPE.
    public static func send(_ socket: Int32, _ bytes: Span<UInt8>) throws(Errno) -> Int {
        try retrying {
            // SAFETY: the kernel reads at most `count` bytes of a span that outlives the call.
            unsafe bytes.withUnsafeBufferPointer {
                unsafe Glibc.send(
                    socket, $0.baseAddress, $0.count,
                    noWait | noSignal)
            }
        }
    }

    /// Receives what is there without waiting; 0 is the peer's end.
    public static func receive(
        _ socket: Int32, into buffer: inout [UInt8]
    ) throws(Errno) -> Int {
        try retrying {
            // SAFETY: the kernel writes at most `count` bytes into the array's own storage.
            unsafe buffer.withUnsafeMutableBytes {
                unsafe Glibc.recv(socket, $0.baseAddress, $0.count, noWait)
            }
        }
    }

    /// Sends one message with up to 16 descriptors, which stay open here.
    ///
    /// - Parameter wait: whether to wait for room; else `EAGAIN`.
    public static func send(
        _ socket: borrowing Descriptor, _ bytes: [UInt8], descriptors: [Int32], wait: Bool = false
    ) throws(Errno) -> Int {
        let flags = wait ? 0 : noWait
        let number = socket.number
        return try retrying {
            // SAFETY: both arrays outlive the call, which reads them only.
            unsafe bytes.withUnsafeBytes { bytes in
                unsafe descriptors.withUnsafeBufferPointer { fds in
                    unsafe cs_send_descriptors(
                        number, bytes.baseAddress, bytes.count, fds.baseAddress, Int32(fds.count),
                        flags)
                }
            }
        }
    }

    /// Receives one message with the descriptors that came with it.
    ///
    /// - Parameters:
    ///   - limit: bytes taken at most; a longer packet is refused with `EMSGSIZE`.
    ///   - maximumDescriptors: more are closed and the message is refused with `EMSGSIZE`.
    ///   - descriptors: those that came, in order.
    /// - Returns: no bytes when the peer has closed.
    public static func receive(
        _ socket: borrowing Descriptor, limit: Int, maximumDescriptors: Int, wait: Bool = false,
        descriptors: inout DescriptorList
    ) throws(Errno) -> [UInt8] {
        var fds = [Int32](repeating: -1, count: max(maximumDescriptors, 1))
        var count = Int32(maximumDescriptors)
        let flags = wait ? 0 : noWait
        let number = socket.number
        var problem: Errno?
        // Not cleared before: a limit is mostly far above what comes.
        // SAFETY: the C side writes at most `limit` bytes, of which it tells how many, and at most
        // `count` numbers.
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: limit) { bytes, initialized in
            do throws(Errno) {
                initialized = try retrying {
                    count = Int32(maximumDescriptors)
                    return unsafe fds.withUnsafeMutableBufferPointer { fds in
                        unsafe cs_receive_descriptors(
                            number, bytes.baseAddress, limit, fds.baseAddress, &count, flags)
                    }
                }
            } catch {
                problem = error
            }
        }
        if let problem { throw problem }
        descriptors = DescriptorList(taking: Array(fds[..<Int(count)]))
        return bytes
    }

    /// Whether bytes wait in a socket; they stay there.
    public static func hasData(_ socket: Int32) -> Bool {
        var byte: UInt8 = 0
        // SAFETY: the kernel writes at most one byte.
        return unsafe Glibc.recv(socket, &byte, 1, noWait | Int32(MSG_PEEK)) == 1
    }

    /// Ends one direction of a connected socket; an error means that it has ended already.
    public static func shutdown(_ socket: Int32, writing: Bool) {
        _ = Glibc.shutdown(socket, Int32(writing ? SHUT_WR : SHUT_RD))
    }
}

/// TCP connections to numeric addresses.
public enum TCPSocket {
    /// Begins to connect; the socket is writable when the connection is there or has failed, which
    /// `pendingError` tells. `EINVAL` for an address that is not numeric.
    public static func connect(host: String, port: UInt16) throws(Errno) -> Descriptor {
        Descriptor(taking: try check(unsafe cs_tcp_connect(host, port)))
    }

    /// The error of a socket since the last look; nil without one.
    public static func pendingError(_ socket: Int32) -> Errno? {
        let error = cs_socket_error(socket)
        return error == 0 ? nil : Errno(rawValue: error)
    }
}

private let noWait = Int32(MSG_DONTWAIT)
private let noSignal = Int32(MSG_NOSIGNAL)

/// Descriptors that arrived with a message; what is not taken is closed.
public struct DescriptorList: ~Copyable, Sendable {
    private var numbers: [Int32]

    public init(taking numbers: [Int32] = []) { self.numbers = numbers }

    public var count: Int { numbers.count }

    /// Takes the first descriptor that was not taken yet.
    public mutating func takeFirst() -> Descriptor? {
        if numbers.isEmpty { return nil }
        return Descriptor(taking: numbers.removeFirst())
    }

    deinit { for number in numbers { _ = Glibc.close(number) } }
}

import Foundation
import Glibc
import LinuxSystem
import QrexecProtocol
import Testing

struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// One end of a byte stream that a test plays, blocking, with a time limit for broken programs.
final class Peer: @unchecked Sendable {
    private let descriptor: Descriptor
    static let patience = 20

    init(_ descriptor: consuming Descriptor) {
        self.descriptor = consume descriptor
        try? self.descriptor.setNonblocking(false)
        var limit = timeval(tv_sec: Self.patience, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(number, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    convenience init(connectingTo path: String) throws {
        try self.init(UnixSocket.connect(path))
    }

    var number: Int32 { descriptor.number }

    func send(_ bytes: [UInt8]) throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = Glibc.send(number, Array(rest), rest.count, Int32(MSG_NOSIGNAL))
            guard count > 0 else {
                throw Failure("cannot send: \(String(cString: strerror(errno)))")
            }
            rest.removeFirst(count)
        }
    }

    func send(_ type: MessageType, _ body: [UInt8]) throws { try send(encoded(type, body)) }

    /// Exactly so many bytes.
    func receive(_ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            var chunk = [UInt8](repeating: 0, count: count - bytes.count)
            let got = recv(number, &chunk, chunk.count, 0)
            guard got > 0 else {
                throw Failure("the stream \(got == 0 ? "ended" : "stalled") after \(bytes)")
            }
            bytes += chunk[..<got]
        }
        return bytes
    }

    /// The next message as bytes: header and body.
    func message() throws -> [UInt8] {
        let header = try receive(8)
        return header + (try receive(Int(MessageHeader(header)!.length)))
    }

    /// Whether the other end closes, and sends nothing before.
    func isClosed() -> Bool {
        var byte: UInt8 = 0
        let got = recv(number, &byte, 1, 0)
        return got == 0 || got < 0 && errno == ECONNRESET
    }

    /// Whether nothing comes for a moment.
    func isQuiet(milliseconds: Int32 = 150) -> Bool {
        var entry = pollfd(fd: number, events: Int16(POLLIN), revents: 0)
        return poll(&entry, 1, milliseconds) == 0
    }

    /// Everything to the end of the stream.
    func rest() -> [UInt8] {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let got = recv(number, &chunk, chunk.count, 0)
            if got <= 0 { return bytes }
            bytes += chunk[..<got]
        }
    }

    /// The process that listens at the other end.
    func processID() throws -> Int32 { try UnixSocket.peer(of: descriptor).pid }

    func endSending() { shutdown(number, Int32(SHUT_WR)) }

    /// HELLO both ways.
    func greet(_ version: UInt32 = 4, answer: UInt32? = nil) throws {
        try send(hello(version))
        let answer = answer ?? min(version, 4)
        let got = try message()
        guard got == hello(answer) else { throw Failure("HELLO is \(got)") }
    }
}

/// A listening socket that a test plays.
final class Listener {
    private let descriptor: Descriptor
    let path: String

    init(_ path: String) throws {
        unlink(path)
        self.path = path
        descriptor = try UnixSocket.listen(path, mode: 0o666)
    }

    deinit { unlink(path) }

    func accept(milliseconds: Int32 = Int32(Peer.patience * 1000)) throws -> Peer {
        guard try LinuxSystem.poll(descriptor.number, .readable, milliseconds: milliseconds) != []
        else { throw Failure("nobody connects to \(path)") }
        return Peer(try UnixSocket.accept(descriptor))
    }
}

/// A local service of dom0 that a test plays in a thread: a request a connection, an answer.
final class FakeService: @unchecked Sendable {
    private let lock = NSLock()
    private var requests: [[UInt8]] = []
    private let descriptor: Int32
    private let path: String
    private let done = DispatchSemaphore(value: 0)

    /// - Parameters:
    ///   - isComplete: whether the bytes are a whole request; the end of the stream is one always.
    ///   - answer: nil closes without one.
    init(
        _ path: String, isComplete: @escaping @Sendable ([UInt8]) -> Bool,
        answer: @escaping @Sendable ([UInt8]) -> [UInt8]?
    ) throws {
        self.path = path
        let listener = try UnixSocket.listen(path, mode: 0o666)
        try listener.setNonblocking(false)
        descriptor = listener.release()
        let thread = Thread { [self] in
            while true {
                let number = accept(descriptor, nil, nil)
                if number < 0 { break }
                serve(Peer(Descriptor(taking: number)), isComplete, answer)
            }
            done.signal()
        }
        thread.start()
    }

    private func serve(
        _ peer: Peer, _ isComplete: ([UInt8]) -> Bool, _ answer: ([UInt8]) -> [UInt8]?
    ) {
        var request: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while !isComplete(request) {
            let got = recv(peer.number, &chunk, chunk.count, 0)
            if got <= 0 { break }
            request += chunk[..<got]
        }
        lock.withLock { requests.append(request) }
        if let bytes = answer(request) { try? peer.send(bytes) }
    }

    var texts: [String] {
        lock.withLock { requests.map { String(decoding: $0, as: UTF8.self) } }
    }

    func end() {
        shutdown(descriptor, Int32(SHUT_RDWR))
        done.wait()
        close(descriptor)
        unlink(path)
    }
}

// MARK: Bytes

func little(_ value: UInt32) -> [UInt8] {
    (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
}

func field(_ text: String, _ size: Int) -> [UInt8] {
    Array(text.utf8) + [UInt8](repeating: 0, count: size - text.utf8.count)
}

func hello(_ version: UInt32) -> [UInt8] { little(0x300) + little(4) + little(version) }

func message(_ type: UInt32, _ body: [UInt8]) -> [UInt8] {
    little(type) + little(UInt32(body.count)) + body
}

func exec(_ type: UInt32, _ domain: UInt32, _ port: UInt32, _ command: String) -> [UInt8] {
    message(type, little(domain) + little(port) + Array(command.utf8) + [0])
}

/// EXEC_CMDLINE.
func exec(_ domain: UInt32, _ port: UInt32, _ command: String) -> [UInt8] {
    exec(0x200, domain, port, command)
}

func place(_ type: UInt32, _ domain: UInt32, _ port: UInt32) -> [UInt8] {
    message(type, little(domain) + little(port))
}

func serviceConnect(_ domain: UInt32, _ port: UInt32, _ ident: String) -> [UInt8] {
    message(0x202, little(domain) + little(port) + field(ident, 32))
}

func refused(_ ident: String) -> [UInt8] { message(0x203, field(ident, 32)) }

/// A qube's request, in the message of a protocol version.
func trigger(
    _ version: UInt32 = 4, source: String = "", target: String = "target",
    ident: String = "SOCKET7", service: String = "test.Service"
) -> [UInt8] {
    switch version {
    case 2: message(0x210, field(service, 64) + field(target, 32) + field(ident, 32))
    case 3: message(0x212, field(target, 64) + field(ident, 32) + Array(service.utf8) + [0])
    default:
        message(
            0x213,
            field(source, 64) + field(target, 64) + field(ident, 32) + Array(service.utf8) + [0])
    }
}

import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

/// How long a broken program keeps a test from failing; not a bound for one that works.
let patience: Int32 = 20_000

struct Gone: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A message as it stands on the wire.
struct Message: Equatable, CustomStringConvertible {
    var type: UInt32
    var body: [UInt8]

    init(_ type: MessageType, _ body: [UInt8] = []) {
        self.type = type.rawValue
        self.body = body
    }

    init(type: UInt32, body: [UInt8]) {
        self.type = type
        self.body = body
    }

    var description: String {
        let kind = MessageType(rawValue: type).map { "\($0)" } ?? "0x" + String(type, radix: 16)
        let text = String(decoding: body.prefix(200), as: UTF8.self)
        return "\(kind)[\(body.count)]'\(text)'"
    }
}

/// One end of a plain unix socket: what stands in for dom0, another qube, a local program or a
/// service. Waits, but not for ever.
final class Peer {
    private var descriptor: Descriptor?

    init(_ descriptor: consuming Descriptor) { self.descriptor = consume descriptor }

    /// Connects as soon as somebody listens.
    static func connected(to path: String) throws -> Peer {
        let deadline = CurrentProcess.now + UInt64(patience) * 1_000_000
        while true {
            if let peer = attempt(path) { return peer }
            if CurrentProcess.now > deadline { throw Gone("nobody listens at \(path)") }
            usleep(1000)
        }
    }

    private static func attempt(_ path: String) -> Peer? {
        do { return Peer(try UnixSocket.connect(path)) } catch { return nil }
    }

    func send(_ type: MessageType, _ body: [UInt8] = []) throws {
        try send(raw: encoded(type, body))
    }

    func send(raw bytes: [UInt8]) throws {
        var rest = bytes
        while !rest.isEmpty {
            let number = try openNumber()
            try wait(number, .writable, "the peer does not read")
            rest.removeFirst(try UnixSocket.send(number, rest.span))
        }
    }

    /// Up to a number of bytes; none at the end.
    func receive(atMost count: Int) throws -> [UInt8] {
        let number = try openNumber()
        try wait(number, .readable, "the peer says nothing")
        do {
            return try Self.receive(number, count)
        } catch Errno.connectionReset {
            return []
        }
    }

    private static func receive(_ number: Int32, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let got = try UnixSocket.receive(number, into: &bytes)
        bytes.removeLast(count - got)
        return bytes
    }

    private func openNumber() throws -> Int32 {
        guard let number = descriptor?.number else { throw Gone("closed here") }
        return number
    }

    private func wait(_ number: Int32, _ readiness: Readiness, _ failure: String) throws {
        if try poll(number, readiness, milliseconds: patience).isEmpty { throw Gone(failure) }
    }

    /// Exactly so many bytes, or fewer at the end.
    func receive(_ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let more = try receive(atMost: count - bytes.count)
            if more.isEmpty { break }
            bytes += more
        }
        return bytes
    }

    func receiveToEnd() throws -> [UInt8] {
        var bytes: [UInt8] = []
        while true {
            let more = try receive(atMost: 65536)
            if more.isEmpty { return bytes }
            bytes += more
        }
    }

    /// The next message; nil at the end.
    func message() throws -> Message? {
        let header = try receive(MessageHeader.size)
        if header.isEmpty { return nil }
        let parsed = try #require(MessageHeader(header), "a cut header")
        let body = try receive(Int(parsed.length))
        try #require(body.count == Int(parsed.length), "a cut body")
        return Message(type: parsed.type, body: body)
    }

    /// All messages until the end, those of one stream joined into one with what they carry.
    func streams() throws -> Streams {
        var result = Streams()
        while let message = try message() { result.add(message) }
        return result
    }

    /// Whether something comes within a moment, for what should not come.
    func isSilent(milliseconds: Int32 = 100) throws -> Bool {
        guard let number = descriptor?.number else { return true }
        return try poll(number, .readable, milliseconds: milliseconds).isEmpty
    }

    func endWriting() {
        if let number = descriptor?.number { UnixSocket.shutdown(number, writing: true) }
    }

    func close() { descriptor = nil }
}

/// What a service sent over its data channel.
struct Streams: Equatable, CustomStringConvertible {
    var output: [UInt8] = []
    var error: [UInt8] = []
    /// Types in the order they came, those that follow an equal one left out.
    var order: [MessageType?] = []
    var outputEnded = false
    var errorEnded = false
    var status: Int32?
    var largest = 0

    mutating func add(_ message: Message) {
        let type = MessageType(rawValue: message.type)
        largest = max(largest, message.body.count)
        if order.last != type { order.append(type) }
        switch type {
        case .dataStdout:
            outputEnded = outputEnded || message.body.isEmpty
            output += message.body
        case .dataStderr:
            errorEnded = errorEnded || message.body.isEmpty
            error += message.body
        case .dataExitCode:
            status = message.body.count == 4 ? Int32(bitPattern: word(message.body)) : -1
        default: break
        }
    }

    var text: String { String(decoding: output, as: UTF8.self) }
    var errorText: String { String(decoding: error, as: UTF8.self) }
    var isComplete: Bool { outputEnded && errorEnded && status != nil }
    var description: String {
        "status \(status.map { "\($0)" } ?? "none"), output '\(text)' \(outputEnded), "
            + "error '\(errorText)' \(errorEnded), order \(order.map { "\($0!)" })"
    }
}

/// A listening unix socket of the test's.
final class Listener {
    private var descriptor: Descriptor?
    let path: String

    init(_ path: String) throws {
        try FileStatus.remove(path)
        descriptor = try UnixSocket.listen(path, mode: 0o666)
        // The mask that gives the mode is the whole process's, and other tests run at the same time.
        try PathStatus.changeMode(path, 0o666)
        self.path = path
    }

    deinit { try? FileStatus.remove(path) }

    func accept() throws -> Peer {
        guard try !isLeftAlone(milliseconds: patience) else {
            throw Gone("nobody connects to \(path)")
        }
        return Peer(try UnixSocket.accept(descriptor!))
    }

    func isLeftAlone(milliseconds: Int32 = 200) throws -> Bool {
        try poll(descriptor?.number ?? -1, .readable, milliseconds: milliseconds).isEmpty
    }
}

/// Tries again until there is a result.
func waitFor<Result>(_ what: String, _ attempt: () throws -> Result?) throws -> Result {
    let deadline = CurrentProcess.now + UInt64(patience) * 1_000_000
    while true {
        if let result = try attempt() { return result }
        if CurrentProcess.now > deadline { throw Gone("never: \(what)") }
        usleep(2000)
    }
}

func wait(until what: String, _ holds: () throws -> Bool) throws {
    _ = try waitFor(what) { try holds() ? true : nil }
}

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }
func little(_ value: UInt32) -> [UInt8] {
    (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
}
func word(_ bytes: [UInt8], at offset: Int = 0) -> UInt32 {
    (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << (8 * UInt32($1)) }
}
func field(_ text: String, _ size: Int) -> [UInt8] {
    bytes(text) + [UInt8](repeating: 0, count: size - text.utf8.count)
}
func pattern(_ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 167 &+ $0 >> 8) }
}

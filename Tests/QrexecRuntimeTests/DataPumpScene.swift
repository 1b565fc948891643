import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing
import Vchan

@testable import QrexecRuntime

/// A pump on one end of a channel in this process; the test plays the other end by hand.
final class PumpScene {
    let loop: EventLoop
    let pump: DataPump
    let role: DataPump.Role
    private(set) var end: String?
    private(set) var sourceEnds: [MessageType] = []
    private(set) var mainSinkClosed = false
    /// The other ends of the pump's local streams.
    var input: Descriptor?
    var output: Descriptor?
    var error: Descriptor?
    var inputNumber: Int32 { input?.number ?? -1 }
    /// What arrived at the local streams.
    var received: [UInt8] = []
    var receivedError: [UInt8] = []
    private var held: Channel?
    /// The played end.
    private var channel: Channel {
        _read { yield held! }
        _modify { yield &held! }
    }
    private let directory: TemporaryDirectory

    /// - Parameters:
    ///   - version: what the played end announces; nil for nothing.
    ///   - ring: bytes each way.
    init(_ role: DataPump.Role, version: UInt32? = 4, ring: Int = 65536) throws {
        // As every program does: a reader that is gone is an error of the write.
        CurrentProcess.ignoreBrokenPipes()
        directory = try TemporaryDirectory(prefix: "/tmp/qrexec-pump-test")
        loop = try EventLoop()
        self.role = role
        let (one, two, port) = (DomainID(1)!, DomainID(2)!, Port(513)!)
        let size = RingSize(atLeast: ring)!
        let server = try Transport.local(state: directory.path, ownDomain: one).listen(
            for: two, port: port, read: size, write: size)
        let client = try Transport.local(state: directory.path, ownDomain: two).connect(
            to: one, port: port)
        var log = Log(program: "test")
        log.threshold = .error
        // The caller serves the channel (5.4).
        if role == .caller {
            pump = DataPump(loop: loop, channel: server, role: role, log: log)
            held = consume client
        } else {
            pump = DataPump(loop: loop, channel: client, role: role, log: log)
            held = consume server
        }
        pump.onEnd = { [unowned self] in self.end = Self.name($0) }
        pump.onSourceEnd = { [unowned self] in self.sourceEnds.append($0) }
        pump.onMainSinkClosed = { [unowned self] in self.mainSinkClosed = true }
        var opened = false
        pump.onOpen = { opened = true }
        try pump.start()
        try run(loop) {
            try? self.channel.progress()
            return opened && self.channel.state == .open
        }
        if let version { try send(.hello, little(version)) }
    }

    /// The case of an end, and of the protocol error in it, whose own text is for people.
    private static func name(_ end: DataPump.End) -> String {
        guard case .protocolError(let error) = end else { return "\(end)" }
        return "protocolError(\(Mirror(reflecting: error).children.first?.label ?? "\(error)"))"
    }

    func little(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    // MARK: Local streams

    /// Attaches sockets (as for services) or pipes to the pump.
    func attachMainSink(filter: Bool = false, pipe: Bool = false) throws {
        let pair = pipe ? try Descriptor.pipe() : try UnixSocket.pair()
        let first = pair.first
        let second = pair.second
        try first.setNonblocking(true)
        try second.setNonblocking(true)
        try pump.attachMainSink(second, isSocket: !pipe, filter: filter)
        output = consume first
    }

    func attachErrorSink() throws {
        let pair = try UnixSocket.pair()
        let first = pair.first
        let second = pair.second
        try pump.attachErrorSink(second, isSocket: true)
        error = consume first
    }

    func attachSource(_ type: MessageType) throws {
        let pair = try UnixSocket.pair()
        let first = pair.first
        let second = pair.second
        try pump.attachSource(type, second, isSocket: true)
        input = consume first
    }

    /// Takes what arrived at the local streams.
    func collect() {
        var chunk = [UInt8](repeating: 0, count: 65536)
        while let number = output?.number {
            let pipe = (try? Descriptor.kind(of: number)) == .pipe
            guard
                let count = pipe
                    ? try? output!.read(into: &chunk)
                    : try? UnixSocket.receive(number, into: &chunk), count > 0
            else { break }
            received += chunk[..<count]
        }
        while let number = error?.number,
            let count = try? UnixSocket.receive(number, into: &chunk), count > 0
        {
            receivedError += chunk[..<count]
        }
    }

    // MARK: The played end

    func send(_ type: MessageType, _ body: [UInt8]) throws {
        try send(raw: encoded(type, body))
    }

    /// Sends bytes as they are, while the pump runs.
    func send(raw bytes: [UInt8]) throws {
        var done = 0
        try run(loop) {
            try? self.channel.progress()
            if let count = try? self.channel.write(Array(bytes[done...]).span) { done += count }
            try? self.channel.flush()
            self.collect()
            return done == bytes.count
        }
    }

    /// Writes what there is room for, the pump standing still; how many bytes.
    func sendWhatFits(_ bytes: [UInt8]) throws -> Int {
        let count = try channel.write(bytes.span)
        try channel.flush()
        return count
    }

    func closePeer() { held.take()?.close() }

    /// Drops the end as a process that dies does.
    func killPeer() { _ = held.take() }

    struct Message: Equatable {
        let type: MessageType?
        let body: [UInt8]
    }

    private var stream: [UInt8] = []

    /// The next message of the pump's.
    func next() throws -> Message {
        func whole() -> Message? {
            guard let header = MessageHeader(stream) else { return nil }
            let size = MessageHeader.size + Int(header.length)
            guard stream.count >= size else { return nil }
            return Message(
                type: MessageType(rawValue: header.type),
                body: Array(stream[MessageHeader.size..<size]))
        }
        try run(loop) {
            if whole() != nil { return true }
            try? self.channel.progress()
            _ = try? self.channel.receive(into: &self.stream, count: 1 << 20)
            try? self.channel.flush()
            return whole() != nil
        }
        let message = try #require(whole())
        stream.removeFirst(MessageHeader.size + message.body.count)
        return message
    }

    /// The pump's HELLO, which comes first.
    func skipHello() throws {
        #expect(try next() == Message(type: .hello, body: [4, 0, 0, 0]))
    }

    /// Whether the pump closed in order, seen from the other end.
    func peerSeesClose() throws -> Bool {
        try run(loop) {
            try? self.channel.progress()
            return self.channel.state == .closed
        }
        return !channel.peerDied
    }

    func runUntilEnd() throws {
        try run(loop) {
            self.collect()
            return self.end != nil
        }
        collect()
    }

    func runUntil(_ done: @escaping () -> Bool) throws {
        try run(loop) {
            self.collect()
            return done()
        }
    }

    func runAMoment() throws { try run(loop, for: milliseconds(10)) }
}

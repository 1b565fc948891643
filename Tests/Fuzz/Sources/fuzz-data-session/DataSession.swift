import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import Vchan

/// Where the channels are offered; gone at the end of the program.
private let directory: String = {
    let path = "/dev/shm/qrexec-fuzz.\(CurrentProcess.id)"
    try! PathStatus.makeDirectory(path, mode: 0o700)
    atexit { try? PathStatus.removeTree("/dev/shm/qrexec-fuzz.\(CurrentProcess.id)") }
    return path
}()
nonisolated(unsafe) private var port: UInt32 = 1

/// A whole data channel against a peer that writes whatever it wants, in pieces: what comes out at
/// the local end is exactly the payload of the messages that were allowed, in order.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzDataSession(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    guard let choice = bytes.first else { return 0 }
    CurrentProcess.ignoreBrokenPipes()
    let isCaller = choice & 1 == 1
    // Half of all runs skip the greeting's lottery.
    let hello: [UInt8] = choice & 2 == 0 ? encoded(.hello, [choice >> 4, 0, 0, 0]) : []
    let stream = hello + bytes.dropFirst()
    let piece = choice & 4 == 0 ? 4096 : 7
    let got = try! Session(isCaller: isCaller).output(of: stream, pieces: piece)
    let expected = payload(of: stream, isCaller: isCaller)
    if got != expected {
        Terminal.printError("the local end got \(got), expected \(expected)")
        preconditionFailure()
    }
    return 0
}

private final class Session {
    private let loop = try! EventLoop()
    private let pump: DataPump
    private var peer: Channel?
    private var local: Descriptor?
    private var ended = false
    private var gate: DescriptorPair?

    init(isCaller: Bool) throws {
        let (one, two) = (DomainID(1)!, DomainID(2)!)
        port = port % 60000 + 1
        let size = RingSize(atLeast: 4096)!
        let server = try Transport.local(state: directory, ownDomain: one)
            .listen(for: two, port: Port(port)!, read: size, write: size)
        let client = try Transport.local(state: directory, ownDomain: two)
            .connect(to: one, port: Port(port)!)
        var log = Log(program: "fuzz")
        log.threshold = .error
        if isCaller {
            pump = DataPump(loop: loop, channel: server, role: .caller, log: log)
            peer = consume client
        } else {
            pump = DataPump(loop: loop, channel: client, role: .service, log: log)
            peer = consume server
        }
        pump.onEnd = { [unowned self] _ in self.ended = true }
        let pipe = try Descriptor.pipe()
        try pipe.second.writeAll([0])
        try loop.watch(pipe.first.number, .readable) { [unowned self] _ in self.loop.stop() }
        gate = consume pipe
        try pump.start()
        let pair = try UnixSocket.pair()
        try pump.attachMainSink(pair.second, isSocket: true)
        local = consume pair.first
        let errors = try Descriptor.open("/dev/null", O_WRONLY)
        if isCaller { try pump.attachErrorSink(errors, isSocket: false) }
    }

    /// One round of the loop: a descriptor that is always readable ends it.
    private func turn() { try? loop.run() }

    private func step() {
        try? peer?.progress()
        turn()
        try? peer?.progress()
    }

    func output(of stream: [UInt8], pieces: Int) -> [UInt8] {
        for _ in 0..<20 where peer?.state == .waiting { step() }
        var got: [UInt8] = []
        var rest = stream[...]
        var idle = 0
        while !ended, !rest.isEmpty, idle < 8 {
            let part = Array(rest.prefix(pieces))
            let written = (try? peer?.write(part.span)) ?? 0
            try? peer?.flush()
            rest = rest.dropFirst(written)
            step()
            let before = got.count
            collect(&got)
            idle = written == 0 && got.count == before ? idle + 1 : 0
        }
        for _ in 0..<4 {
            step()
            collect(&got)
        }
        peer.take()?.close()
        for _ in 0..<8 where !ended {
            turn()
            collect(&got)
        }
        collect(&got)
        pump.close()
        return got
    }

    private func collect(_ got: inout [UInt8]) {
        guard let number = local?.number else { return }
        var chunk = [UInt8](repeating: 0, count: 8192)
        while let count = try? UnixSocket.receive(number, into: &chunk), count > 0 {
            got += chunk[..<count]
        }
        // The peer's own messages are of no interest, but must not fill its ring.
        _ = try? peer?.discard(1 << 16)
        try? peer?.flush()
    }
}

/// The same, read off the stream by a few lines that have no state machine.
private func payload(of stream: [UInt8], isCaller: Bool) -> [UInt8] {
    var rest = stream[...]
    var result: [UInt8] = []
    var limit: Int?
    var closed = false
    var sawStatus = false
    while let header = MessageHeader(Array(rest.prefix(8))) {
        rest = rest.dropFirst(8)
        let length = Int(header.length)
        guard let type = MessageType(rawValue: header.type) else { break }
        guard let chunk = limit else {
            guard type == .hello, length == 4, rest.count >= 4 else { break }
            let version = rest.prefix(4).reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            guard let agreed = try? ProtocolVersion.negotiated(theirs: version) else { break }
            limit = agreed.maximumDataChunk
            rest = rest.dropFirst(4)
            continue
        }
        guard length <= chunk else { break }
        switch type {
        case .dataStdin, .dataStdout:
            if length == 0 {
                closed = true
            } else if !closed {
                result += rest.prefix(length)
            }
        case .dataStderr: break
        case .dataExitCode:
            if isCaller, length <= rest.count { sawStatus = true }
        default: return result
        }
        guard rest.count >= length else { break }
        rest = rest.dropFirst(length)
        if isCaller, sawStatus, closed { break }
    }
    return result
}

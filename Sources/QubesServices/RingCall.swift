import Glibc
import LinuxSystem
import QrexecClient
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// A call that this process makes by itself: what it sends goes from its buffer straight into the
/// ring, without another process and a socket in between (specification 5.4, the caller's side).
final class RingCall: StreamCarrier {
    /// What the next bytes from the service's side are.
    private enum Incoming {
        case header
        case payload(MessageType, rest: Int)
        /// HELLO or EXIT_CODE: four bytes.
        case word(MessageType)
        case skip(rest: Int)
    }

    private var channel: Channel
    private let agent: SharedDescriptor
    /// Whether the end of the agent is the end of this call.
    private var needsAgent = true
    private var version: ProtocolVersion?
    private var incoming = Incoming.header
    private var scratch: [UInt8] = []
    /// Takes the output of the service piece by piece, instead of the answer.
    var sink: ((_ bytes: [UInt8]) throws(Errno) -> Void)?
    /// Why the sink took no more; the rest of the output is dropped.
    private(set) var sinkFailure: Errno?
    /// Output of the service that was not read yet; more than an answer can have is dropped.
    private var answer: [UInt8] = []
    private var answered = 0
    private var outputEnded = false
    /// The service's exit status, when it came.
    private var exitCode: Int32?

    /// Bytes of ring out: enough that neither side waits at each turn; and in, for the answer.
    private static let ringOut = RingSize(atLeast: 256 * 1024)!
    private static let smallRingOut = RingSize(atLeast: Limits.dataRing)!
    private static let ringIn = RingSize(atLeast: 4096)!
    private static let answerLimit = TransferResult.lengthBeforeName + TransferResult.maximumName

    /// Asks for the call and waits until the service's side is there.
    ///
    /// - Returns: nil when the call was refused.
    static func begin(_ request: CallRequest) throws(CarrierFailure) -> RingCall? {
        let agent: SharedDescriptor
        let place: ConnectParameters?
        do throws(CallRequest.Failure) {
            agent = SharedDescriptor(try request.connect())
            place = try request.ask(agent.descriptor)
        } catch {
            throw .failed(error.reason)
        }
        guard let place else { return nil }
        guard let domain = DomainID(place.domain), let port = Port(place.port) else {
            throw .failed("the agent named an impossible place")
        }
        do throws(VchanError) {
            let call = RingCall(try listen(for: domain, port), agent)
            try call.greet()
            return call
        } catch {
            throw .failed("\(error)")
        }
    }

    /// A large ring where there is memory to share for it.
    private static func listen(for peer: DomainID, _ port: Port) throws(VchanError) -> Channel {
        let transport = try Transport.selected()
        do throws(VchanError) {
            return try transport.listen(for: peer, port: port, read: ringIn, write: ringOut)
        } catch {
            guard case .system = error else { throw error }
            return try transport.listen(for: peer, port: port, read: ringIn, write: smallRingOut)
        }
    }

    /// Waits until the service's side is there, and says HELLO.
    func greet() throws(VchanError) {
        try channel.waitUntilOpen(
            deadline: CurrentProcess.now + TimeLimits.qubeConnect * 1_000_000_000)
        let hello = Hello(version: .ours).body
        _ = try channel.send(type: MessageType.hello.rawValue, hello.span)
    }

    /// - Parameter agent: the connection that the call was asked for on; it lives as long as the call.
    init(_ channel: consuming Channel, _ agent: SharedDescriptor) {
        self.channel = channel
        self.agent = agent
    }

    // MARK: Carrying

    func write(_ bytes: Span<UInt8>) throws(CarrierFailure) {
        try ring { () throws(VchanError) in
            try waitFor { self.version != nil }
            guard let version else { throw .closed(peerDied: false) }
            // Half a ring at most: one half is read while the other one is written.
            let chunk = min(
                version.maximumDataChunk, channel.writeCapacity / 2 - FrameHeader.size)
            var start = 0
            while start < bytes.count {
                let end = min(start + chunk, bytes.count)
                try send(bytes.extracting(start..<end))
                start = end
            }
            try channel.flush()
        }
    }

    /// Sends one data message, when there is room for it.
    private func send(_ payload: Span<UInt8>) throws(VchanError) {
        let size = FrameHeader.size + payload.count
        while true {
            if exitCode != nil { throw .closed(peerDied: false) }
            if try channel.send(type: MessageType.dataStdin.rawValue, payload) { return }
            try receive()
            if try channel.bytesFree() < size { try sleep(forSpace: size) }
        }
    }

    func hasAnswer() throws(CarrierFailure) -> Bool {
        try ring { () throws(VchanError) in
            try channel.progress()
            try receive()
        }
        return answered < answer.count || isOver
    }

    func readAnswer(
        into buffer: inout [UInt8], at offset: Int, count: Int
    ) throws(CarrierFailure) -> Int {
        try ring { () throws(VchanError) in
            try waitFor { self.answered < self.answer.count || self.outputEnded }
        }
        let got = min(count, answer.count - answered)
        for i in 0..<got { buffer[offset + i] = answer[answered + i] }
        answered += got
        return got
    }

    /// Ends the stream and waits for the service's end.
    ///
    /// - Parameter deadline: `CurrentProcess.now` at which to wait no longer; nil waits for ever.
    /// - Returns: the service's exit status; 255 when the connection ended before it came.
    func finish(deadline: UInt64?) -> Int32 {
        do throws(CarrierFailure) {
            try ring { () throws(VchanError) in
                if channel.state == .open && version != nil && exitCode == nil {
                    try send([UInt8]().span)
                    try channel.flush()
                }
                try waitFor(deadline: deadline) {
                    self.exitCode != nil || self.sinkFailure != nil
                }
            }
        } catch {
            if case .failed(let reason) = error { complain("connection", reason) }
        }
        return exitCode ?? CallStatus.closedEarly
    }

    private var isOver: Bool { exitCode != nil || outputEnded }

    private func ring(_ body: () throws(VchanError) -> Void) throws(CarrierFailure) {
        do throws(VchanError) { try body() } catch {
            if case .closed = error { throw .ended }
            throw .failed("\(error)")
        }
    }

    // MARK: Waiting

    /// Waits until something holds, or the channel is closed and has nothing more to say.
    private func waitFor(
        deadline: UInt64? = nil, _ condition: () -> Bool
    ) throws(VchanError) {
        while true {
            try channel.progress()
            try receive()
            if condition() || channel.state == .closed { return }
            if let deadline, CurrentProcess.now >= deadline { return }
            try sleep(forSpace: nil, deadline: deadline)
        }
    }

    /// Sleeps until there is something to read, or room, or something happened to the agent.
    private func sleep(forSpace space: Int?, deadline: UInt64? = nil) throws(VchanError) {
        // The other side is at work on what it has, and mostly gives room sooner than a sleep takes.
        if let space, try channel.lingerForSpace(atLeast: space) { return }
        var isAwake = try channel.armForData(atLeast: bytesToRead)
        if let space, try channel.armForSpace(atLeast: space) { isAwake = true }
        if !isAwake {
            // The peer's death is noticed by the descriptor; the limit is for the deadline only.
            let limit: Int32 = deadline == nil ? -1 : 100
            let which = try wait(milliseconds: limit)
            if which.second { try lookAtAgent() }
        }
        try channel.progress()
    }

    private func wait(milliseconds: Int32) throws(VchanError) -> (first: Bool, second: Bool) {
        do throws(Errno) {
            return try Descriptor.waitForEither(
                channel.pollDescriptor, needsAgent ? agent.descriptor.number : -1,
                milliseconds: milliseconds)
        } catch {
            throw .system(call: "poll", error)
        }
    }

    /// A byte from the agent means that the call goes on without it; its end ends the call.
    private func lookAtAgent() throws(VchanError) {
        var byte: [UInt8] = [0]
        let said = try? UnixSocket.receive(agent.descriptor.number, into: &byte)
        needsAgent = false
        if said != 1 || byte == CallRequest.endOfCall {
            throw .transportUnavailable("agent", reason: "it is gone; the call ends")
        }
    }

    private var bytesToRead: Int {
        switch incoming {
        case .header: FrameHeader.size
        case .word: 4
        case .payload, .skip: 1
        }
    }

    // MARK: Incoming

    /// Takes what the service's side has sent.
    private func receive() throws(VchanError) {
        while try receiveStep() {}
        if channel.state == .closed { outputEnded = true }
    }

    private func receiveStep() throws(VchanError) -> Bool {
        switch incoming {
        case .header:
            guard let header = try channel.receiveHeader() else { return false }
            try accept(header)
            return true
        case .payload(let type, let rest):
            scratch.removeAll(keepingCapacity: true)
            let count = try channel.receive(into: &scratch, count: min(rest, 4096))
            take(type, count)
            incoming = count == rest ? .header : .payload(type, rest: rest - count)
            return count > 0
        case .word(let type):
            guard try channel.bytesReady() >= 4 else { return false }
            scratch.removeAll(keepingCapacity: true)
            _ = try channel.receive(into: &scratch, count: 4)
            incoming = .header
            try takeWord(type)
            return true
        case .skip(let rest):
            let count = try channel.discard(rest)
            incoming = count == rest ? .header : .skip(rest: rest - count)
            return count > 0
        }
    }

    /// Decides what a message is; its length is checked before anything is waited for.
    private func accept(_ header: FrameHeader) throws(VchanError) {
        guard let type = MessageType(rawValue: header.type) else {
            throw .badOffer("message of unknown type \(header.type)")
        }
        let length = Int(header.length)
        guard let version else {
            guard type == .hello, length == Hello.size else {
                throw .badOffer("\(type) of \(length) bytes instead of HELLO")
            }
            incoming = .word(.hello)
            return
        }
        if length > version.maximumDataChunk { throw .badOffer("\(type) of \(length) bytes") }
        switch type {
        case .dataStdout, .dataStdin:
            if length == 0 { outputEnded = true }
            incoming = length == 0 ? .header : .payload(.dataStdout, rest: length)
        case .dataStderr: incoming = length == 0 ? .header : .payload(.dataStderr, rest: length)
        case .dataExitCode where length == 4: incoming = .word(.dataExitCode)
        case .dataExitCode:
            exitCode = CallStatus.closedEarly
            incoming = length == 0 ? .header : .skip(rest: length)
        default: throw .badOffer("\(type) on a data channel")
        }
    }

    private func takeWord(_ type: MessageType) throws(VchanError) {
        let value = scratch.span.littleEndian32(at: 0)
        if type == .dataExitCode {
            exitCode = value > 255 ? CallStatus.closedEarly : Int32(value)
            outputEnded = true
            return
        }
        do throws(ProtocolError) {
            version = try ProtocolVersion.negotiated(theirs: value)
        } catch {
            throw .badOffer("\(error)")
        }
    }

    /// Output is the answer; standard error is shown, without what a terminal cannot be trusted
    /// with.
    private func take(_ type: MessageType, _ count: Int) {
        if type == .dataStdout, let sink {
            if sinkFailure != nil || count == 0 { return }
            do throws(Errno) { try sink(scratch) } catch { sinkFailure = error }
        } else if type == .dataStdout {
            answer += scratch.prefix(Self.answerLimit - answer.count)
        } else if count > 0 {
            let bytes = isatty(2) == 1 ? scratch.map(Self.harmless) : scratch
            try? Descriptor.writeAll(bytes, to: 2)
        }
    }

    private static func harmless(_ byte: UInt8) -> UInt8 {
        (0x20...0x7E).contains(byte) || byte == 0x0A || byte == 0x09 ? byte : UInt8(ascii: "_")
    }
}

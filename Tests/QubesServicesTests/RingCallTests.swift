import Foundation
import LinuxSystem
import QrexecProtocol
import Testing
import Vchan

@testable import QubesServices

/// The caller's end of a call, and a thread that plays the service's end as it likes.
private final class Call {
    private(set) var call: RingCall!
    private let directory: TemporaryDirectory
    private let agentEnd: Int32
    private let service: Background<Void>

    /// - Parameter service: gets the service's end of the channel, which then is open.
    init(_ service: @escaping @Sendable (inout ServiceEnd) throws -> Void) throws {
        directory = try TemporaryDirectory(below: "/tmp")
        let state = directory.path
        let (own, peer, port) = (DomainID(1)!, DomainID(2)!, Port(513)!)
        let channel = try Transport.local(state: state, ownDomain: own).listen(
            for: peer, port: port, read: RingSize(atLeast: 4096)!,
            write: RingSize(atLeast: 65536)!)
        let agent = try UnixSocket.pair()
        agentEnd = try agent.second.duplicate().release()
        call = RingCall(channel, SharedDescriptor(try agent.first.duplicate()))
        self.service = Background {
            do {
                let channel = try Transport.local(state: state, ownDomain: peer).connect(
                    to: own, port: port)
                var end = ServiceEnd(channel: channel)
                try end.channel.waitUntilOpen(deadline: CurrentProcess.now + 30_000_000_000)
                try service(&end)
                try? end.channel.flush()
                end.close()
            } catch {
                // What the caller sees is what counts.
            }
        }
        try call.greet()
    }

    /// The agent goes away.
    func loseAgent() { Glibc.shutdown(agentEnd, Int32(SHUT_RDWR)) }

    /// Sends a tree.
    func send(_ path: String) -> SendFailure? {
        var sender = TreeSender(
            call, options: TreeSender.Options(),
            progress: CopyProgress(style: .none, total: nil))
        do throws(SendFailure) {
            try sender.send([path])
            return nil
        } catch {
            return error
        }
    }

    deinit {
        // The service's end may wait for the caller's to go away.
        call = nil
        close(agentEnd)
        service.wait()
    }
}

private struct ServiceEnd: ~Copyable {
    var channel: Channel

    init(channel: consuming Channel) { self.channel = channel }

    mutating func write(_ bytes: [UInt8]) throws {
        var start = 0
        while start < bytes.count {
            let done = try channel.write(bytes.span.extracting(start...))
            start += done
            if done == 0 { _ = try channel.waitForSpace(deadline: soon) }
        }
        try channel.flush()
    }

    private var soon: UInt64 { CurrentProcess.now + 30_000_000_000 }

    mutating func message(_ type: MessageType, _ body: [UInt8]) throws {
        try write(encoded(type, body))
    }

    mutating func hello(_ version: UInt32 = 4) throws {
        try message(.hello, [UInt8(version), 0, 0, 0])
    }

    mutating func exit(_ code: UInt8) throws { try message(.dataExitCode, [code, 0, 0, 0]) }

    private mutating func take(_ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            if try channel.receive(into: &bytes, count: count - bytes.count) == 0 {
                if try channel.waitForData(deadline: soon) == 0 { throw VchanError.timedOut }
            }
        }
        return bytes
    }

    /// The next message: type and body.
    mutating func next() throws -> (type: UInt32, body: [UInt8]) {
        let header = try take(8)
        let length = Int(header.span.littleEndian32(at: 4))
        return (header.span.littleEndian32(at: 0), try take(length))
    }

    /// Everything of the stream up to its end marker, and the largest message.
    mutating func stream() throws -> (bytes: [UInt8], largest: Int) {
        var decoder = StreamDecoder()
        var bytes: [UInt8] = []
        var largest = 0
        while true {
            let (type, body) = try next()
            if type == MessageType.hello.rawValue { continue }
            largest = max(largest, body.count)
            bytes += body
            var position = 0
            loop: while true {
                switch try decoder.next(body.span, position: &position) {
                case .needMore: break loop
                case .end: return (bytes, largest)
                default: continue
                }
            }
        }
    }

    mutating func answer(_ code: UInt32, to stream: [UInt8]) throws {
        var sum = CRC32()
        sum.update(stream.span)
        let result = TransferResult(code: code, checksum: sum.value, lastName: nil)
        try message(.dataStdout, result.encoded)
    }

    consuming func close() { channel.close() }
}

@Suite struct RingCallTests {
    private func source(bytes: Int = 700_000) throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory()
        try directory.write("d/f", [UInt8](repeating: 7, count: bytes))
        try directory.write("d/g", "small")
        return directory
    }

    @Test(arguments: [(UInt32(2), 4096), (3, 65536), (4, 65536), (9, 65536)])
    func sendsWithEveryVersion(version: UInt32, largest: Int) throws {
        let source = try source()
        let call = try Call { end in
            try end.hello(version)
            let (bytes, most) = try end.stream()
            try end.answer(most <= largest ? 0 : 99, to: bytes)
            #expect(try end.next().body == [])
            try end.exit(0)
        }
        #expect(call.send(source.path + "/d") == nil)
        #expect(call.call.finish(deadline: nil) == 0)
    }

    @Test func tellsTheReceiversErrorAndTheServicesStatus() throws {
        let source = try source(bytes: 5_000_000)
        let call = try Call { end in
            try end.hello()
            _ = try end.next()
            try end.answer(28, to: [])
            try end.exit(28)
        }
        guard case .refused(let result) = call.send(source.path + "/d") else {
            Issue.record("not refused")
            return
        }
        #expect(result.code == 28)
        #expect(call.call.finish(deadline: nil) == 28)
    }

    @Test(arguments: [UInt8(0), 1, 127])
    func takesNoAnswerForAFailureWhateverTheStatus(status: UInt8) throws {
        let source = try source()
        let call = try Call { end in
            try end.hello()
            _ = try? end.stream()
            try end.exit(status)
        }
        #expect(call.send(source.path + "/d") == .noAnswer)
        #expect(call.call.finish(deadline: nil) == Int32(status))
    }

    @Test func takesAnEarlyEndForAFailure() throws {
        let source = try source(bytes: 5_000_000)
        let call = try Call { end in
            try end.hello()
            _ = try end.next()
        }
        #expect(call.send(source.path + "/d") != nil)
        #expect(call.call.finish(deadline: nil) == 255)
    }

    @Test func takesAGoodAnswerWithoutAStatusForAFailure() throws {
        let source = try source()
        let call = try Call { end in
            try end.hello()
            try end.answer(0, to: try end.stream().bytes)
        }
        #expect(call.send(source.path + "/d") == nil)
        #expect(call.call.finish(deadline: nil) == 255)
    }

    @Test func readsTheServicesErrorsWhileItSends() throws {
        let source = try source(bytes: 3_000_000)
        let call = try Call { end in
            try end.hello()
            // More than the ring in holds, before anything is read: both would wait for ever.
            for _ in 0..<5 { try end.message(.dataStderr, [UInt8](repeating: 10, count: 3000)) }
            try end.answer(0, to: try end.stream().bytes)
            try end.exit(0)
        }
        #expect(call.send(source.path + "/d") == nil)
        #expect(call.call.finish(deadline: nil) == 0)
    }

    @Test func keepsNoMoreOfAnEndlessAnswerThanAnAnswerHas() throws {
        let source = try source()
        let call = try Call { end in
            try end.hello()
            _ = try end.stream()
            let name = [UInt8](repeating: 97, count: 60_000)
            try end.message(
                .dataStdout, TransferResult(code: 5, checksum: 0, lastName: name).encoded)
            for _ in 0..<20 { try end.message(.dataStdout, name) }
            try end.exit(5)
        }
        guard case .refused(let result) = call.send(source.path + "/d") else {
            Issue.record("not refused")
            return
        }
        #expect(result.lastName?.count == 16384)
        #expect(call.call.finish(deadline: nil) == 5)
    }

    @Test(arguments: [
        // Not HELLO; HELLO of a wrong length; a version that never was; a type that does not
        // exist; one that does not belong here; a message that is too long.
        encoded(.dataStdout, [1]), encoded(.hello, [4, 0, 0, 0, 0]), encoded(.hello, [1, 0, 0, 0]),
        encoded(.hello, [4, 0, 0, 0]) + [1, 0, 0, 0, 0, 0, 0, 0],
        encoded(.hello, [4, 0, 0, 0]) + encoded(.triggerService, []),
        encoded(.hello, [4, 0, 0, 0]) + [0x91, 1, 0, 0, 1, 0, 1, 0],
    ])
    func endsWithAServiceThatBreaksTheProtocol(bytes: [UInt8]) throws {
        let source = try source(bytes: 5_000_000)
        let call = try Call { end in
            try end.write(bytes)
            while (try? end.next()) != nil {}
        }
        guard case .connection(let reason) = call.send(source.path + "/d") else {
            Issue.record("not noticed")
            return
        }
        #expect(!reason.isEmpty)
        #expect(call.call.finish(deadline: CurrentProcess.now) == 255)
    }

    @Test func endsWhenTheAgentIsGone() throws {
        let source = try source(bytes: 5_000_000)
        let call = try Call { end in
            try end.hello()
            _ = try end.next()
            while try end.channel.waitForData(atLeast: 60_000, deadline: nil) > 0,
                end.channel.state == .open
            {
                // Nobody takes the data: only a look at the peer tells that it has gone.
                usleep(1000)
                try end.channel.progress()
            }
        }
        call.loseAgent()
        guard case .connection(let reason) = call.send(source.path + "/d") else {
            Issue.record("not noticed")
            return
        }
        #expect(reason.contains("agent"))
    }
}

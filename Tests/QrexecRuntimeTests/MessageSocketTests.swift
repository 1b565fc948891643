import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

@testable import QrexecRuntime

@Suite struct MessageSockets {
    /// A socket in a loop with a plain end for the test; takes any type, bodies of up to 5000.
    private final class Scene {
        let loop: EventLoop
        var plain: Descriptor?
        let socket: MessageSocket
        var plainNumber: Int32 { plain?.number ?? -1 }
        var messages: [[UInt8]] = []
        var end: String?

        init() throws {
            loop = try EventLoop()
            let pair = try UnixSocket.pair()
            let number = pair.second
            let first = pair.first
            plain = consume first
            socket = try MessageSocket(loop: loop, taking: number) {
                (type, length) throws(ProtocolError) in
                if length > 5000 { throw .tooLong(length: length, limit: 5000) }
            }
            socket.onMessage = { [unowned self] in self.messages.append($1) }
            socket.onEnd = { [unowned self] in self.end = "\($0)" }
        }

        func write(_ bytes: [UInt8]) throws { try plain!.writeAll(bytes) }
    }

    @Test func messagesArriveInOrderHoweverTheyAreCut() throws {
        let scene = try Scene()
        let bodies = [[], [1], pattern(count: 5000), [2]]
        let stream = bodies.flatMap { encoded(.justExec, $0) }
        try scene.write(Array(stream.prefix(11)))
        try run(scene.loop) { scene.messages.count == 1 }
        try scene.write(Array(stream.dropFirst(11)))
        try run(scene.loop) { scene.messages.count == 4 }
        #expect(scene.messages == bodies)
        #expect(scene.end == nil)
    }

    @Test func sentMessagesAreFramed() throws {
        let scene = try Scene()
        scene.socket.send(.hello, [4, 0, 0, 0])
        scene.socket.send(raw: [9])
        scene.socket.closeWhenSent()
        #expect(scene.socket.isClosed)
        scene.socket.send(.hello, [])
        let got = try scene.plain!.readAll(limit: 100)
        #expect(got == encoded(.hello, [4, 0, 0, 0]) + [9])
    }

    @Test func aPeerThatDoesNotReadIsDroppedAtTheLimit() throws {
        let scene = try Scene()
        let body = [UInt8](repeating: 0, count: 60000)
        var sent = 0
        while !scene.socket.isClosed, sent < 10000 {
            scene.socket.send(.justExec, body)
            sent += 1
        }
        #expect(scene.socket.isClosed)
        #expect(scene.end != nil)
        #expect(sent < 100)
    }

    @Test func whatWaitsForASlowPeerGoesOutBeforeTheClose() throws {
        let scene = try Scene()
        let body = pattern(count: 200_000)
        scene.socket.send(raw: body)
        scene.socket.send(raw: body.reversed())
        #expect(!scene.socket.isClosed)
        scene.socket.closeWhenSent()
        var got: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 10000)
        try run(scene.loop) {
            while let count = try? UnixSocket.receive(scene.plainNumber, into: &chunk),
                count > 0
            {
                got += chunk[..<count]
            }
            return scene.socket.isClosed
        }
        while let count = try? UnixSocket.receive(scene.plainNumber, into: &chunk), count > 0 {
            got += chunk[..<count]
        }
        #expect(got == body + body.reversed())
    }

    @Test(arguments: [
        encoded(.justExec, [UInt8](repeating: 0, count: 5001)),
        [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0],
    ])
    func aBrokenRuleEndsTheSocketAfterWhatWasValid(stream: [UInt8]) throws {
        let scene = try Scene()
        try scene.write(encoded(.hello, [7]) + stream)
        try run(scene.loop) { scene.socket.isClosed }
        #expect(scene.messages == [[7]])
        #expect(scene.end?.hasPrefix("protocolError") == true)
    }

    @Test func aPeerThatLeavesInsideAMessageIsAnEnd() throws {
        let scene = try Scene()
        try scene.write([0, 3, 0])
        _ = scene.plain.take()
        try run(scene.loop) { scene.socket.isClosed }
        #expect(scene.end == "closed")
        #expect(scene.messages.isEmpty)
    }

    @Test func aHandlerMayCloseTheSocketBetweenTwoMessages() throws {
        let scene = try Scene()
        var count = 0
        scene.socket.onMessage = { _, _ in
            count += 1
            scene.socket.close()
        }
        try scene.write(encoded(.hello, []) + encoded(.hello, []))
        try run(scene.loop, for: milliseconds(5))
        #expect(count == 1)
        #expect(scene.end == nil)
    }
}

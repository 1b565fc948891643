import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing
import Vchan

@testable import QrexecRuntime

/// One end of a control channel in a loop; the test plays the other end by hand.
private final class LinkScene {
    let loop: EventLoop
    let link: ControlLink
    private(set) var messages: [(MessageType, [UInt8])] = []
    private(set) var end: String?
    private(set) var opened = 0
    private var held: Channel?
    private let directory: TemporaryDirectory

    /// The link takes any type, bodies of up to 60,000 bytes, over a ring of 4096.
    init() throws {
        directory = try TemporaryDirectory(prefix: "/tmp/qrexec-link-test")
        loop = try EventLoop()
        let (one, two, port) = (DomainID(1)!, DomainID(2)!, Port(512)!)
        let size = RingSize(atLeast: 4096)!
        held = try Transport.local(state: directory.path, ownDomain: one).listen(
            for: two, port: port, read: size, write: size)
        link = ControlLink(
            loop: loop,
            channel: try Transport.local(state: directory.path, ownDomain: two).connect(
                to: one, port: port)
        ) { (_, length) throws(ProtocolError) in
            if length > 60_000 { throw .tooLong(length: length, limit: 60_000) }
        }
        link.onOpen = { [unowned self] in self.opened += 1 }
        link.onMessage = { [unowned self] in self.messages.append(($0, $1)) }
        link.onEnd = { [unowned self] in self.end = $0.description }
        try link.start()
    }

    /// Lets both ends go on until something holds.
    func turn(until done: @escaping () -> Bool) throws {
        try run(loop) {
            try? self.held?.progress()
            return done()
        }
    }

    func write(_ bytes: [UInt8]) throws {
        var rest = bytes[...]
        try turn {
            let part = Array(rest)
            rest = rest.dropFirst((try? self.held?.write(part.span)) ?? 0)
            try? self.held?.flush()
            return rest.isEmpty || self.end != nil
        }
    }

    func read(_ count: Int) throws -> [UInt8] {
        var got: [UInt8] = []
        try turn {
            _ = try? self.held?.receive(into: &got, count: count - got.count)
            try? self.held?.flush()
            return got.count == count
        }
        return got
    }

    func close() { held.take()?.close() }
    func die() { _ = held.take() }
}

@Suite struct ControlLinks {
    @Test func messagesOfAnyLengthArriveInOrder() throws {
        let scene = try LinkScene()
        let bodies = [[], pattern(count: 60_000), [1, 2, 3]]
        try scene.write(bodies.flatMap { encoded(.triggerService3, $0) })
        try scene.turn { scene.messages.count == 3 }
        #expect(scene.messages.map(\.1) == bodies)
        #expect(scene.opened == 1 && scene.end == nil)
    }

    @Test func whatIsSentBeforeThePeerIsThereArrivesToo() throws {
        let scene = try LinkScene()
        let body = pattern(count: 20_000)
        scene.link.send(.hello, [4, 0, 0, 0])
        scene.link.send(.justExec, body)
        let expected = encoded(.hello, [4, 0, 0, 0]) + encoded(.justExec, body)
        #expect(try scene.read(expected.count) == expected)
    }

    @Test func anAnswerToEachMessageOfAFloodGoesOut() throws {
        let scene = try LinkScene()
        scene.link.onMessage = { [unowned link = scene.link] in link.send($0, $1) }
        let flood = (0..<500).flatMap { encoded(.justExec, pattern(from: $0, count: 30)) }
        try scene.write(flood)
        #expect(try scene.read(flood.count) == flood)
    }

    @Test func aPeerThatDoesNotReadEndsTheLinkAtTheLimit() throws {
        let scene = try LinkScene()
        try scene.turn { scene.opened == 1 }
        var sent = 0
        while scene.end == nil, sent < 1000 {
            scene.link.send(.justExec, [UInt8](repeating: 0, count: 60_000))
            sent += 1
        }
        #expect(scene.end != nil && sent < 20)
    }

    @Test func aBadLengthEndsItAfterWhatWasValid() throws {
        let scene = try LinkScene()
        try scene.write(encoded(.hello, [7]) + [0, 3, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF] + [1, 2])
        try scene.turn { scene.end != nil }
        #expect(scene.messages.map(\.1) == [[7]])
    }

    @Test func aPeersCloseIsToldAfterItsLastMessage() throws {
        let scene = try LinkScene()
        try scene.turn { scene.opened == 1 }
        try scene.write(encoded(.hello, [1]))
        scene.close()
        try scene.turn { scene.end != nil }
        #expect(scene.messages.map(\.1) == [[1]])
        #expect(scene.end == ControlLink.End.closed.description)
    }

    @Test func aPeersDeathIsTold() throws {
        let scene = try LinkScene()
        try scene.turn { scene.opened == 1 }
        scene.die()
        try scene.turn { scene.end != nil }
        #expect(scene.end == ControlLink.End.died.description)
    }

    @Test func aHandlerMayCloseTheLinkBetweenTwoMessages() throws {
        let scene = try LinkScene()
        var count = 0
        scene.link.onMessage = { [unowned link = scene.link] _, _ in
            count += 1
            link.close()
        }
        try scene.write(encoded(.hello, []) + encoded(.hello, []))
        try run(scene.loop, for: milliseconds(20))
        #expect(count == 1 && scene.end == nil)
    }
}

import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Testing

@testable import QrexecAgent

/// Runs a loop until something holds.
private func run(_ loop: EventLoop, until done: @escaping () -> Bool) throws {
    let limit = loop.schedule(after: seconds(30)) {
        Issue.record("it never came true")
        loop.stop()
    }
    func look() {
        if done() { loop.stop() } else { loop.schedule(after: milliseconds(1), look) }
    }
    loop.schedule(after: 0, look)
    try loop.run()
    loop.cancel(limit)
}

/// The link between the agent and the process that holds its calls.
@Suite struct AgentLinks {
    private final class Scene {
        let loop: EventLoop
        private(set) var link: AgentLink!
        var plain: Descriptor?
        var messages: [[UInt8]] = []
        var ends: [String] = []

        init() throws {
            CurrentProcess.ignoreBrokenPipes()
            loop = try EventLoop()
            let pair = try UnixSocket.pair(.sequencedPacket)
            let other = pair.second
            let own = pair.first
            plain = consume own
            link = try AgentLink(loop: loop, taking: other) { [unowned self] in
                switch $0 {
                case .message(let type, let body): self.messages.append(encoded(type, body))
                case .farewell: self.ends.append("farewell")
                case .lost: self.ends.append("lost")
                }
            }
        }

        func send(_ bytes: [UInt8]) throws {
            _ = try UnixSocket.send(plain!, bytes, descriptors: [], wait: true)
        }

        func receive() throws -> [UInt8] {
            var none = DescriptorList()
            return try UnixSocket.receive(
                plain!, limit: 70_000, maximumDescriptors: 0, wait: true, descriptors: &none)
        }
    }

    @Test func messagesArriveOneAPacket() throws {
        let scene = try Scene()
        let sent = [encoded(.hello, []), encoded(.justExec, [UInt8](repeating: 7, count: 65_000))]
        for packet in sent { try scene.send(packet) }
        try run(scene.loop) { scene.messages.count == 2 }
        #expect(scene.messages == sent && scene.ends.isEmpty)
    }

    @Test func whatWaitsForASlowPeerArrivesInOrder() throws {
        let scene = try Scene()
        let body = [UInt8](repeating: 1, count: 30_000)
        for number in 0..<40 { scene.link.send(.justExec, [UInt8(number)] + body) }
        var got: [UInt8] = []
        try run(scene.loop) {
            var entry = pollfd(fd: scene.plain?.number ?? -1, events: Int16(POLLIN), revents: 0)
            while poll(&entry, 1, 0) == 1, let packet = try? scene.receive() {
                got.append(packet[MessageHeader.size])
            }
            return got.count == 40
        }
        #expect(got == (0..<40).map { UInt8($0) })
    }

    @Test func aPeerThatTakesNothingIsLostAtTheLimit() throws {
        let scene = try Scene()
        var sent = 0
        while scene.ends.isEmpty, sent < 5000 {
            scene.link.send(.justExec, [UInt8](repeating: 0, count: 4096))
            sent += 1
        }
        #expect(scene.ends == ["lost"] && sent < 5000)
    }

    static let broken: [[UInt8]] = [
        [1], [0, 0], Array(encoded(.hello, [1, 2, 3, 4]).dropLast()), encoded(.hello, []) + [0],
        [0xEE, 0xEE, 0, 0, 0, 0, 0, 0],
    ]

    @Test(arguments: broken)
    func whatIsNoMessageEndsIt(_ packet: [UInt8]) throws {
        let scene = try Scene()
        try scene.send(encoded(.hello, []))
        try scene.send(packet)
        try run(scene.loop) { !scene.ends.isEmpty }
        #expect(scene.ends == ["lost"] && scene.messages.count == 1)
    }

    @Test func anOrderlyEndIsToldApartFromALoss() throws {
        let scene = try Scene()
        try scene.send([0])
        try run(scene.loop) { !scene.ends.isEmpty }
        #expect(scene.ends == ["farewell"])
        let other = try Scene()
        _ = other.plain.take()
        try run(other.loop) { !other.ends.isEmpty }
        #expect(other.ends == ["lost"])
    }

    @Test func leavingSaysSoAfterWhatWasSent() throws {
        let scene = try Scene()
        scene.link.send(.hello, [4])
        scene.link.leave()
        #expect(try scene.receive() == encoded(.hello, [4]))
        #expect(try scene.receive() == [0])
        #expect(try scene.receive().isEmpty)
        scene.link.send(.hello, [])
        #expect(scene.ends.isEmpty)
    }
}

/// A local program that asks the agent for a service.
@Suite struct TriggerClients {
    private final class Scene {
        let loop: EventLoop
        private(set) var client: TriggerClient!
        var plain: Descriptor?
        var requests: [ServiceRequest] = []
        var ends: [String?] = []

        init() throws {
            CurrentProcess.ignoreBrokenPipes()
            loop = try EventLoop()
            let pair = try UnixSocket.pair()
            let other = pair.second
            let own = pair.first
            plain = consume own
            client = try TriggerClient(
                loop: loop, taking: other, ident: RequestIdent("SOCKET9")!)
            client.onRequest = { [unowned self] in self.requests.append($0) }
            client.onEnd = { [unowned self] in self.ends.append($0) }
        }

        func send(_ bytes: [UInt8]) throws { try plain!.writeAll(bytes) }

        func receive(_ count: Int) throws -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: count)
            let got = try plain!.read(into: &bytes)
            return Array(bytes[..<got])
        }
    }

    private static func field(_ text: String, _ size: Int) -> [UInt8] {
        Array(text.utf8) + [UInt8](repeating: 0, count: size - text.utf8.count)
    }

    private static let requests: [[UInt8]] = [
        encoded(.triggerService, field("a.B+c", 64) + field("work", 32) + field("x", 32)),
        encoded(.triggerService3, field("work", 64) + field("x", 32) + Array("a.B+c".utf8) + [0]),
        encoded(
            .triggerService4,
            field("", 64) + field("work", 64) + field("x", 32) + Array("a.B+c".utf8) + [0]),
    ]

    @Test(arguments: requests)
    func aRequestOfAnyVersionGetsTheAgentsIdent(_ message: [UInt8]) throws {
        let scene = try Scene()
        for byte in message { try scene.send([byte]) }
        try run(scene.loop) { !scene.requests.isEmpty }
        #expect(scene.requests.map(\.service) == ["a.B+c"])
        #expect(scene.requests.map(\.target) == ["work"])
        #expect(scene.requests.map(\.ident) == [RequestIdent("SOCKET9")])
        #expect(scene.client.hasAsked && scene.ends.isEmpty)
    }

    @Test func itIsToldOnceWhereItsChannelIs() throws {
        let scene = try Scene()
        let place = ConnectParameters(domain: 7, port: 513)
        scene.client.accept(place)
        scene.client.accept(ConnectParameters(domain: 8, port: 514))
        #expect(scene.client.place == place)
        #expect(try scene.receive(100) == place.body)
    }

    @Test func onlyACallThatHasBegunOutlivesTheAgent() throws {
        let scene = try Scene()
        scene.client.leave()
        #expect(try scene.receive(100).isEmpty)
        let other = try Scene()
        other.client.accept(ConnectParameters(domain: 7, port: 513))
        _ = try other.receive(8)
        other.client.leave()
        // What the client knows as the farewell.
        #expect(try other.receive(100) == [1])
        #expect(try other.receive(100).isEmpty)
        #expect(other.client.isClosed && other.ends.isEmpty)
    }

    @Test func theEndOfACallIsToldApartFromAFarewell() throws {
        let scene = try Scene()
        scene.client.accept(ConnectParameters(domain: 7, port: 513))
        _ = try scene.receive(8)
        scene.client.breakOff()
        #expect(try scene.receive(100) == [0])
        #expect(try scene.receive(100).isEmpty)
        #expect(scene.client.isClosed && scene.ends.isEmpty)
    }

    static let broken: [[UInt8]] = [
        encoded(.hello, [4, 0, 0, 0]), encoded(.triggerService, [UInt8](repeating: 0, count: 127)),
        encoded(.triggerService3, []), [0x12, 2, 0, 0, 0xFF, 0xFF, 0xFF, 0x7F],
        requests[1] + requests[1],
        encoded(.triggerService3, field("work", 64) + field("x", 32) + Array("a.B".utf8)),
    ]

    @Test(arguments: broken)
    func aBrokenRuleDropsItWithAReason(_ message: [UInt8]) throws {
        let scene = try Scene()
        try scene.send(message)
        try run(scene.loop) { !scene.ends.isEmpty }
        #expect(scene.ends.count == 1 && scene.ends[0]?.isEmpty == false)
        #expect(scene.client.isClosed && scene.requests.count <= 1)
    }

    @Test func oneThatGoesAwayIsNoMistake() throws {
        let scene = try Scene()
        _ = scene.plain.take()
        try run(scene.loop) { !scene.ends.isEmpty }
        #expect(scene.ends.count == 1 && scene.ends[0] == nil)
    }
}

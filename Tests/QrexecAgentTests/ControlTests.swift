import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

/// The agent between dom0 and local programs (5.3, 8).
@Suite struct ControlChannel {
    @Test(arguments: [2, 3, 4, 5, 0xFFFF_FFFF] as [UInt32])
    func theAgentSpeaksFirstAndListensAfterTheAnswer(_ version: UInt32) throws {
        let scene = try AgentScene()
        let dom0 = try scene.connectDom0()
        #expect(try dom0.message() == Message(.hello, little(4)))
        usleep(50_000)
        #expect(!PathStatus.exists(scene.triggerSocket))
        try dom0.send(.hello, little(version))
        try wait(until: "the socket is there") { PathStatus.exists(scene.triggerSocket) }
        #expect(try PathStatus(of: scene.triggerSocket).mode == 0o666)
    }

    @Test(arguments: [
        encoded(.hello, little(1)), encoded(.hello, little(0)), encoded(.hello, [4, 0, 0]),
        encoded(.hello, little(4) + [0]), encoded(.hello, []), encoded(.justExec, little(4)),
        little(0x300) + little(0xFFFF_FFFF), little(0) + little(4) + little(4),
    ])
    func aBadGreetingEndsTheChannelAndAnotherOneIsServed(_ greeting: [UInt8]) throws {
        let scene = try AgentScene()
        let dom0 = try scene.connectDom0()
        #expect(try dom0.message() == Message(.hello, little(4)))
        try dom0.send(raw: greeting)
        #expect(try dom0.message() == nil)
        dom0.close()
        let next = try scene.dom0()
        _ = try scene.client()
        next.close()
    }

    private func header(_ version: UInt32, _ request: Message) -> Int {
        request.type == MessageType.triggerService4.rawValue ? 128 : 64
    }

    /// What a local program of each version sends.
    private func request(_ version: UInt32, target: String, service: String) -> Message {
        let ident = field("SOCKET", 32)
        switch version {
        case 2:
            return Message(
                .triggerService, field(service, 64) + field(target, 32) + ident)
        case 3:
            return Message(.triggerService3, field(target, 64) + ident + bytes(service) + [0])
        default:
            return Message(
                .triggerService4, field("", 64) + field(target, 64) + ident + bytes(service) + [0])
        }
    }

    @Test(arguments: [2, 3, 4] as [UInt32], [2, 3, 4] as [UInt32])
    func requestsAreTranslatedFromAnyVersionToDom0s(_ from: UInt32, _ to: UInt32) throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0(version: to)
        let client = try scene.client()
        let sent = request(from, target: "@default", service: "my.Service+arg")
        try client.send(raw: little(sent.type) + little(UInt32(sent.body.count)) + sent.body)
        var got = try #require(try dom0.message())
        let wanted = request(to, target: "@default", service: "my.Service+arg")
        // The ident is the agent's own, NUL-filled.
        let start = to == 2 ? 96 : to == 3 ? 64 : 128
        let ident = Array(got.body[start..<(start + 32)])
        let text = ident.prefix { $0 != 0 }
        #expect(String(decoding: text, as: UTF8.self).hasPrefix("SOCKET"))
        #expect(ident.dropFirst(text.count).allSatisfy { $0 == 0 })
        got.body.replaceSubrange(start..<(start + 32), with: field("SOCKET", 32))
        #expect(got == wanted)
        try dom0.send(.serviceConnect, scene.place() + ident)
        #expect(try client.receive(8) == scene.place())
        client.close()
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
    }

    private func ident(of message: Message?) throws -> [UInt8] {
        Array(try #require(message).body[128..<160])
    }

    private func ask(_ client: Peer, service: String = "s", source: String = "") throws {
        try client.send(
            .triggerService4,
            field(source, 64) + field("t", 64) + field("x", 32) + bytes(service) + [0])
    }

    @Test func aRefusedClientSeesTheEnd() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let client = try scene.client()
        try ask(client)
        try dom0.send(.serviceRefused, try ident(of: dom0.message()))
        #expect(try client.receiveToEnd() == [])
        #expect(try dom0.isSilent())
    }

    @Test func identsBelongToTheirClients() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let clients = try (0..<5).map { _ in try scene.client() }
        var idents: [[UInt8]] = []
        for client in clients {
            try ask(client)
            idents.append(try ident(of: dom0.message()))
        }
        #expect(Set(idents).count == 5)
        for (index, client) in clients.enumerated().reversed() {
            try dom0.send(.serviceConnect, scene.place(600 + UInt32(index)) + idents[index])
            #expect(try client.receive(8) == scene.place(600 + UInt32(index)))
        }
    }

    @Test(arguments: ["nobody", "SOCKET", "SOCKET999", "SOCKET-1"])
    func anIdentThatWasNeverGivenIsIgnored(_ ident: String) throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let client = try scene.client()
        try dom0.send(.serviceConnect, scene.place() + field(ident, 32))
        #expect(try dom0.isSilent())
        try ask(client)
        #expect(try dom0.message()?.type == MessageType.triggerService4.rawValue)
    }

    @Test func theEndOfALocalCallIsReportedWhenDom0IsBack() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let client = try scene.client()
        try ask(client)
        try dom0.send(.serviceConnect, scene.place() + ident(of: dom0.message()))
        #expect(try client.receive(8) == scene.place())
        dom0.close()
        try wait(until: "the socket is gone") { !PathStatus.exists(scene.triggerSocket) }
        client.close()
        usleep(50_000)
        #expect(try scene.dom0().message() == Message(.connectionTerminated, scene.place()))
    }

    @Test func anAllowedClientThatIsGoneIsReported() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let client = try scene.client()
        try ask(client)
        let ident = try ident(of: dom0.message())
        client.close()
        usleep(50_000)
        try dom0.send(.serviceConnect, scene.place() + ident)
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        try dom0.send(.serviceRefused, field("nobody", 32))
        try dom0.send(.serviceRefused, [UInt8](repeating: 0xFF, count: 32))
        #expect(try dom0.isSilent())
    }

    @Test(arguments: [
        encoded(.hello, little(4)), encoded(.execCommandLine, pattern(20)),
        encoded(.triggerService4, [UInt8](repeating: 0, count: 160)),
        little(0x213) + little(65161), little(0x213) + little(160), little(0x210) + little(129),
        little(0x212) + little(96), little(0x999) + little(1), [UInt8](repeating: 0xFF, count: 8),
        encoded(.triggerService4, [UInt8](repeating: 0, count: 161)),
        encoded(
            .triggerService4, [UInt8](repeating: 0, count: 160) + bytes("+x") + [0]),
        encoded(.triggerService4, [UInt8](repeating: 0, count: 160) + bytes("x")),
        encoded(.triggerService4, [UInt8](repeating: 0, count: 160) + [0x78, 0, 0x78, 0]),
    ])
    func aLocalProgramThatBreaksTheRulesIsRefusedAndNobodyElse(_ stream: [UInt8]) throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let good = try scene.client()
        let bad = try scene.client()
        try bad.send(raw: stream)
        #expect(try bad.receiveToEnd() == [])
        #expect(try dom0.isSilent(milliseconds: 20))
        try ask(good)
        try dom0.send(.serviceConnect, scene.place() + (try ident(of: dom0.message())))
        #expect(try good.receive(8) == scene.place())
    }

    @Test func requestsThatDom0CannotTakeAreRefusedHere() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0(version: 3)
        let claiming = try scene.client()
        try ask(claiming, source: "remote")
        #expect(try claiming.receiveToEnd() == [])
        let long = try scene.client()
        try ask(long, service: "s+" + String(repeating: "a", count: 4000))
        #expect(try long.receiveToEnd() == [])
        // The longest that goes into one message of 4096 bytes.
        let longest = try scene.client()
        try ask(longest, service: "s+" + String(repeating: "a", count: 3997))
        #expect(try dom0.message()?.body.count == 4096)
        #expect(scene.log("qrexec-agent").contains("too long"))
    }

    @Test func aRelayMayClaimItsRemoteQubeAsSource() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let client = try scene.client()
        try ask(client, source: "remote")
        #expect(try dom0.message()?.body.prefix(64) == field("remote", 64)[...])
    }

    @Test func silentAndSlowLocalProgramsHoldNobodyUp() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        // More than there are places: the oldest silent ones make room.
        var silent = try (0..<300).map { _ in try scene.client() }
        try silent[299].send(raw: little(0x213))
        let client = try scene.client()
        try ask(client)
        try dom0.send(.serviceConnect, scene.place() + (try ident(of: dom0.message())))
        #expect(try client.receive(8) == scene.place())
        silent = []
    }

    @Test(arguments: [
        little(0x202) + little(39), little(0x202) + little(41), little(0x203) + little(31),
        little(0x200) + little(8), little(0x200) + little(65536), little(0x201) + little(0),
        little(0x211) + little(8), little(0x213) + little(165), little(0x190) + little(0),
        encoded(.hello, little(4)), little(7) + little(7),
        encoded(.execCommandLine, little(43) + little(513) + bytes("user:x")),
        encoded(.execCommandLine, little(43) + little(513) + bytes("user:\0x\0")),
        encoded(.serviceConnect, little(43) + little(513) + [UInt8](repeating: 0x41, count: 32)),
    ])
    func whatDom0MustNotSendEndsTheChannelAndTheNextIsServed(_ stream: [UInt8]) throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let client = try scene.client()
        try ask(client)
        _ = try dom0.message()
        try dom0.send(raw: stream)
        #expect(try dom0.message() == nil)
        // Its request is over.
        #expect(try client.receiveToEnd() == [])
        dom0.close()
        let next = try scene.dom0(version: 3)
        #expect(try scene.call(next, "echo back").text == "back\n")
    }

    @Test func aMessageInPiecesIsTakenWhole() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let listener = try scene.dataListener()
        let message = encoded(.execCommandLine, scene.place() + scene.command("echo pieces"))
        for byte in message { try dom0.send(raw: [byte]) }
        let data = try listener.accept()
        try data.send(.hello, little(4))
        #expect(try data.streams().text == "pieces\n")
    }

    @Test(
        arguments: [(0x7FF0, 513), (43, 0x8000_0000), (0xFFFF_FFFF, 0xFFFF_FFFF)]
            as [(UInt32, UInt32)])
    func aPlaceThatCannotBeIsReportedAsEnded(_ domain: UInt32, _ port: UInt32) throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let place = little(domain) + little(port)
        try dom0.send(.execCommandLine, place + scene.command("true"))
        #expect(try dom0.message() == Message(.connectionTerminated, place))
        #expect(try scene.call(dom0, "echo on").text == "on\n")
    }

    @Test func aLongCommandArrivesWhole() throws {
        let scene = try AgentScene()
        let text = "printf %s '" + String(repeating: "x", count: 60000) + "' | wc -c"
        #expect(try scene.call(try scene.dom0(), text).text == "60000\n")
    }

    @Test func aFloodOfRequestsFromDom0IsServed() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "exit 0")
        let dom0 = try scene.dom0()
        // Nobody serves their data channels: all wait, and the others go on.
        for port in 600..<900 as Range<UInt32> {
            try dom0.send(
                .execCommandLine,
                scene.place(port, domain: 45) + scene.command("QUBESRPC s domX"))
        }
        #expect(try scene.service(dom0, "s").status == 0)
    }

    @Test func theAgentEndsInOrderAndItsSocketGoes() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        _ = try scene.client()
        scene.agent?.signal(SIGTERM)
        #expect(try scene.agent?.status() == 0)
        #expect(!PathStatus.exists(scene.triggerSocket))
        #expect(try dom0.receiveToEnd() == [])
    }

    @Test func callsGoOnWhileTheAgentIsRestartedAndTheirEndIsReported() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        let other = try scene.execute(dom0, "QUBESRPC s domX", port: 515)
        scene.agent?.signal(SIGTERM)
        #expect(try scene.agent?.status() == 0)
        try data.send(.dataStdin, bytes("while away"))
        try data.send(.dataStdin)
        #expect(try data.streams().text == "while away")
        dom0.close()
        try scene.startAgent()
        let next = try scene.dom0()
        #expect(try next.message() == Message(.connectionTerminated, scene.place()))
        try other.send(.dataStdin)
        #expect(try other.streams().status == 0)
        #expect(try next.message() == Message(.connectionTerminated, scene.place(515)))
    }

    @Test(arguments: [SIGTERM, SIGKILL])
    func withoutCallsNothingOfTheAgentIsLeftAndTheNextOnesSettingsCount(_ signal: Int32) throws {
        let scene = try AgentScene()
        _ = try scene.dom0()
        let before = try #require(scene.dataProcess)
        scene.agent?.signal(signal)
        _ = try scene.agent?.status()
        try wait(until: "the data process ends") { scene.dataProcess == nil }
        scene.extra = ["SETTING=new"]
        try scene.makeService("s", "echo $SETTING")
        try scene.startAgent()
        #expect(try scene.service(try scene.dom0(), "s").text == "new\n")
        #expect(scene.dataProcess != before)
    }

    @Test func theDaemonMayGoAndComeBack() throws {
        let scene = try AgentScene()
        for version in [4, 3, 2] as [UInt32] {
            let dom0 = try scene.dom0(version: version)
            let client = try scene.client()
            try ask(client)
            let type = try dom0.message()?.type
            #expect(
                type == [2: 0x210, 3: 0x212, 4: 0x213][version])
            dom0.close()
            #expect(try client.receiveToEnd() == [])
            try wait(until: "the socket is gone") { !PathStatus.exists(scene.triggerSocket) }
        }
    }
}

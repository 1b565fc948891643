import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

/// `qrexec-client-vm`, with the agent and the other qube played by the test.
final class ClientScene: Scene {
    private var agent: Listener!
    private(set) var client: Running!
    /// The other ends of the client's standard streams.
    private(set) var input: Peer!
    private(set) var output: Peer!
    private(set) var errors: Peer!

    /// - Parameter closingInput: the client comes up without a standard input.
    init(_ arguments: [String], closingInput: Bool = false) throws {
        try super.init()
        agent = try Listener("\(path)/agent.sock")
        let tool = "qrexec-client-vm"
        let call = ["--agent-socket=\(path)/agent.sock"] + arguments
        let one = try UnixSocket.pair()
        let two = try UnixSocket.pair()
        let three = try UnixSocket.pair()
        let streams = [one.second.number, two.second.number, three.second.number]
        if closingInput {
            client = try start(
                program: "/bin/sh", tool,
                ["-c", #"exec "$0" "$@" <&-"#, "\(path)/bin/\(tool)"] + call,
                descriptors: streams)
        } else {
            client = try start(tool, call, descriptors: streams)
        }
        input = Peer(one.first)
        output = Peer(two.first)
        errors = Peer(three.first)
    }

    /// The client's connection to its agent, and what it asks.
    func request() throws -> (agent: Peer, message: Message) {
        let peer = try agent.accept()
        return (peer, try #require(try peer.message()))
    }

    /// The service's side of the data channel, before a word.
    func allow(_ agent: Peer, port: UInt32 = 513) throws -> Peer {
        try agent.send(raw: little(Self.peer) + little(port))
        return try Peer.connected(to: "\(path)/vchan.\(Self.own).\(Self.peer).\(port).sock")
    }

    /// The service's side of an allowed call; the agent's connection stays open.
    func service(version: UInt32 = 4) throws -> Peer {
        let (agent, _) = try request()
        held = agent
        let data = try allow(agent)
        #expect(try data.message() == Message(.hello, little(4)))
        try data.send(.hello, little(version))
        return data
    }

    private var held: Peer?

    func finish(_ data: Peer, status: UInt32 = 0) throws {
        try data.send(.dataStdout)
        try data.send(.dataStderr)
        try data.send(.dataExitCode, little(status))
    }
}

@Suite struct ClientCalls {
    @Test func theRequestIsAskedAsGiven() throws {
        let scene = try ClientScene(["--source-qube=remote", "$default", "my.Service+a b/c"])
        let (_, message) = try scene.request()
        #expect(
            message
                == Message(
                    .triggerService4,
                    field("remote", 64) + field("@default", 64) + field("SOCKET", 32)
                        + bytes("my.Service+a b/c") + [0]))
    }

    @Test func longNamesAreCutAndServicesAreNot() throws {
        let scene = try ClientScene([
            "-s", String(repeating: "s", count: 100), String(repeating: "t", count: 64),
            "v+" + String(repeating: "a", count: 5000),
        ])
        let (_, message) = try scene.request()
        #expect(message.body.count == 160 + 5003)
        #expect(message.body[..<64] == (field(String(repeating: "s", count: 63), 64))[...])
        #expect(
            Array(message.body[64..<128]) == field(String(repeating: "t", count: 63), 64))
    }

    @Test func aRefusalIsToldAndHasItsStatus() throws {
        let scene = try ClientScene(["t", "s", "/bin/sh", "-c", "echo ran >&4"])
        let (agent, _) = try scene.request()
        agent.close()
        #expect(try scene.client.status() == 126)
        #expect(try scene.errors.receiveToEnd() == bytes("Request refused\n"))
        #expect(try scene.output.receiveToEnd() == [])
    }

    @Test(
        arguments: [
            [], ["t"], ["t", ""], ["--what", "t", "s"], ["--buffer-size=x", "t", "s"],
            ["--buffer-size=-1", "t", "s"], ["--use-stdin-socket", "t", "s", "/bin/true"],
        ] as [[String]])
    func wrongUsageIsToldWithStatus2(_ arguments: [String]) throws {
        let scene = try ClientScene(arguments)
        #expect(try scene.client.status() == 2)
        #expect(
            String(decoding: try scene.errors.receiveToEnd(), as: UTF8.self).contains("--help"))
    }

    @Test func dataGoesBothWaysAndTheStatusComesBack() throws {
        let scene = try ClientScene(["t", "s"])
        let data = try scene.service()
        try scene.input.send(raw: bytes("question"))
        #expect(try data.message() == Message(.dataStdin, bytes("question")))
        try data.send(.dataStdout, bytes("answer"))
        try data.send(.dataStderr, bytes("complaint"))
        #expect(try scene.output.receive(6) == bytes("answer"))
        #expect(try scene.errors.receive(9) == bytes("complaint"))
        scene.input.close()
        #expect(try data.message() == Message(.dataStdin))
        try scene.finish(data, status: 42)
        #expect(try scene.client.status() == 42)
        #expect(try data.receiveToEnd() == [])
    }

    @Test func theEndOfInputComesAfterAStatusToo() throws {
        let scene = try ClientScene(["t", "s"])
        let data = try scene.service()
        try scene.finish(data)
        #expect(try data.message() == Message(.dataStdin))
        #expect(try scene.client.status() == 0)
    }

    @Test func outputThatFollowsTheStatusStillCounts() throws {
        let scene = try ClientScene(["t", "s"])
        let data = try scene.service()
        try data.send(.dataExitCode, little(3))
        try data.send(.dataStdout, bytes("late"))
        try data.send(.dataStdout)
        #expect(try scene.output.receiveToEnd() == bytes("late"))
        #expect(try scene.client.status() == 3)
    }

    @Test(
        arguments: [
            ([], 255), ([1, 2, 3], 255), ([7, 0, 0, 0, 9], 7), ([255, 255, 255, 255], 255),
            ([0, 1, 0, 0], 0),
        ] as [([UInt8], Int32)])
    func anOddStatusIsReadAsTheSpecificationSays(_ body: [UInt8], _ status: Int32) throws {
        let scene = try ClientScene(["t", "s"])
        let data = try scene.service()
        try data.send(.dataStdout)
        try data.send(.dataExitCode, body)
        #expect(try scene.client.status() == status)
    }

    @Test func aChannelThatClosesEarlyIsAnErrorAfterItsData() throws {
        let scene = try ClientScene(["t", "s"])
        let data = try scene.service()
        try data.send(.dataStdout, bytes("some"))
        data.close()
        #expect(try scene.output.receiveToEnd() == bytes("some"))
        #expect(try scene.client.status() == 255)
    }

    @Test(arguments: [
        encoded(.hello, little(1)), encoded(.hello, [1, 2]), encoded(.dataStdout, [1]),
        little(0x300) + little(0x7FFF_FFFF),
    ])
    func aBadGreetingEndsTheCall(_ stream: [UInt8]) throws {
        let scene = try ClientScene(["t", "s"])
        let (agent, _) = try scene.request()
        let data = try scene.allow(agent)
        try data.send(raw: stream)
        #expect(try scene.client.status() == 1)
        #expect(try data.streams().status == nil)
    }

    @Test(arguments: [
        little(0x191) + little(65537), little(0x192) + little(0xFFFF_FFFF), little(9) + little(0),
        encoded(.hello, little(4)), encoded(.serviceConnect, pattern(40)),
    ])
    func aBrokenRuleEndsTheCall(_ stream: [UInt8]) throws {
        let scene = try ClientScene(["t", "s"])
        let data = try scene.service()
        try data.send(raw: stream)
        #expect(try scene.client.status() == 1)
    }

    @Test(arguments: [(2, 4096), (3, 65536)] as [(UInt32, Int)])
    func messagesFitTheVersion(_ version: UInt32, _ limit: Int) throws {
        let scene = try ClientScene(["t", "s"])
        let data = try scene.service(version: version)
        try scene.input.send(raw: pattern(150_000))
        scene.input.close()
        var got: [UInt8] = []
        while let message = try data.message(), !message.body.isEmpty {
            #expect(message.type == 0x190 && message.body.count <= limit)
            got += message.body
        }
        #expect(got == pattern(150_000))
        try scene.finish(data)
        #expect(try scene.client.status() == 0)
    }

    @Test func aLocalProgramIsJoinedToTheService() throws {
        let scene = try ClientScene([
            "t", "s", "/bin/sh", "-c",
            "read x; echo \"got $x\"; echo out >&$SAVED_FD_1; exec 1>&-; exit 5", "name",
        ])
        let data = try scene.service()
        try data.send(.dataStdout, bytes("line\n"))
        #expect(try data.message() == Message(.dataStdin, bytes("got line\n")))
        #expect(try data.message() == Message(.dataStdin))
        try scene.finish(data)
        #expect(try scene.output.receiveToEnd() == bytes("out\n"))
        #expect(try scene.client.status() == 5)
    }

    @Test func aLocalProgramSeesItsEnvironmentOnlyAndTheServicesStatusWins() throws {
        let scene = try ClientScene([
            "t", "s", "/bin/sh", "-c",
            "test -z \"$SAVED_FD_2\" && test $QREXEC_AGENT_PID = $PPID && echo $SAVED_FD_0; exit 5",
        ])
        let data = try scene.service()
        #expect(try data.message() == Message(.dataStdin, bytes("3\n")))
        try scene.finish(data, status: 9)
        #expect(try scene.client.status() == 9)
    }

    @Test func aLocalProgramMayUseOneSocket() throws {
        let scene = try ClientScene([
            "t", "s", "/bin/sh", "-c",
            "kill -USR1 $QREXEC_AGENT_PID; exec 1>&-; sleep 0.1; cat >&0; echo end >&0",
        ])
        let data = try scene.service()
        try data.send(.dataStdout, bytes("in\n"))
        try data.send(.dataStdout)
        var got: [UInt8] = []
        while let message = try data.message(), !message.body.isEmpty { got += message.body }
        #expect(got == bytes("in\nend\n"))
        try data.send(.dataExitCode, little(0))
        #expect(try scene.client.status() == 0)
    }

    @Test func aSocketAsInputIsUsedBothWays() throws {
        let scene = try ClientScene(["--use-stdin-socket", "--prefix-data=first ", "t", "s"])
        let data = try scene.service()
        #expect(try data.message() == Message(.dataStdin, bytes("first ")))
        try scene.input.send(raw: bytes("in"))
        #expect(try data.message() == Message(.dataStdin, bytes("in")))
        try data.send(.dataStdout, bytes("out"))
        #expect(try scene.input.receive(3) == bytes("out"))
        scene.input.endWriting()
        #expect(try data.message() == Message(.dataStdin))
        try data.send(.dataStdout)
        #expect(try scene.input.receiveToEnd() == [])
        try data.send(.dataExitCode, little(0))
        #expect(try scene.client.status() == 0)
    }

    @Test(arguments: [["-p", "pre"], ["--prefix-data=pre"]])
    func aPrefixComesBeforeTheInput(_ option: [String]) throws {
        let scene = try ClientScene(option + ["t", "s"])
        let data = try scene.service()
        #expect(try data.message() == Message(.dataStdin, bytes("pre")))
        try scene.input.send(raw: bytes("rest"))
        #expect(try data.message() == Message(.dataStdin, bytes("rest")))
    }

    @Test(arguments: [
        (["-t"], "a_[1m\t\n", "\u{1B}[1m"), (["-T"], "a\u{1B}[1m\t\n", "_[1m"),
        (["-t", "-T", "--no-filter-escape-chars-stderr"], "a_[1m\t\n", "\u{1B}[1m"),
        ([], "a\u{1B}[1m\t\n", "\u{1B}[1m"),
    ])
    func whatATerminalCannotBeTrustedWithIsReplacedOnRequest(
        _ options: [String], _ output: String, _ error: String
    ) throws {
        let scene = try ClientScene(options + ["t", "s"])
        let data = try scene.service()
        try data.send(.dataStdout, bytes("a\u{1B}[1m\t\n"))
        try data.send(.dataStderr, bytes("\u{1B}[1m"))
        try scene.finish(data)
        #expect(try scene.output.receiveToEnd() == bytes(output))
        #expect(try scene.errors.receiveToEnd() == bytes(error))
        #expect(try scene.client.status() == 0)
    }

    @Test func anAgentThatEndsACallEndsItsClient() throws {
        let scene = try ClientScene(["t", "s"])
        let (agent, _) = try scene.request()
        let data = try scene.allow(agent)
        try data.send(.hello, little(4))
        try agent.send(raw: [0])
        agent.close()
        #expect(try scene.client.status() == 255)
    }

    @Test(arguments: [[], [1]] as [[UInt8]])
    func aCallGoesOnWhenTheAgentTakesNoMoreInterestInIt(_ word: [UInt8]) throws {
        let scene = try ClientScene(["t", "s"])
        let (agent, _) = try scene.request()
        let data = try scene.allow(agent)
        #expect(try data.message() == Message(.hello, little(4)))
        try data.send(.hello, little(4))
        try agent.send(raw: word)
        agent.close()
        #expect(try data.isSilent(milliseconds: 500))
        try data.send(.dataStdout, bytes("still there"))
        try scene.finish(data, status: 6)
        #expect(try scene.output.receiveToEnd() == bytes("still there"))
        #expect(try scene.client.status() == 6)
    }

    @Test func aStreamThatCameClosedIsEmpty() throws {
        let scene = try ClientScene(["t", "s"], closingInput: true)
        let data = try scene.service()
        #expect(try data.message() == Message(.dataStdin))
        try scene.finish(data, status: 4)
        #expect(try scene.client.status() == 4)
    }
}

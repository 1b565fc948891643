import Foundation
import Glibc
import LinuxSystem
import Testing

extension Dom0Programs {
    /// `qrexec-client`, with the daemons and qubes played by the test.
    @Suite struct Client {
        let scene: Scene
        init() throws { scene = try Scene() }

        /// A call up to its data channel, HELLO done.
        private func call(
            _ options: [String] = [], command: String = "user:command", type: UInt32 = 0x200,
            target: String = "target", environment: [String] = [], input: Int32? = nil
        ) throws -> (client: Running, daemon: Peer, data: Peer) {
            let listener = try scene.targetDaemon(target)
            let client = try scene.startClient(
                ["-d", target] + options + [command], environment: environment, input: input)
            let daemon = try listener.accept()
            try daemon.greet(3, answer: 3)
            #expect(try daemon.message() == exec(type, 0, 0, command))
            try daemon.send(place(type, 7, 513))
            let data = try scene.joinChannel(7, 513)
            #expect(try data.message() == hello(4))
            try data.send(hello(3))
            return (client, daemon, data)
        }

        /// A client whose call the target's daemon has given a channel.
        private func placed(_ arguments: [String]) throws -> (client: Running, daemon: Peer) {
            let listener = try scene.targetDaemon("target")
            let client = try scene.startClient(["-d", "target"] + arguments)
            let daemon = try listener.accept()
            try daemon.greet(3, answer: 3)
            _ = try daemon.message()
            try daemon.send(place(0x200, 7, 513))
            return (client, daemon)
        }

        @Test(arguments: ["target", "7", "uuid:11-22"])
        func aCommandRunsAndItsStreamsAndStatusPass(target: String) throws {
            let (client, daemon, data) = try call(target: target)
            try client.input.send(Array("stdin".utf8))
            #expect(try data.message() == message(0x190, Array("stdin".utf8)))
            client.input.endSending()
            #expect(try data.message() == message(0x190, []))
            try data.send(
                message(0x191, Array("out".utf8)) + message(0x192, Array("err".utf8))
                    + message(0x191, []) + message(0x192, []) + message(0x193, little(42)))
            #expect(client.output.rest() == Array("out".utf8))
            #expect(try client.status() == 42)
            #expect(client.errors.rest() == Array("err".utf8))
            #expect(daemon.isClosed())
        }

        @Test func theEndOfTheServiceEndsTheInput() throws {
            let (client, _, data) = try call()
            try data.send(message(0x191, []) + message(0x192, []) + message(0x193, little(0)))
            #expect(try data.message() == message(0x190, []))
            #expect(data.isClosed())
            #expect(try client.status() == 0)
        }

        @Test(arguments: [["-E"], ["--no-exit-code"]]) func withEItsStatusIs0(option: [String])
            throws
        {
            let (client, _, data) = try call(option)
            try data.send(message(0x191, []) + message(0x192, []) + message(0x193, little(42)))
            #expect(try client.status() == 0)
        }

        @Test(arguments: [0, 127]) func justStartingTellsTheStartsStatus(status: Int32) throws {
            let (client, _, data) = try call(["-e"], type: 0x201)
            try data.send(message(0x193, little(UInt32(status))))
            #expect(try client.status() == status)
        }

        @Test func aChannelThatClosesEarlyIs255() throws {
            let client: Running
            do {
                let (running, _, data) = try call()
                client = running
                try data.send(message(0x191, Array("out".utf8)))
            }
            #expect(client.output.rest() == Array("out".utf8))
            #expect(try client.status() == 255)
        }

        @Test(arguments: [("-t", 1), ("-T", 2)]) func whatATerminalCannotBeTrustedWithIsReplaced(
            option: String, stream: Int
        ) throws {
            let (client, _, data) = try call([option])
            let bytes: [UInt8] = [0x20, 0x7E, 0x7F, 0x1B, 9, 10, 13, 8, 7, 0, 0xC3, 0xA9, 0x41]
            let safe: [UInt8] = [
                0x20, 0x7E, 0x5F, 0x5F, 9, 10, 13, 8, 7, 0x5F, 0x5F, 0x5F, 0x41,
            ]
            try data.send(
                message(0x191, bytes) + message(0x192, bytes) + message(0x191, [])
                    + message(0x192, []) + message(0x193, little(0)))
            #expect(client.output.rest() == (stream == 1 ? safe : bytes))
            _ = try client.status()
            #expect(client.errors.rest() == (stream == 2 ? safe : bytes))
        }

        @Test(arguments: [["-p", "first"], ["--prefix-data=first"]])
        func thePrefixGoesOutFirst(option: [String]) throws {
            let (client, _, data) = try call(option)
            #expect(try data.message() == message(0x190, Array("first".utf8)))
            try client.input.send([1, 2])
            #expect(try data.message() == message(0x190, [1, 2]))
        }

        @Test func standardInputMayBeASocketForBothWays() throws {
            let (client, _, data) = try call(["--use-stdin-socket"])
            try client.input.send([1, 2])
            #expect(try data.message() == message(0x190, [1, 2]))
            try data.send(message(0x191, [3, 4]))
            #expect(try client.input.receive(2) == [3, 4])
            try data.send(message(0x191, []) + message(0x192, []) + message(0x193, little(0)))
            #expect(client.input.isClosed())
            #expect(try client.status() == 0)
            #expect(client.output.rest() == [])
        }

        @Test func aLocalProgramTakesTheStreams() throws {
            let program = "read line; echo \"$QREXEC_REMOTE_DOMAIN: $line\"; exit 5"
            let (client, _, data) = try call(["-l", program])
            try data.send(message(0x191, Array("hi\n".utf8)))
            #expect(try data.message() == message(0x190, Array("target: hi\n".utf8)))
            #expect(try data.message() == message(0x190, []))
            try data.send(message(0x191, []) + message(0x192, []) + message(0x193, little(0)))
            #expect(try client.status() == 5)
        }

        @Test(arguments: [("--bogus", 0), ("-x", 0), ("-w", 1)] as [(String, Int32)])
        func anUnknownOptionIsToldWithTheStatusOfTheReference(
            option: String, status: Int32
        ) throws {
            let client = try scene.startClient([option])
            #expect(try client.status() == status)
            #expect(!client.errors.rest().isEmpty)
        }

        @Test(arguments: [
            hello(1), message(0x300, [4, 0]), message(0x191, []), little(0x300) + little(.max), [],
        ])
        func aQubeThatDoesNotGreetWellIsAProblem(first: [UInt8]) throws {
            let (client, daemon) = try placed(["user:command"])
            defer { withExtendedLifetime(daemon) {} }
            let data = try scene.joinChannel(7, 513)
            #expect(try data.message() == hello(4))
            try data.send(first)
            if first.isEmpty { data.endSending() }
            #expect(try client.status() == 125)
        }

        @Test func aLocalServiceTakesTheStreams() throws {
            try scene.install("test.Local", "echo \"$1 $QREXEC_REMOTE_DOMAIN\"")
            let (client, _, data) = try call(["-l", "QUBESRPC test.Local+arg target"])
            #expect(try data.message() == message(0x190, Array("arg target\n".utf8)))
            #expect(try data.message() == message(0x190, []))
            try data.send(message(0x191, []) + message(0x192, []) + message(0x193, little(3)))
            #expect(try client.status() == 3)
        }

        @Test func aLocalServiceThatIsNotThereIs127() throws {
            let (client, daemon) = try placed(["-l", "QUBESRPC test.None target", "user:command"])
            defer { withExtendedLifetime(daemon) {} }
            #expect(try client.status() == 127)
        }

        @Test func aQubeThatDoesNotConnectIs125() throws {
            let (client, daemon) = try placed(["-w", "1", "user:command"])
            defer { withExtendedLifetime(daemon) {} }
            #expect(try client.status() == 125)
        }

        @Test func oneThatSpeaksVersion1Is125() throws {
            let (client, daemon) = try placed(["user:command"])
            defer { withExtendedLifetime(daemon) {} }
            let data = try scene.joinChannel(7, 513)
            try data.send(hello(1))
            #expect(try client.status() == 125)
        }

        @Test func aDaemonThatRefusesIs125() throws {
            let listener = try scene.targetDaemon("target")
            let client = try scene.startClient(["-d", "target", "user:command"])
            do { try listener.accept().greet(3, answer: 3) }
            #expect(try client.status() == 125)
        }

        @Test func aHaltedQubeIsStartedAndKilledAtTheEnd() throws {
            let path = scene.socket("target")
            nonisolated(unsafe) var listener: Listener?
            let qubesd = try scene.qubesd {
                if $0.hasPrefix("admin.vm.Start") { listener = try? Listener(path) }
                return "0\0"
            }
            let client = try scene.startClient(["-d", "target", "-k", "user:command"])
            try eventually("it is started") { listener != nil }
            let daemon = try listener!.accept()
            try daemon.greet(3, answer: 3)
            _ = try daemon.message()
            try daemon.send(place(0x200, 7, 513))
            let data = try scene.joinChannel(7, 513)
            try data.send(
                hello(3) + message(0x191, []) + message(0x192, []) + message(0x193, little(4)))
            #expect(try client.status() == 4)
            #expect(
                qubesd.texts == [
                    "admin.vm.Start+ dom0 name target\0", "admin.vm.Kill+ dom0 name target\0",
                ])
        }

        // MARK: Requests that wait

        @Test(arguments: [false, true]) func aWaitingRequestIsConnectedToAQube(waits: Bool) throws {
            let target = try scene.targetDaemon("target")
            let source = try scene.targetDaemon("source")
            let client = try scene.startClient(
                ["-d", "target", "-c", "SOCKET11,source,42"] + (waits ? ["-W"] : [])
                    + ["user:command"])
            do {
                let daemon = try target.accept()
                try daemon.greet(3, answer: 3)
                #expect(try daemon.message() == exec(42, 0, "user:command"))
                try daemon.send(place(0x200, 7, 514))
                let callers = try source.accept()
                try callers.greet(3, answer: 3)
                #expect(try callers.message() == serviceConnect(7, 514, "SOCKET11"))
                if waits {
                    usleep(200_000)
                    #expect(!client.hasEnded)
                } else {
                    #expect(try client.status() == 0)
                }
            }
            if waits { #expect(try client.status() == 0) }
        }

        @Test func oneWhoseTargetIsAwayIs137AndNothingIsStarted() throws {
            let qubesd = try scene.qubesd { _ in "0\0" }
            let client = try scene.startClient(
                ["-d", "target", "-c", "SOCKET11,source,42", "user:command"])
            #expect(try client.status() == 137)
            #expect(qubesd.texts == [])
        }

        @Test func aWaitingRequestIsConnectedToDom0() throws {
            let source = try scene.targetDaemon("source")
            let channel = try scene.vchan(server: 42, 513)
            let client = try scene.startClient(
                ["-d", "dom0", "-c", "SOCKET11,source,42", "echo $QREXEC_REMOTE_DOMAIN; exit 6"])
            let daemon = try source.accept()
            try daemon.greet(3, answer: 3)
            #expect(try daemon.message() == serviceConnect(0, 0, "SOCKET11"))
            try daemon.send(place(0x202, 42, 513))
            let data = try channel.accept()
            try data.send(hello(3))
            #expect(try data.message() == hello(4))
            #expect(
                try messages(data, ending: 0x193)
                    == [
                        .init(0x192, []), .init(0x191, Array("source\n".utf8)), .init(0x191, []),
                        .init(0x193, little(6)),
                    ])
            #expect(try client.status() == 6)
        }

        // MARK: dom0 to dom0

        @Test(arguments: ["dom0", "@adminvm", "uuid:00000000-0000-0000-0000-000000000000"])
        func aServiceOfDom0IsBecome(target: String) throws {
            try scene.install(
                "test.Service", "echo \"$1 $QREXEC_REMOTE_DOMAIN\"; cat; kill -USR1 $$")
            let client = try scene.startClient(
                ["-d", target, "DEFAULT:QUBESRPC test.Service+arg dom0"])
            try client.input.send(Array("in".utf8))
            client.input.endSending()
            #expect(client.output.rest() == Array("arg dom0\nin".utf8))
            #expect(try client.status() == 128 + SIGUSR1)
        }

        @Test(
            arguments: [
                (["DEFAULT:ls"], 125), (["joe:QUBESRPC test.Service dom0"], 125),
                (["DEFAULT:QUBESRPC test.None dom0"], 127),
                (["DEFAULT:QUBESRPC test.File dom0"], 125),
                (["-l", "true", "DEFAULT:QUBESRPC test.Service dom0"], 125),
            ] as [([String], Int32)])
        func whatDom0DoesNotDoForItselfIsTold(arguments: [String], status: Int32) throws {
            try scene.install("test.Service", "exit 0")
            try "".write(
                toFile: "\(scene.directory)/services/test.File", atomically: false, encoding: .utf8)
            let client = try scene.startClient(["-d", "dom0"] + arguments)
            #expect(try client.status() == status)
            #expect(!client.errors.rest().isEmpty)
        }

        // MARK: Usage

        @Test(
            arguments: [
                ([], 1), (["-d", "target"], 1), (["user:command"], 1),
                (["-d", "target", "command"], 1), (["-d", "target", "a:b", "c"], 1),
                (["-d", "target", "-e", "-l", "true", "user:command"], 1),
                (["-d", "target", "-e", "-c", "a,b,3", "user:command"], 1),
                (["-d", "target", "-c", "a,dom0,3", "user:command"], 1),
                (["-d", "target", "-c", "a,b,0", "user:command"], 1),
                (["-d", "target", "-c", "a,b", "user:command"], 1),
                (
                    [
                        "-d", "target", "-c", String(repeating: "a", count: 32) + ",b,3",
                        "user:command",
                    ], 1
                ),
                (["-d", "target", "-w", "x", "user:command"], 1),
                (["-d", "target", "-l", "true", "--use-stdin-socket", "user:command"], 1),
                (["-d", "target", "-p", "a", "-p", "b", "user:command"], 2),
                (["-d", "target", "--use-stdin-socket", "--use-stdin-socket", "user:command"], 2),
                (["-h"], 0), (["--help"], 0), (["--version"], 0),
            ] as [([String], Int32)])
        func usage(arguments: [String], status: Int32) throws {
            let client = try scene.startClient(arguments)
            #expect(try client.status() == status)
        }

        @Test func aStdinSocketMustBeOne() throws {
            let null = try Descriptor.open("/dev/null", O_RDONLY)
            let client = try scene.startClient(
                ["-d", "target", "--use-stdin-socket", "user:command"], input: null.number)
            #expect(try client.status() == 2)
        }
    }
}

import Foundation
import Glibc
import Testing

extension Dom0Programs {
    /// Calls of a daemon's qube to disposables and to dom0.
    @Suite struct DaemonCalls {
        let scene: Scene
        init() throws { scene = try Scene() }

        // MARK: Disposables

        private func disposableScene(
            create: String = "0\0disp7", start: String = "0\0", uuid: Bool = false
        ) throws -> FakeService {
            try scene.policy { _ in
                allow(
                    "@dispvm:dvm", uuid: uuid ? "@dispvm:uuid:11-22" : nil, requested: "@dispvm")
            }
            return try scene.qubesd {
                $0.hasPrefix("admin.vm.CreateDisposable")
                    ? create
                    : $0.hasPrefix("admin.vm.Start") ? start : "0\0"
            }
        }

        @Test func aDisposableIsMadeStartedCalledAndKilledAfterTheCall() throws {
            let qubesd = try disposableScene()
            let target = try scene.targetDaemon("disp7")
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(target: "@dispvm"))
            do {
                let call = try target.accept()
                try call.greet(3, answer: 3)
                #expect(try call.message() == exec(42, 0, "DEFAULT:QUBESRPC test.Service+ source"))
                try call.send(place(0x200, 7, 514))
                #expect(try agent.message() == serviceConnect(7, 514, "SOCKET7"))
                #expect(call.isQuiet())
                #expect(qubesd.texts.count == 2)
            }
            try eventually("it is killed") { qubesd.texts.count == 3 }
            #expect(
                qubesd.texts == [
                    "admin.vm.CreateDisposable+ dom0 name dvm\0",
                    "admin.vm.Start+ dom0 name disp7\0", "admin.vm.Kill+ dom0 name disp7\0",
                ])
        }

        @Test func byUUIDItIsNamedByItsUUIDToo() throws {
            let qubesd = try disposableScene(
                create: "0\0uuid:33-44", start: "2\0QubesVMNotHaltedError\0\0x\0", uuid: true)
            let target = try scene.targetDaemon("uuid:33-44")
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(target: "@dispvm"))
            do { try target.accept().greet(3, answer: 3) }
            #expect(try agent.message() == refused("SOCKET7"))
            try eventually("it is killed") { qubesd.texts.count == 3 }
            #expect(
                qubesd.texts == [
                    "admin.vm.CreateDisposable+ dom0 name uuid:11-22\0uuid",
                    "admin.vm.Start+ dom0 name uuid:33-44\0",
                    "admin.vm.Kill+ dom0 name uuid:33-44\0",
                ])
        }

        @Test func oneThatCannotBeStartedIsKilled() throws {
            let qubesd = try disposableScene(start: "2\0QubesVMError\0\0no memory\0")
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(target: "@dispvm"))
            #expect(try agent.message() == refused("SOCKET7"))
            try eventually("it is killed") {
                qubesd.texts.last == "admin.vm.Kill+ dom0 name disp7\0"
            }
        }

        @Test func oneWhoseDaemonIsNotThereIsKilled() throws {
            let qubesd = try disposableScene()
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(target: "@dispvm"))
            #expect(try agent.message() == refused("SOCKET7"))
            try eventually("it is killed") {
                qubesd.texts.last == "admin.vm.Kill+ dom0 name disp7\0"
            }
        }

        @Test func oneWhoseCallerGoesInBetweenIsKilled() throws {
            let qubesd = try disposableScene()
            let target = try scene.targetDaemon("disp7")
            var agent: Peer? = try scene.daemon().agent
            try agent!.send(trigger(target: "@dispvm"))
            let call = try target.accept()
            try call.greet(3, answer: 3)
            agent = nil
            try eventually("it is killed") {
                qubesd.texts.last == "admin.vm.Kill+ dom0 name disp7\0"
            }
        }

        @Test(arguments: [
            "2\0QubesVMError\0\0full\0", "0\0", "0\0a/b", "0\0" + String(repeating: "d", count: 64),
        ])
        func oneThatCannotBeMadeIsARefusal(create: String) throws {
            let qubesd = try disposableScene(create: create)
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(target: "@dispvm"))
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(qubesd.texts.count == 1)
        }

        @Test(arguments: [
            allow("@dispvm:dvm", autostart: false), allow("@dispvm"), allow("@tag:x"),
        ])
        func answersThatNameNoneAreRefusals(answer: String) throws {
            try scene.policy { _ in answer }
            let qubesd = try scene.qubesd { _ in "0\0disp7" }
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(target: "@dispvm"))
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(qubesd.texts == [])
        }

        // MARK: dom0

        /// A call to dom0 up to its data channel, HELLO done.
        private func callDom0(
            _ agent: Peer, service: String = "test.Service+arg", port: UInt32 = 513,
            version: UInt32 = 3
        ) throws -> Peer {
            let channel = try scene.vchan(server: 42, port)
            try agent.send(trigger(target: "@adminvm", service: service))
            #expect(try agent.message() == serviceConnect(0, port, "SOCKET7"))
            let data = try channel.accept()
            try data.send(hello(version))
            #expect(try data.message() == hello(4))
            return data
        }

        @Test(arguments: ["@adminvm", "dom0", "uuid:00000000-0000-0000-0000-000000000000"])
        func aServiceOfDom0RunsWithItsCallInTheEnvironment(target: String) throws {
            try scene.policy { _ in allow(target, user: "joe", requested: "@adminvm") }
            try scene.install(
                "test.Service",
                """
                echo "$# $1 $QREXEC_SERVICE_FULL_NAME $QREXEC_REMOTE_DOMAIN" \\
                    "$QREXEC_REQUESTED_TARGET_TYPE $QREXEC_REQUESTED_TARGET_KEYWORD" \\
                    "${QREXEC_REQUESTED_TARGET-none} $QREXEC_SERVICE_ARGUMENT"
                cat; exit 9
                """)
            let (agent, _) = try scene.daemon()
            let data = try callDom0(agent)
            #expect(try data.message() == message(0x192, []), "it has no standard error to send")
            try data.send(message(0x190, Array("input\n".utf8)) + message(0x190, []))
            let text = "1 arg test.Service+arg source keyword adminvm none arg\ninput\n"
            #expect(
                try messages(data, ending: 0x193)
                    == [.init(0x191, Array(text.utf8)), .init(0x191, []), .init(0x193, little(9))])
            #expect(data.isClosed())
            try agent.send(place(0x211, 0, 513))
            // The port is free again.
            let second = try callDom0(agent)
            withExtendedLifetime(second) {}
        }

        @Test(arguments: [("kill -9 $$", 137), ("exit 200", 200)] as [(String, UInt32)])
        func itsEndIsTold(script: String, status: UInt32) throws {
            try scene.policy { _ in allow("dom0") }
            try scene.install("test.Service", script)
            let (agent, _) = try scene.daemon()
            let data = try callDom0(agent)
            #expect(
                try messages(data, ending: 0x193)
                    == [.init(0x192, []), .init(0x191, []), .init(0x193, little(status))])
        }

        @Test func aServiceThatIsNotThereIs127AndABrokenOne125() throws {
            try scene.policy { _ in allow("dom0") }
            try scene.install("test.Broken", "exit 0")
            try "no\n".write(
                toFile: "\(scene.directory)/config/test.Broken", atomically: false,
                encoding: .utf8)
            let (agent, _) = try scene.daemon()
            for (port, (service, status)) in [("test.None", 127), ("test.Broken", 125)].enumerated()
            {
                let data = try callDom0(agent, service: service, port: 513 + UInt32(port))
                #expect(
                    try messages(data, ending: 0x193)
                        == [
                            .init(0x192, []), .init(0x191, []),
                            .init(0x193, little(UInt32(status))),
                        ])
            }
        }

        @Test func aSocketServiceIsToldTheCall() throws {
            try scene.policy { _ in allow("dom0", requested: "dom0") }
            let service = try Listener("\(scene.directory)/services/test.Socket")
            let (agent, _) = try scene.daemon()
            let data = try callDom0(agent, service: "test.Socket")
            let peer = try service.accept()
            let words = Array("test.Socket+ source name dom0".utf8) + [0]
            #expect(try peer.receive(words.count) == words)
            #expect(try data.message() == message(0x192, []))
            try data.send(message(0x190, [1, 2, 3]))
            #expect(try peer.receive(3) == [1, 2, 3])
            try peer.send([4, 5])
            #expect(try data.message() == message(0x191, [4, 5]))
            try data.send(message(0x190, []))
            #expect(peer.isClosed())
            peer.endSending()
            #expect(
                try messages(data, ending: 0x193)
                    == [.init(0x191, []), .init(0x193, little(0))])
        }

        @Test func itMayWaitForTheSession() throws {
            try scene.policy { _ in allow("dom0") }
            try "wait-for-session=true\n".write(
                toFile: "\(scene.directory)/config/test.Service", atomically: false,
                encoding: .utf8)
            try scene.install("qubes.WaitForSession", "sleep 0.2; touch \(scene.directory)/waited")
            try scene.install("test.Service", "test -e \(scene.directory)/waited")
            let (agent, _) = try scene.daemon()
            let data = try callDom0(agent)
            #expect(try messages(data, ending: 0x193).last == .init(0x193, little(0)))
        }

        @Test func theCallersErrorOutputAndExitCodeAreIgnored() throws {
            try scene.policy { _ in allow("dom0") }
            try scene.install("test.Service", "cat")
            let (agent, _) = try scene.daemon()
            let data = try callDom0(agent)
            try data.send(
                message(0x192, Array("x".utf8)) + message(0x193, little(5))
                    + message(0x190, Array("y".utf8)) + message(0x190, []))
            #expect(
                try messages(data, ending: 0x193)
                    == [
                        .init(0x192, []), .init(0x191, Array("y".utf8)), .init(0x191, []),
                        .init(0x193, little(0)),
                    ])
        }

        @Test(arguments: [(2, 4096), (3, 65536)] as [(UInt32, Int)])
        func noMessageIsLongerThanTheCallersVersionAllows(version: UInt32, limit: Int) throws {
            try scene.policy { _ in allow("dom0") }
            try scene.install("test.Service", "head -c 300000 /dev/zero")
            let (agent, _) = try scene.daemon()
            let data = try callDom0(agent, version: version)
            let all = try messages(data, ending: 0x193)
            #expect(all.allSatisfy { $0.body.count <= limit })
            #expect(all.map(\.body.count).reduce(0, +) == 300_004)
            // A longer one from the caller ends the channel.
            let second = try callDom0(agent, port: 514, version: version)
            try second.send(little(0x190) + little(UInt32(limit) + 1))
            _ = second.rest()
        }

        @Test func aServiceWhoseCallerIsGoneEnds() throws {
            try scene.policy { _ in allow("dom0") }
            let sleeper = try Sleeper("test.Service", in: scene)
            let (agent, _) = try scene.daemon()
            do {
                let data = try callDom0(agent)
                _ = try data.message()
                try sleeper.waitForStart()
            }
            try sleeper.waitForEnd()
        }
    }
}

/// A message on a data channel.
struct DataMessage: Equatable {
    var type: UInt32
    var body: [UInt8]
    init(_ type: UInt32, _ body: [UInt8]) {
        self.type = type
        self.body = body
    }
}

/// The messages up to the first of a type; data that came in pieces is put together.
func messages(_ peer: Peer, ending: UInt32) throws -> [DataMessage] {
    var all: [DataMessage] = []
    while true {
        let bytes = try peer.message()
        let type = UInt32(bytes[0]) | UInt32(bytes[1]) << 8
        let next = DataMessage(type, Array(bytes[8...]))
        if let last = all.last, last.type == type, !last.body.isEmpty, !next.body.isEmpty,
            last.body.count + next.body.count < 4096
        {
            all[all.count - 1].body += next.body
        } else {
            all.append(next)
        }
        if type == ending { return all }
    }
}

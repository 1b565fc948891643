import Foundation
import Glibc
import Testing

extension Dom0Programs {
    /// An agent in the hands of an attacker: what it sends costs it its channel or that call, and
    /// nobody else anything.
    @Suite struct HostileAgent {
        let scene: Scene
        init() throws { scene = try Scene() }

        /// The daemon still serves: a local client, and the agent when it comes back.
        private func stillServes(_ listener: Listener) throws {
            let agent = try listener.accept()
            try agent.greet()
            try eventually("it listens again") { access(scene.socket("42"), F_OK) == 0 }
            let client = try scene.client()
            try client.send(exec(0, 0, "user:true"))
            let answer = try client.message()
            #expect(answer.count == 16)
            #expect(try agent.message().suffix(10) == Array("user:true".utf8) + [0])
        }

        private func start() throws -> (Listener, Peer, Running) {
            let listener = try scene.controlListener()
            let process = try scene.startDaemon()
            let agent = try listener.accept()
            try agent.greet()
            try scene.waitForSockets()
            return (listener, agent, process)
        }

        static let beginnings: [[UInt8]] = [
            [], Array(trigger().prefix(4)), Array(trigger().prefix(8)), Array(trigger().dropLast()),
            Array(place(0x211, 0, 513).prefix(9)),
        ]

        @Test(arguments: beginnings)
        func aMessageThatNeverEndsHoldsUpNobody(bytes: [UInt8]) throws {
            let (listener, agent, process) = try start()
            try agent.send(bytes)
            let client = try scene.client()
            try client.send(exec(0, 0, "user:true"))
            #expect(try client.message() == place(0x200, 42, 513))
            #expect(try agent.message() == exec(0, 513, "user:true"))
            withExtendedLifetime((listener, process)) {}
        }

        @Test(arguments: 0..<16)
        func randomBytesEndTheChannelOnly(seed: UInt64) throws {
            let (listener, _, process) = try { () -> (Listener, Int, Running) in
                let (listener, agent, process) = try start()
                var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
                let bytes = (0..<4096).map { _ -> UInt8 in
                    state ^= state << 13
                    state ^= state >> 7
                    state ^= state << 17
                    return UInt8(truncatingIfNeeded: state)
                }
                try? agent.send(bytes)
                #expect(agent.isClosed())
                return (listener, 0, process)
            }()
            try stillServes(listener)
            #expect(!process.hasEnded)
        }

        @Test func aFloodOfRequestsIsAnsweredEachAndBounded() throws {
            try scene.policy { _ in "result=deny\n" }
            let (listener, agent, process) = try start()
            var flood: [UInt8] = []
            for number in 0..<1000 { flood += trigger(ident: "f\(number)") }
            let sender = Thread { [flood] in try? agent.send(flood) }
            sender.start()
            var answered: Set<[UInt8]> = []
            for _ in 0..<1000 { answered.insert(try agent.message()) }
            #expect(answered == Set((0..<1000).map { refused("f\($0)") }))
            withExtendedLifetime((listener, process)) {}
        }

        @Test func moreThan256RequestsThatWaitAreRefusedAtOnce() throws {
            let gate = DispatchSemaphore(value: 0)
            try scene.policy { _ in
                gate.wait()
                gate.signal()
                return "result=deny\n"
            }
            let (listener, agent, process) = try start()
            for number in 0..<300 { try agent.send(trigger(ident: "w\(number)")) }
            for number in 256..<300 { #expect(try agent.message() == refused("w\(number)")) }
            #expect(agent.isQuiet())
            // Others are served meanwhile.
            let client = try scene.client()
            try client.send(exec(0, 0, "user:true"))
            #expect(try client.message() == place(0x200, 42, 513))
            #expect(try agent.message() == exec(0, 513, "user:true"))
            gate.signal()
            withExtendedLifetime((listener, process)) {}
        }

        @Test func anIdentInUseIsRefusedAndTheFirstKeepsItsAnswer() throws {
            try scene.policy {
                if $0.contains("a.Slow") { usleep(300_000) }
                return $0.contains("a.Slow") ? allow("target") : "result=deny\n"
            }
            let target = try scene.targetDaemon("target")
            let (listener, agent, process) = try start()
            try agent.send(trigger(service: "a.Slow") + trigger(service: "a.Other"))
            #expect(try agent.message() == refused("SOCKET7"))
            let call = try target.accept()
            try call.greet(3, answer: 3)
            _ = try call.message()
            try call.send(place(0x200, 7, 530))
            #expect(try agent.message() == serviceConnect(7, 530, "SOCKET7"))
            withExtendedLifetime((listener, process)) {}
        }

        @Test func lyingAboutTheEndOfCallsFreesNoOthersPorts() throws {
            let (listener, agent, process) = try start()
            let client = try scene.client()
            try client.send(exec(7, 0, "user:true"))
            #expect(try client.message() == place(0x200, 42, 513))
            _ = try agent.message()
            for domain in [0, 1, 6, 8, 42, .max] as [UInt32] {
                for port in 513...768 { try agent.send(place(0x211, domain, UInt32(port))) }
            }
            for port in 514...768 { try agent.send(place(0x211, 7, UInt32(port))) }
            #expect(client.isQuiet())
            try agent.send(place(0x211, 7, 513))
            #expect(client.isClosed())
            withExtendedLifetime((listener, process)) {}
        }

        @Test func anAgentThatReadsNothingIsGivenUpAndMemoryStaysBounded() throws {
            let (listener, _, process) = try { () -> (Listener, Int, Running) in
                let (listener, agent, process) = try start()
                // Each is refused with 40 bytes that are never read.
                let flood = trigger(service: "+") + trigger(service: "+x")
                let sender = Thread {
                    for _ in 0..<100_000 {
                        do { try agent.send(flood) } catch { return }
                    }
                }
                sender.start()
                try eventually("the daemon gives it up") { sender.isFinished }
                return (listener, 0, process)
            }()
            let status = try String(
                contentsOfFile: "/proc/\(process.pid)/status", encoding: .utf8)
            #expect(
                !process.hasEnded,
                "\(String(decoding: process.errors.rest().suffix(600), as: UTF8.self))")
            let line = try #require(
                status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") })
            let size = try #require(Int(line.filter(\.isNumber)))
            #expect(size < 32 * 1024, "\(line)")
            try stillServes(listener)
        }

        @Test func comingAndGoingLeavesNothing() throws {
            let (listener, first, process) = try start()
            func descriptors() throws -> Int {
                try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process.pid)/fd").count
            }
            _ = consume first
            var before = 0
            for round in 0..<20 {
                let agent = try listener.accept()
                try agent.greet()
                try eventually("it listens") { access(scene.socket("42"), F_OK) == 0 }
                try agent.send(trigger(ident: "r\(round)"))
                #expect(try agent.message() == refused("r\(round)"))
                if round == 2 { before = try descriptors() }
                if round > 2 {
                    try eventually("descriptors are as before") { try descriptors() == before }
                }
            }
        }
    }

    /// A data channel in the hands of an attacker: a call to dom0 whose caller is hostile.
    @Suite struct HostileCaller {
        let scene: Scene
        init() throws { scene = try Scene() }

        @Test(arguments: [
            message(0x999, []), message(0x300, little(4)), message(0x200, little(0)),
            little(0x190) + little(.max), little(0x191) + little(65537), place(0x211, 0, 513),
        ])
        func whatNoCallerSendsEndsThatCallOnly(bytes: [UInt8]) throws {
            try scene.policy { _ in allow("dom0") }
            try scene.install("test.Service", "cat >/dev/null; sleep 100")
            let (agent, process) = try scene.daemon()
            for port in [513, 514] as [UInt32] {
                let channel = try scene.vchan(server: 42, port)
                try agent.send(trigger(target: "dom0"))
                #expect(try agent.message() == serviceConnect(0, port, "SOCKET7"))
                let data = try channel.accept()
                try data.greet(3, answer: 4)
                try data.send(bytes)
                _ = data.rest()
            }
            #expect(!process.hasEnded)
            try agent.send(trigger(ident: "next"))
            _ = try agent.message()
        }

        @Test func oneThatNeverConnectsIsGivenUpAndItsServiceEnds() throws {
            try scene.policy { _ in allow("dom0") }
            let sleeper = try Sleeper("test.Service", in: scene)
            let (agent, process) = try scene.daemon()
            try agent.send(trigger(target: "dom0"))
            #expect(try agent.message() == serviceConnect(0, 513, "SOCKET7"))
            // It is started while the channel waits for its caller.
            try sleeper.waitForStart()
            try sleeper.waitForEnd()
            #expect(!process.hasEnded)
        }
    }
}

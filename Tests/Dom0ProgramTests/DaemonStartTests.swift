import Foundation
import Glibc
import Testing

/// All tests of this module, one after the other: they start many programs.
@Suite("Programs of dom0, driven over the socket transport", .serialized)
enum Dom0Programs {}

extension Dom0Programs {
    @Suite struct DaemonStart {
        let scene: Scene
        init() throws { scene = try Scene() }

        @Test(arguments: [(2, 2), (3, 3), (4, 4), (5, 4), (999, 4)] as [(UInt32, UInt32)])
        func theSmallerVersionIsAnswered(agents: UInt32, answer: UInt32) throws {
            let listener = try scene.controlListener()
            _ = try scene.startDaemon()
            let agent = try listener.accept()
            #expect(agent.isQuiet(), "the agent speaks first")
            try agent.send(hello(agents))
            #expect(try agent.message() == hello(answer))
        }

        @Test(arguments: [
            hello(1), hello(0), message(0x300, [4, 0]), message(0x300, little(4) + [0]),
            message(0x213, [4, 0, 0, 0]), little(0x300) + little(0x7FFF_FFFF),
            little(7) + little(4),
        ])
        func anAgentThatDoesNotGreetWellEndsTheStart(first: [UInt8]) throws {
            let listener = try scene.controlListener()
            let daemon = try scene.startDaemon()
            let agent = try listener.accept()
            try agent.send(first)
            #expect(agent.isClosed())
            #expect(try daemon.status() == 1)
            #expect(access(scene.socket("42"), F_OK) != 0)
        }

        @Test func socketsAreThereByNumberNameAndUUIDAndGoWithTheDaemon() throws {
            let (agent, process) = try scene.daemon()
            let names = ["42", "source", "uuid:\(Scene.uuid)"]
            for name in names {
                let client = try scene.client(name)
                withExtendedLifetime(client) {}
            }
            var status = stat()
            #expect(lstat(scene.socket("42"), &status) == 0)
            #expect(status.st_mode & S_IFMT == S_IFSOCK && status.st_mode & 0o777 == 0o666)
            for name in names.dropFirst() {
                #expect(
                    try FileManager.default.destinationOfSymbolicLink(
                        atPath: scene.socket(name)) == "qrexec.42")
            }
            process.signal(SIGTERM)
            #expect(try process.status() == 0)
            #expect(names.allSatisfy { access(scene.socket($0), F_OK) != 0 })
            #expect(agent.isClosed())
        }

        @Test func linksThatAKilledDaemonLeftAreReplaced() throws {
            for name in ["source", "uuid:\(Scene.uuid)"] {
                #expect(symlink("qrexec.41", scene.socket(name)) == 0)
            }
            let (agent, _) = try scene.daemon()
            let client = try scene.client("source")
            try client.send(exec(0x200, 0, 0, "user:x"))
            #expect(try agent.message() == exec(0x200, 0, 513, "user:x"))
        }

        @Test func withoutAnAgentTheStartEndsWithStatus3() throws {
            let daemon = try scene.startDaemon(environment: ["QREXEC_STARTUP_TIMEOUT=1"])
            #expect(try daemon.status() == 3)
        }

        @Test func inTheBackgroundTheParentWaitsForTheAgent() throws {
            let listener = try scene.controlListener()
            let arguments = ["-q", "--socket-dir=\(scene.directory)", "--", "42", "source"]
            let late = try scene.start(
                "qrexec-daemon", arguments, environment: ["QREXEC_STARTUP_TIMEOUT=1"])
            #expect(try late.status() == 3)
            let parent = try scene.start("qrexec-daemon", arguments)
            let agent = try listener.accept()
            // The first one's process has left its connection behind.
            let real = agent.isQuiet(milliseconds: 300) ? agent : try listener.accept()
            #expect(!parent.hasEnded)
            try real.greet()
            #expect(try parent.status() == 0)
            let client = try scene.client()
            kill(try client.processID(), SIGTERM)
            #expect(client.isClosed())
        }

        @Test(arguments: [
            [], ["0", "source"], ["42"], ["x", "source"], ["42", "../evil"], ["42", "a", "b", "c"],
            ["99999", "source"], ["--bogus", "42", "source"],
            ["--uuid=../evil", "42", "source"], ["--uuid=", "42", "source"],
        ])
        func wrongArgumentsAreToldWithStatus1(arguments: [String]) throws {
            let daemon = try scene.start("qrexec-daemon", arguments)
            #expect(try daemon.status() == 1)
            #expect(!daemon.errors.rest().isEmpty)
        }

        @Test func anAgentThatComesBackIsGreetedAnewAndSocketsAreMadeAgain() throws {
            let listener = try scene.controlListener()
            let process = try scene.startDaemon()
            let client = try leaveAfterOneCall(listener)
            #expect(client.isClosed())
            let agent = try listener.accept()
            try agent.greet(3)
            try scene.waitForSockets()
            // Version 3 now, and the port of before is still taken.
            try scene.policy { _ in "result=deny\n" }
            try agent.send(trigger(3))
            #expect(try agent.message() == refused("SOCKET7"))
            let second = try scene.client()
            try second.send(exec(0, 0, "user:true"))
            #expect(try second.message() == place(0x200, 42, 514))
            withExtendedLifetime(process) {}
        }

        private func leaveAfterOneCall(_ listener: Listener) throws -> Peer {
            let agent = try listener.accept()
            try agent.greet(4)
            try scene.waitForSockets()
            let client = try scene.client()
            try client.send(exec(0, 0, "user:true"))
            #expect(try client.message() == place(0x200, 42, 513))
            #expect(try agent.message() == exec(0, 513, "user:true"))
            return client
        }
    }
}

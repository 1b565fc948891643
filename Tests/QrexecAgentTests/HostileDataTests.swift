import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

/// A peer on a data channel that breaks the rules: its call ends, others go on (5.4, QSB-087).
@Suite struct HostileCallers {
    @Test(arguments: [
        encoded(.hello, little(1)), encoded(.hello, []), encoded(.hello, little(4) + [1]),
        encoded(.dataStdin, bytes("early")), little(0x300) + little(0x7FFF_FFFF),
        little(1) + little(0),
    ])
    func aBadGreetingEndsTheCall(_ stream: [UInt8]) throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat")
        let dom0 = try scene.dom0()
        let listener = try scene.dataListener()
        try dom0.send(
            .execCommandLine, scene.place() + scene.command("QUBESRPC s domX"))
        let data = try listener.accept()
        try data.send(raw: stream)
        #expect(try data.streams().status == nil)
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        #expect(try scene.service(dom0, "s").status == 0)
    }

    @Test(arguments: [
        little(0x190) + little(65537), little(0x190) + little(0xFFFF_FFFF), little(0) + little(0),
        encoded(.hello, little(4)), encoded(.execCommandLine, pattern(20)),
        encoded(.connectionTerminated, pattern(8)), encoded(.triggerService4, pattern(170)),
        little(0x192) + little(65537), little(0x193) + little(65537),
    ])
    func aBrokenRuleEndsTheCallWithoutAStatus(_ stream: [UInt8]) throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        try data.send(.dataStdin, bytes("x"))
        #expect(try data.message() == Message(.dataStdout, bytes("x")))
        try data.send(raw: stream)
        #expect(try data.streams().status == nil)
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        #expect(try scene.service(dom0, "s").status == 0)
    }

    @Test func aVersion2PeerMayNotSendLongMessages() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX", version: 2)
        try data.send(.dataStdin, pattern(4096))
        #expect(try data.message() == Message(.dataStdout, pattern(4096)))
        try data.send(.dataStdin, pattern(4097))
        #expect(try data.streams().status == nil)
    }

    @Test func whatIsNotACallersToSayIsIgnored() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat; echo err >&2")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        try data.send(.dataStderr, bytes("forged log line\n"))
        try data.send(.dataExitCode, little(77))
        try data.send(.dataExitCode, [])
        try data.send(.dataStderr)
        try data.send(.dataStdin, bytes("a"))
        // The other data type counts as data.
        try data.send(.dataStdout, bytes("b"))
        try data.send(.dataStdin)
        let streams = try data.streams()
        #expect(streams.text == "ab" && streams.errorText == "err\n" && streams.status == 0)
        #expect(!scene.log("qrexec-agent").contains("forged"))
    }

    @Test func aCallerThatDoesNotReadHoldsUpNobody() throws {
        let scene = try AgentScene()
        try scene.makeService("zero", "exec cat /dev/zero")
        try scene.makeService("s", "cat")
        let dom0 = try scene.dom0()
        let stuck = try scene.execute(dom0, "QUBESRPC zero domX", port: 515)
        usleep(100_000)
        #expect(try scene.service(dom0, "s", input: bytes("on")).text == "on")
        stuck.close()
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place(515)))
    }

    @Test func aServiceThatDoesNotReadHoldsUpNobody() throws {
        let scene = try AgentScene()
        try scene.makeService("deaf", "exec sleep 1000")
        try scene.makeService("s", "cat")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC deaf domX", port: 515)
        for _ in 0..<4 { try data.send(.dataStdin, pattern(65536)) }
        #expect(try scene.service(dom0, "s", input: bytes("on")).text == "on")
        data.close()
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place(515)))
    }

    @Test func aCutMessageIsTheEndOfTheCall() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat >\(scene.path)/got; echo $? >\(scene.path)/status")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        try data.send(raw: little(0x190) + little(100) + bytes("half"))
        data.close()
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
    }

    @Test func oneByteAtATimeIsAsGoodAsAll() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        for byte in encoded(.dataStdin, bytes("slow")) + encoded(.dataStdin, []) {
            try data.send(raw: [byte])
        }
        let streams = try data.streams()
        #expect(streams.text == "slow" && streams.isComplete && streams.status == 0)
    }
}

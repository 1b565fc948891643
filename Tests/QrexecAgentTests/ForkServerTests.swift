import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

/// Calls that a user's fork server runs (9).
@Suite struct ForkServers {
    private func header(_ type: UInt32, _ length: Int, port: UInt32 = 513) -> [UInt8] {
        little(type) + little(Scene.peer) + little(port) + little(UInt32(length))
    }

    @Test func theAgentHandsACallOverAndReportsItsEnd() throws {
        let scene = try AgentScene(forkServer: "fork.%s")
        let server = try Listener("\(scene.path)/fork.\(scene.user.name)")
        let dom0 = try scene.dom0()
        for (text, type) in [
            ("QUBESRPC s+a domX", MessageType.execCommandLine), ("echo x", .justExec),
        ] {
            try dom0.send(type, scene.place() + scene.command(text))
            let connection = try server.accept()
            let command = bytes(text) + [0]
            #expect(
                try connection.receive(16 + command.count)
                    == header(type.rawValue, command.count) + command)
            #expect(try dom0.isSilent())
            connection.close()
            #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        }
    }

    @Test func whatAForkServerCannotDoTheAgentDoes() throws {
        let scene = try AgentScene(forkServer: "fork")
        let server = try Listener("\(scene.path)/fork")
        try scene.makeService("s", "echo service")
        try scene.make("config/s", "exit-on-client-eof=true")
        let dom0 = try scene.dom0()
        #expect(try scene.call(dom0, "nogui:echo here").text == "here\n")
        #expect(try scene.service(dom0, "s").text == "service\n")
        #expect(try server.isLeftAlone(milliseconds: 20))
        try FileStatus.remove(server.path)
        #expect(try scene.call(dom0, "echo without").text == "without\n")
    }

    @Test func servicesInheritTheServersSession() throws {
        let scene = try AgentScene(forkServer: "fork")
        scene.extra = ["DESKTOP=of the session"]
        try scene.makeService(
            "s", "echo \"$DESKTOP:$1:$QREXEC_REMOTE_DOMAIN:$QREXEC_SERVICE_FULL_NAME\"; cat; exit 3"
        )
        let socket = "\(scene.path)/fork"
        #expect(try scene.start("qrexec-fork-server", [socket]).status() == 0)
        // It is there when the command returns.
        #expect(PathStatus.exists(socket))
        scene.extra = []
        let dom0 = try scene.dom0()
        let streams = try scene.service(dom0, "s+x", input: bytes("in"))
        #expect(streams.text == "of the session:x:domX:s+x\nin" && streams.status == 3)
        #expect(try scene.call(dom0, "echo $DESKTOP").text == "of the session\n")
        #expect(try scene.service(dom0, "none").status == 127)
        let server = try waitFor("its process") { processListening(socket) }
        kill(server, SIGTERM)
        try wait(until: "its socket is gone") { !PathStatus.exists(socket) }
        #expect(try scene.call(dom0, "echo ${DESKTOP-none}").text == "none\n")
    }

    private func processListening(_ socket: String) -> Int32? {
        process("qrexec-fork-server", argument: socket)
    }

    @Test(arguments: [
        little(0x200) + little(43) + little(513) + little(0),
        little(0x200) + little(43) + little(513) + little(65536),
        little(0x213) + little(43) + little(513) + little(2) + [0x78, 0],
        little(0x200) + little(43) + little(513) + little(2) + [0x78, 0x78],
        little(0x200) + little(43) + little(513) + little(3) + [0x78, 0, 0],
        little(0x200) + little(0xFFFF) + little(513) + little(2) + [0x78, 0],
    ])
    func aBadRequestIsDropped(_ stream: [UInt8]) throws {
        let scene = try AgentScene(forkServer: "fork")
        let socket = "\(scene.path)/fork"
        #expect(try scene.start("qrexec-fork-server", [socket]).status() == 0)
        let bad = try Peer.connected(to: socket)
        try bad.send(raw: stream)
        #expect(try bad.receiveToEnd() == [])
        let dom0 = try scene.dom0()
        #expect(try scene.call(dom0, "echo on").text == "on\n")
        if let pid = processListening(socket) { kill(pid, SIGTERM) }
        try wait(until: "its socket is gone") { !PathStatus.exists(socket) }
    }
}

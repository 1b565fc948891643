import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

/// Services that listen already, and the settings of services (10, 11).
@Suite struct SocketServices {
    @Test func aSocketServiceIsToldWhoCallsThenGetsTheData() throws {
        let scene = try AgentScene()
        let listener = try Listener("\(scene.path)/rpc/my.Socket")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC my.Socket+arg domX")
        let service = try listener.accept()
        #expect(try data.message() == Message(.dataStderr))
        let header = bytes("my.Socket+arg domX") + [0]
        #expect(try service.receive(header.count) == header)
        try data.send(.dataStdin, bytes("in"))
        #expect(try service.receive(2) == bytes("in"))
        try service.send(raw: bytes("out"))
        #expect(try data.message() == Message(.dataStdout, bytes("out")))
        try data.send(.dataStdin)
        #expect(try service.receiveToEnd() == [])
        try service.send(raw: bytes("more"))
        service.close()
        let streams = try data.streams()
        #expect(streams.text == "more" && streams.outputEnded && streams.status == 0)
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
    }

    @Test func aSocketServiceThatEndsFirstWaitsForTheCallersEnd() throws {
        let scene = try AgentScene()
        let listener = try Listener("\(scene.path)/rpc/s")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s+ domX name y")
        let service = try listener.accept()
        let header = bytes("s+ domX name y") + [0]
        #expect(try service.receive(header.count) == header)
        service.endWriting()
        #expect(try data.message() == Message(.dataStderr))
        #expect(try data.message() == Message(.dataStdout))
        #expect(try data.isSilent())
        try data.send(.dataStdin, bytes("late"))
        try data.send(.dataStdin)
        #expect(try service.receiveToEnd() == bytes("late"))
        #expect(try data.streams().status == 0)
    }

    @Test(arguments: [
        ("skip-service-descriptor=true", "exit-on-client-eof=true"),
        ("skip-service-descriptor = true # x\r\nexit-on-client-eof = true", ""),
    ])
    func theCallersEndEndsTheCallWhereTheServiceSaysSo(_ one: String, _ two: String) throws {
        let scene = try AgentScene()
        try scene.make("config/s", one + "\n" + two)
        let listener = try Listener("\(scene.path)/rpc/s")
        let data = try scene.execute(try scene.dom0(), "QUBESRPC s+a domX")
        let service = try listener.accept()
        try data.send(.dataStdin, bytes("only this"))
        #expect(try service.receive(9) == bytes("only this"))
        try data.send(.dataStdin)
        let streams = try data.streams()
        #expect(streams.isComplete && streams.status == 0)
        #expect(try service.receiveToEnd() == [])
    }

    @Test func theServicesEndEndsTheCallWhereTheServiceSaysSo() throws {
        let scene = try AgentScene()
        try scene.make("config/s+a", "exit-on-service-eof=true\n")
        try scene.make("config/s", "broken")
        let listener = try Listener("\(scene.path)/rpc/s")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s+a domX")
        let service = try listener.accept()
        try service.send(raw: bytes("answer"))
        service.endWriting()
        let streams = try data.streams()
        #expect(streams.text == "answer" && streams.isComplete && streams.status == 0)
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
    }

    @Test(arguments: [
        "nonsense", "wait-for-session=2", "force-user=''", "skip-service-descriptor='x'",
        "exit-on-client-eof=1", "wait-for-session=0\nwait-for-session=0", "\"x\"=1", " x=1",
        "force-user='u'\nexit-on-client-eof=true",
    ])
    func brokenSettingsFailTheCall(_ text: String) throws {
        let scene = try AgentScene()
        try scene.makeService("s", "echo no")
        try scene.make("config/s", text)
        let streams = try scene.service(try scene.dom0(), "s")
        #expect(streams.isComplete && streams.status == 125 && streams.output.isEmpty)
    }

    @Test func settingsThatCannotBeReadFailTheCallAtOnce() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "echo no")
        #expect(mkfifo("\(scene.path)/config/s", 0o666) == 0)
        let dom0 = try scene.dom0()
        #expect(try scene.service(dom0, "s").status == 125)
        try FileStatus.remove("\(scene.path)/config/s")
        try scene.make("config/s", "unknown.key = 'kept out'\n# comment\nexit-on-client-eof=true")
        // For sockets only: an executable is not hurt.
        #expect(try scene.service(dom0, "s").text == "no\n")
        #expect(scene.log("qrexec-agent").contains("unknown key"))
    }

    @Test func aForcedUserReplacesTheCallers() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "id -un")
        try scene.make("config/s", "force-user='\(scene.user.name)'")
        let dom0 = try scene.dom0()
        #expect(
            try scene.call(dom0, "QUBESRPC s domX", user: "somebody").text
                == scene.user.name + "\n")
        try scene.make("config/s", "force-user='somebody'")
        #expect(try scene.service(dom0, "s").status == 125)
    }

    @Test func aSocketThatRefusesIsAProblem() throws {
        let scene = try AgentScene()
        do {
            let listener = try UnixSocket.listen("\(scene.path)/rpc/s", mode: 0o666)
            _ = consume listener
        }
        let dom0 = try scene.dom0()
        let streams = try scene.service(dom0, "s")
        #expect(streams.isComplete && streams.status == 125)
    }

    @Test func justExecConnectsAndSaysWhoCalls() throws {
        let scene = try AgentScene()
        let listener = try Listener("\(scene.path)/rpc/s")
        let dom0 = try scene.dom0()
        let streams = try scene.call(dom0, "QUBESRPC s+a domX", type: .justExec)
        #expect(streams.order == [.dataExitCode] && streams.status == 0)
        #expect(try listener.accept().receiveToEnd() == bytes("s+a domX") + [0])
    }

    @Test func allFormsOfTCPServicesConnect() throws {
        let scene = try AgentScene()
        let tcp = try TCPListener()
        let dom0 = try scene.dom0()
        for (name, target, descriptor) in [
            ("fixed", "/dev/tcp/127.0.0.1/\(tcp.port)", "fixed"),
            ("port", "/dev/tcp/127.0.0.1", "port+\(tcp.port)"),
            ("any", "/dev/tcp", "any+127.0.0.1+\(tcp.port)"),
        ] {
            try FileStatus.makeLink("\(scene.path)/rpc/\(name)", to: target)
            let data = try scene.execute(dom0, "QUBESRPC \(descriptor) domX")
            let service = try tcp.accept()
            let header = bytes("\(descriptor) domX") + [0]
            #expect(try service.receive(header.count) == header)
            try data.send(.dataStdin, bytes("ping"))
            try data.send(.dataStdin)
            #expect(try service.receiveToEnd() == bytes("ping"))
            try service.send(raw: bytes("pong"))
            service.close()
            let streams = try data.streams()
            #expect(streams.text == "pong" && streams.isComplete && streams.status == 0)
            #expect(try dom0.message() != nil)
        }
        for wrong in ["fixed+1", "port", "port+0", "port+http", "any", "any+1", "any+a_b+1"] {
            #expect(try scene.service(dom0, wrong).status == 125, "\(wrong)")
        }
    }

    @Test func callsWaitForTheUsersSession() throws {
        let scene = try AgentScene()
        try scene.makeService(
            "qubes.WaitForSession",
            """
            cat >\(scene.path)/asked.$$; mv \(scene.path)/asked.$$ \(scene.path)/asked
            echo "$QREXEC_REMOTE_DOMAIN" >>\(scene.path)/waits
            while [ ! -e \(scene.path)/there ]; do sleep 0.02; done; exit 1
            """)
        try scene.make("config/gui", "wait-for-session=1\n")
        try scene.makeService("gui", "echo gui")
        try scene.makeService("plain", "echo plain")
        let dom0 = try scene.dom0()
        let listeners = try [scene.dataListener(513), scene.dataListener(515)]
        for port in [513, 515] as [UInt32] {
            try dom0.send(
                .execCommandLine, scene.place(port) + scene.command("QUBESRPC gui domX"))
        }
        // Others go on meanwhile, and so does the same service outside of the session.
        #expect(try scene.call(dom0, "QUBESRPC plain domX", port: 517).text == "plain\n")
        #expect(try scene.call(dom0, "nogui:QUBESRPC gui domX", port: 519).text == "gui\n")
        try wait(until: "the session was asked for") {
            PathStatus.exists("\(scene.path)/asked") && PathStatus.exists("\(scene.path)/waits")
        }
        #expect(try scene.text(of: "asked") == scene.user.name + "\n")
        #expect(try listeners[0].isLeftAlone())
        try scene.make("there", "")
        for listener in listeners {
            let data = try listener.accept()
            try data.send(.hello, little(4))
            #expect(try data.streams().text == "gui\n")
        }
        #expect(try scene.text(of: "waits") == "dom0\n")
    }
}

/// A listening TCP socket on the loopback.
final class TCPListener {
    private let descriptor: Descriptor
    let port: UInt16

    init() throws {
        descriptor = Descriptor(
            taking: socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let number = descriptor.number
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(number, $0, length) == 0 && listen(number, 8) == 0
                    && getsockname(number, $0, &length) == 0
            }
        }
        guard bound else { throw Gone("no TCP socket") }
        port = UInt16(bigEndian: address.sin_port)
    }

    func accept() throws -> Peer {
        guard try !poll(descriptor.number, .readable, milliseconds: patience).isEmpty else {
            throw Gone("nobody connects by TCP")
        }
        return Peer(Descriptor(taking: Glibc.accept(descriptor.number, nil, nil)))
    }
}

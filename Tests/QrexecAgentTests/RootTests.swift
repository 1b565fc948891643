import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

private let isRoot = CurrentProcess.effectiveUser == 0

/// An agent that is root: other users, login environments, PAM sessions (8).
@Suite(.enabled(if: isRoot, "only root may run services as another user")) struct RootAgents {
    @Test func withoutPAMAServiceRunsInItsUsersLoginEnvironment() throws {
        let scene = try AgentScene(["--no-fork-server", "--no-pam"], asRoot: true)
        scene.extra = ["OTHER=the agent's"]
        try scene.makeService(
            "s", "id -un; id -gn; echo \"$USER $LOGNAME $1 $QREXEC_REMOTE_DOMAIN ${OTHER-clean}\"")
        let dom0 = try scene.dom0()
        let streams = try scene.call(dom0, "QUBESRPC s+a domX", user: "nobody")
        #expect(streams.text == "nobody\nnogroup\nnobody nobody a domX clean\n")
        #expect(streams.status == 0)
        #expect(try scene.call(dom0, "id -un", user: "root").text == "root\n")
        let unknown = try scene.call(dom0, "id", user: "no-such-user")
        #expect(unknown.isComplete && unknown.status == 125)
        try scene.make("config/s", "force-user='root'")
        #expect(
            try scene.call(dom0, "QUBESRPC s domX", user: "nobody").text.hasPrefix("root\nroot\n"))
        #expect(scene.log("qrexec-agent").contains("no user 'no-such-user'"))
    }

    @Test func aServicesTextIsNeverPartOfAScript() throws {
        let scene = try AgentScene(["--no-fork-server", "--no-pam"], asRoot: true)
        try scene.makeService("s", "printf '%s|%s' \"$1\" \"$QREXEC_SERVICE_ARGUMENT\"")
        let dom0 = try scene.dom0()
        let argument = "$(touch${IFS}x);`id`;\"'--\\"
        #expect(
            try scene.call(dom0, "QUBESRPC s+\(argument) domX", user: "root").text
                == "\(argument)|\(argument)")
    }

    @Test func aPAMSessionIsOpenAsLongAsItsCall() throws {
        let scene = try PAMScene(
            """
            auth required pam_permit.so
            session required pam_env.so envfile=/dev/null conffile=DIR/pam_env.conf
            session required pam_exec.so DIR/session
            """)
        let dom0 = try scene.dom0()
        try scene.makeService("s", "echo \"$(id -un) $USER $FROM_PAM\"; cat; exit 6")
        let data = try scene.execute(dom0, "QUBESRPC s domX", user: "nobody")
        #expect(try data.message() == Message(.dataStdout, bytes("nobody nobody value\n")))
        #expect(try scene.text(of: "sessions") == "open_session nobody qrexec\n")
        try data.send(.dataStdin, bytes("in"))
        try data.send(.dataStdin)
        let streams = try data.streams()
        #expect(streams.text == "in" && streams.isComplete && streams.status == 6)
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        #expect(
            try scene.text(of: "sessions")
                == "open_session nobody qrexec\nclose_session nobody qrexec\n")
        #expect(try scene.call(dom0, "echo $0; kill -9 $$", user: "root").status == 137)
        #expect(try scene.call(dom0, "true", user: "no-such-user").status == 125)
    }

    @Test func aCallerThatLeavesEndsTheProgramAndTheSession() throws {
        let scene = try PAMScene(
            "auth required pam_permit.so\nsession required pam_exec.so DIR/session")
        let dom0 = try scene.dom0()
        try scene.makeService("s", "echo $$; exec sleep 1000")
        let data = try scene.execute(dom0, "QUBESRPC s domX", user: "nobody")
        let text = String(decoding: try #require(try data.message()).body.dropLast(), as: UTF8.self)
        let pid = try #require(Int32(text))
        data.close()
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        #expect(kill(pid, 0) != 0)
        #expect(try scene.text(of: "sessions").hasSuffix("close_session nobody qrexec\n"))
    }

    @Test func aHangUpWhileTheSessionIsBeingOpenedIsTheProgramsToo() throws {
        let scene = try PAMScene(
            "auth required pam_permit.so\nsession required pam_exec.so DIR/hang-up")
        try scene.make(
            "hang-up", "#!/bin/sh\n[ $PAM_TYPE != open_session ] || kill -HUP $PPID\n",
            mode: 0o755)
        let dom0 = try scene.dom0()
        try scene.makeService("s", ": >\(scene.path)/ran")
        let streams = try scene.call(dom0, "QUBESRPC s domX", user: "root")
        #expect(streams.status == 128 + SIGHUP)
        #expect(!PathStatus.exists("\(scene.path)/ran"))
    }

    @Test(arguments: [
        "auth required pam_deny.so", "auth required pam_permit.so\nsession required pam_deny.so",
        "auth required pam_no_such_module.so",
    ])
    func withoutAUsablePAMServiceACallIsRefusedAndLogged(_ text: String) throws {
        let scene = try PAMScene(text)
        let dom0 = try scene.dom0()
        let streams = try scene.call(dom0, "echo no", user: "nobody")
        #expect(streams.status == 125 && streams.isComplete && streams.output.isEmpty)
        #expect(scene.log("unshare").contains("PAM service \"qrexec\", user 'nobody'"))
    }
}

/// An agent that is root, with PAM services of the test's own.
final class PAMScene: AgentScene {
    init(_ text: String) throws {
        try super.init([], asRoot: true)
        let service = text.replacing("DIR", with: path)
        try PathStatus.makeDirectory("\(path)/pam.d", mode: 0o755)
        try make("pam.d/qrexec", service + "\n")
        try make("pam.d/other", "auth required pam_deny.so\n")
        try make("pam_env.conf", "FROM_PAM DEFAULT=value\n")
        try make(
            "session", "#!/bin/sh\necho \"$PAM_TYPE $PAM_USER $PAM_SERVICE\" >>\(path)/sessions\n",
            mode: 0o755)
    }

    override func launch(_ arguments: [String]) throws -> Running {
        let mount = "mount --bind \(path)/pam.d /etc/pam.d && exec \"$@\""
        return try start(
            program: "/usr/bin/unshare", "unshare",
            ["-m", "/bin/sh", "-c", mount, "sh", "\(path)/bin/qrexec-agent"] + arguments)
    }
}

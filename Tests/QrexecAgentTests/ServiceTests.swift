import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

/// Calls into the qube: what an executable service, a command and their caller see (5.4, 8, 10).
@Suite struct ServiceCalls {
    @Test func aServiceGetsItsArgumentSourceAndNothingOfTheAgents() throws {
        let scene = try AgentScene()
        scene.extra = ["QREXEC_STRAY=1", "QREXEC_REMOTE_DOMAIN=nobody", "OTHER=kept"]
        try scene.makeService(
            "my.Service", #"echo "$#:$1"; env | grep -E "^(QREXEC|OTHER)" | sort"#)
        let dom0 = try scene.dom0()
        let streams = try scene.service(dom0, "my.Service+a.b-c+d")
        #expect(streams.isComplete && streams.status == 0)
        let lines = streams.text.split(separator: "\n").map(String.init)
            .filter { !$0.hasPrefix("QREXEC_AGENT_PID=") }
        #expect(
            lines == [
                "1:a.b-c+d", "OTHER=kept", "QREXEC_REMOTE_DOMAIN=domX",
                "QREXEC_REQUESTED_TARGET_TYPE=", "QREXEC_SERVICE_ARGUMENT=a.b-c+d",
                "QREXEC_SERVICE_FULL_NAME=my.Service+a.b-c+d",
                "QREXEC_SERVICE_PATH=\(scene.path)/local-rpc:\(scene.path)/rpc",
            ])
    }

    @Test(arguments: [("s", "0::unset"), ("s+", "0::set"), ("s+x", "1:x:setx")])
    func anEmptyArgumentIsNotPassedOn(_ descriptor: String, _ expected: String) throws {
        let scene = try AgentScene()
        let variable = "${QREXEC_SERVICE_ARGUMENT+set}${QREXEC_SERVICE_ARGUMENT-unset}"
        try scene.makeService("s", "echo \"$#:$1:\(variable)\"")
        #expect(try scene.service(try scene.dom0(), descriptor).text == expected + "\n")
    }

    @Test func aRequestedTargetIsTold() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "env | grep REQUESTED | sort")
        let dom0 = try scene.dom0()
        #expect(
            try scene.call(dom0, "QUBESRPC s domX name targetY").text
                == "QREXEC_REQUESTED_TARGET=targetY\nQREXEC_REQUESTED_TARGET_TYPE=name\n")
        #expect(
            try scene.call(dom0, "QUBESRPC s domX keyword dispvm").text
                == "QREXEC_REQUESTED_TARGET_KEYWORD=dispvm\nQREXEC_REQUESTED_TARGET_TYPE=keyword\n")
    }

    @Test func inputComesBackAndTheEndsAreInOrder() throws {
        let scene = try AgentScene()
        try scene.makeService("cat", "cat; echo done >&2; exit 7")
        let streams = try scene.service(try scene.dom0(), "cat", input: pattern(65536))
        #expect(streams.output == pattern(65536))
        #expect(streams.errorText == "done\n")
        #expect(streams.status == 7 && streams.isComplete)
        #expect(streams.order.last == .dataExitCode)
    }

    @Test func aShellCommandRunsAsTheUserWithItsStatus() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        let streams = try scene.call(dom0, "id -un; echo no >&2; exit 3")
        #expect(streams.text == scene.user.name + "\n")
        #expect(streams.errorText == "no\n" && streams.status == 3)
        #expect(try scene.call(dom0, "nogui:echo x").text == "x\n")
    }

    @Test(arguments: [
        ("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255), ("/no/such/program", 127),
    ])
    func aStatusIsThatOfAShell(_ command: String, _ status: Int32) throws {
        let scene = try AgentScene()
        #expect(try scene.call(try scene.dom0(), command).status == status)
    }

    @Test(arguments: [
        ("QUBESRPC none domX", 127), ("QUBESRPC none+arg domX", 127), ("QUBESRPC plain domX", 125),
        ("QUBESRPC  domX", 125), ("QUBESRPC plain", 125), ("QUBESRPC", 125), ("QUBESRPCx y", 125),
        ("QUBESRPC s domX name", 125), ("QUBESRPC s domX other t", 125),
        ("QUBESRPC s domX name t u", 125), ("QUBESRPC gone domX", 127),
    ])
    func whatCannotBeStartedEndsWithItsCode(_ text: String, _ status: Int32) throws {
        let scene = try AgentScene()
        try scene.make("rpc/plain", "not executable")
        try scene.makeService("s", "echo no")
        try FileStatus.makeLink("\(scene.path)/rpc/gone", to: "/nowhere")
        let streams = try scene.call(try scene.dom0(), text)
        #expect(streams.isComplete && streams.status == status)
        #expect(streams.output.isEmpty && streams.error.isEmpty)
        #expect(streams.order == [.dataStdout, .dataStderr, .dataExitCode])
    }

    @Test func anotherUserOrNoneIsAProblem() throws {
        let scene = try AgentScene()
        let dom0 = try scene.dom0()
        #expect(try scene.call(dom0, "true", user: "root").status == 125)
        let listener = try scene.dataListener()
        try dom0.send(.execCommandLine, scene.place() + bytes("true") + [0])
        let data = try listener.accept()
        try data.send(.hello, little(4))
        #expect(try data.streams().status == 125)
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        #expect(scene.log("qrexec-agent").contains("names no user"))
    }

    @Test func aServiceOfAnEarlierDirectoryAndOfTheArgumentComesFirst() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "echo general")
        try scene.makeService("s+x", "echo special")
        try scene.makeService("s", "echo local", in: "local-rpc")
        let dom0 = try scene.dom0()
        #expect(try scene.service(dom0, "s+x").text == "special\n")
        #expect(try scene.service(dom0, "s+y").text == "local\n")
    }

    @Test func theCallersEndOfInputNeedNotCome() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "echo out")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        #expect(try data.streams().text == "out\n")
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
    }

    @Test func outputOfDescendantsIsForwardedAfterTheServiceEnded() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "(sleep 0.3; echo late) & exit 5")
        let streams = try scene.service(try scene.dom0(), "s")
        #expect(streams.text == "late\n" && streams.status == 5)
    }

    @Test func aClosedOutputIsToldWhileTheServiceGoesOn() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "exec >&-; cat >\(scene.path)/got; exit 4")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        #expect(try data.message() == Message(.dataStdout))
        try data.send(.dataStdin, bytes("still"))
        try data.send(.dataStdin)
        #expect(try data.streams().status == 4)
        #expect(try scene.text(of: "got") == "still")
    }

    @Test func afterTheServiceClosedItsInputDataIsDropped() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "exec <&-; echo closed; sleep 0.2; echo out")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        #expect(try data.message() == Message(.dataStdout, bytes("closed\n")))
        for _ in 0..<20 { try data.send(.dataStdin, pattern(65536)) }
        try data.send(.dataStdin)
        try data.send(.dataStdin)
        let streams = try data.streams()
        #expect(streams.text == "out\n" && streams.status == 0)
    }

    @Test func dataMessagesFitTheVersion() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "head -c 300000 /dev/zero")
        let dom0 = try scene.dom0()
        for (version, limit) in [(2, 4096), (3, 65536), (4, 65536), (9, 65536)] as [(UInt32, Int)] {
            let data = try scene.execute(dom0, "QUBESRPC s domX", version: version)
            let streams = try data.streams()
            #expect(streams.output.count == 300000 && streams.status == 0)
            #expect(streams.largest <= limit)
            #expect(try dom0.message()?.type == MessageType.connectionTerminated.rawValue)
        }
    }

    @Test func justExecTellsTheStartOnly() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "echo x >\(scene.path)/ran; sleep 0.1; exit 9")
        let dom0 = try scene.dom0()
        let started = try scene.call(dom0, "QUBESRPC s domX", type: .justExec)
        #expect(started.order == [.dataExitCode] && started.status == 0)
        try wait(until: "the service ran") { PathStatus.exists("\(scene.path)/ran") }
        #expect(try scene.call(dom0, "QUBESRPC none domX", type: .justExec).status == 127)
        #expect(try scene.call(dom0, "echo y >\(scene.path)/shell", type: .justExec).status == 0)
        try wait(until: "the command ran") { PathStatus.exists("\(scene.path)/shell") }
    }

    @Test func aServiceMayComeToItsEndWhenTheCallerLeaves() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat >/dev/null; sleep 0.2; echo done > \(scene.path)/end")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        data.close()
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        #expect(try scene.text(of: "end") == "done\n")
    }

    @Test func aCallerThatLeavesEndsTheService() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "echo $$; exec sleep 1000")
        let dom0 = try scene.dom0()
        let data = try scene.execute(dom0, "QUBESRPC s domX")
        let pid = try #require(
            Int32(String(decoding: try data.message()!.body.dropLast(), as: UTF8.self)))
        data.close()
        #expect(try dom0.message() == Message(.connectionTerminated, scene.place()))
        #expect(kill(pid, 0) != 0)
    }

    @Test func aServiceOnOneSocketSaysSo() throws {
        let scene = try AgentScene()
        try scene.makeService(
            "s", "kill -USR1 $QREXEC_AGENT_PID; exec 1>&-; sleep 0.1; cat >&0; echo end >&0")
        let dom0 = try scene.dom0()
        // Two at a time: their signals may come as one.
        let one = try scene.execute(dom0, "QUBESRPC s domX", port: 513)
        let two = try scene.execute(dom0, "QUBESRPC s domX", port: 515)
        for data in [one, two] {
            try data.send(.dataStdin, bytes("in\n"))
            try data.send(.dataStdin)
        }
        for data in [one, two] {
            let streams = try data.streams()
            #expect(streams.text == "in\nend\n" && streams.isComplete && streams.status == 0)
        }
    }

    @Test func standardErrorReachesTheCallerWholeAndUnchanged() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "head -c 100000 /dev/zero >&2; printf 'x\\033y' >&2")
        let streams = try scene.service(try scene.dom0(), "s")
        #expect(streams.error == [UInt8](repeating: 0, count: 100000) + [0x78, 0x1B, 0x79])
    }

    @Test func manyCallsRunAtATime() throws {
        let scene = try AgentScene()
        try scene.makeService("s", "cat")
        let dom0 = try scene.dom0()
        var channels: [(UInt32, Peer)] = []
        for index in 0..<64 {
            let port = 513 + UInt32(index)
            channels.append((port, try scene.execute(dom0, "QUBESRPC s domX", port: port)))
        }
        for (port, data) in channels {
            try data.send(.dataStdin, little(port))
            try data.send(.dataStdin)
        }
        for (port, data) in channels { #expect(try data.streams().output == little(port)) }
        var ended: Set<UInt32> = []
        for _ in channels { ended.insert(word(try #require(try dom0.message()).body, at: 4)) }
        #expect(ended == Set(channels.map(\.0)))
    }

    @Test("A place that dom0 gives anew is the new call's, not one's that still waits there")
    func placeGivenAgain() throws {
        let scene = try AgentScene()
        for name in ["old", "new"] {
            try scene.makeService(name, "touch \(scene.path)/\(name).began; echo \(name); cat")
        }
        let dom0 = try scene.dom0()
        for name in ["old", "new"] {
            // Nobody is there so far: both wait, one for a caller that a daemon has forgotten.
            let command = scene.command("QUBESRPC \(name) domX")
            try dom0.send(.execCommandLine, scene.place() + command)
            try wait(until: "\(name) runs") { access("\(scene.path)/\(name).began", F_OK) == 0 }
        }
        let data = try scene.dataListener().accept()
        #expect(try data.message() == Message(.hello, little(4)))
        try data.send(.hello, little(4))
        try data.send(.dataStdin)
        #expect(try data.streams().text == "new\n")
        // dom0 hears of one end at this place, and no other.
        try scene.execute(dom0, "QUBESRPC new domX", port: 515).close()
        let ends = try [dom0.message(), dom0.message()]
        #expect(ends == [513, 515].map { Message(.connectionTerminated, scene.place($0)) })
    }
}

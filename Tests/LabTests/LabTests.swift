import Glibc
import LinuxSystem
import SystemPackage
import Testing

@testable import QubesLab

private let oneQube = "default_qubes = false\n[qubes.work]\nlabel = \"blue\"\n"

@Suite("The lab as its users see it", .serialized)
struct LabTests {
    @Test("up connects every qube, status shows them, down leaves nothing", arguments: Starter.all)
    func upAndDown(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube + "[qubes.idle]\nautostart = false\n")
        let up = try lab.up()
        #expect(up.status == 0, "\(up.error)")
        #expect(up.text.contains("no security boundary"))
        let status = try #require(try lab.status())
        #expect(status.state == lab.state)
        #expect(status.qubes.map(\.name) == ["dom0", "work", "idle"])
        let work = status.qubes[1]
        #expect(work.powerState == "Running" && work.inUse && work.domid == 1)
        #expect(kill(try #require(work.agentPID), 0) == 0)
        #expect(kill(try #require(work.daemonPID), 0) == 0)
        #expect(status.qubes[2].powerState == "Halted" && status.qubes[2].domid == nil)
        #expect(PathStatus.exists("\(status.policyDirectory)/30-user.policy"))
        let again = try lab.up()
        #expect(again.status == 0)
        #expect(again.text.contains("already running"))
        let pids = status.qubes.compactMap(\.agentPID)
        #expect(try lab.command(["down"]).status == 0)
        #expect(!PathStatus.exists(lab.state))
        #expect(try lab.processes() == [])
        for pid in pids { #expect(HostProcess.startTime(of: pid) == nil || kill(pid, 0) != 0) }
        #expect(try lab.command(["down"]).status == 0)
    }

    @Test("status --json has the keys that tools rely on, and no others")
    func statusKeys() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        #expect(try lab.up().status == 0)
        let text = try lab.command(["status", "--json"]).text
        for key in [
            "state", "policy_dir", "qubes", "name", "domid", "type", "label", "power_state",
            "in_use",
            "root", "agent_pid", "daemon_pid",
        ] { #expect(text.contains("\"\(key)\" :")) }
        #expect(text.contains("\"agent_pid\" : null"))
    }

    @Test("run passes bytes, ends and exit statuses as they are", arguments: Starter.all)
    func run(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube)
        #expect(try lab.up().status == 0)
        let bytes = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 7) }
        let copied = try lab.run("work", ["cat"], input: bytes)
        #expect(copied.status == 0)
        #expect(copied.out == bytes)
        #expect(copied.error == "")
        for status in [0, 1, 125, 126, 127, 128, 255] {
            #expect(try lab.shell("work", "exit \(status)").status == Int32(status))
        }
        #expect(try lab.shell("work", "kill -KILL $$").status == 137)
        #expect(try lab.shell("work", "kill -TERM $$").status == 143)
        let both = try lab.shell("work", "echo out; echo error >&2; echo named >>/dev/stderr")
        #expect(both.text == "out\n")
        #expect(both.error == "error\nnamed\n")
        #expect(
            try lab.run("work", ["printf", "%s|", "a b", "", "ä", "--user"]).text
                == "a b||ä|--user|")
        #expect(try lab.run("dom0", ["hostname"]).text == "dom0\n")
    }

    @Test("run says why it cannot, with a status of its own", arguments: Starter.all)
    func runFailures(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube + "[qubes.idle]\nautostart = false\n")
        #expect(try lab.run("work", ["true"]).status == 125)
        #expect(try lab.up().status == 0)
        let missing = try lab.run("work", ["no-such-program"])
        #expect(missing.status == 127)
        #expect(missing.error.contains("command not found"))
        #expect(try lab.run("work", ["/etc/passwd"]).status == 126)
        let user = try lab.run("work", user: "nosuchuser", ["true"])
        #expect(user.status == 125)
        #expect(user.error.contains("no user 'nosuchuser'"))
        let halted = try lab.run("idle", ["true"])
        #expect(halted.status == 125)
        #expect(halted.error.contains("qubes-lab start idle"))
        #expect(try lab.run("nobody-knows-it", ["true"]).status == 125)
        #expect(try lab.command(["run", "work"]).status == 64)
        let root = try lab.run("work", user: "root", ["id", "-u"])
        #expect(root.status == (starter == .root ? 0 : 125))
    }

    @Test("A qube is nobody on the host, and has the machine's programs", arguments: Starter.all)
    func inside(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube)
        #expect(try lab.up().status == 0)
        let map = try lab.run("work", ["cat", "/proc/self/uid_map"]).text.split(separator: " ")
        #expect(map.first == (starter == .root ? "0" : "1000"))
        #expect(map.last == (starter == .root ? "65536\n" : "1\n"))
        #expect(map[1] != "0" || starter == .user)
        #expect(try lab.run("work", ["id", "-un"]).text == "user\n")
        #expect(try lab.shell("work", "cat /run/xen-local/domid").text == "1\n")
        #expect(try lab.shell("work", "touch /run/xen-local/peers/0/x").status != 0)
        #expect(try lab.shell("work", "touch /run/xen-local/self/0/x").status == 0)
        #expect(try lab.shell("work", "ls \(lab.state)").status != 0)
        #expect(try lab.shell("work", "ls /sys/class/net 2>/dev/null | grep -v lo").text == "")
        let tools = try lab.shell(
            "work",
            "bash -c 'echo bash'; perl -e 'print qq{perl\\n}'; python3 -c 'print(\"python\")'")
        #expect(tools.text == "bash\nperl\npython\n", "\(tools.error)")
        for program in ["qrexec-client-vm", "qrexec-agent"] {
            #expect(try lab.shell("work", "test -x /usr/lib/qubes/\(program)").status == 0)
        }
        #expect(
            try lab.shell("work", "command -v qrexec-client-vm").text
                == "/usr/bin/qrexec-client-vm\n")
    }

    @Test("root in the status shows the qube's files, both ways", arguments: Starter.all)
    func root(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube)
        #expect(try lab.up().status == 0)
        let root = try lab.entry("work").root
        try QubeFiles.write(
            "#!/bin/sh\necho served\n", to: "\(root)/usr/local/etc/qubes-rpc/test.Service",
            mode: 0o755)
        #expect(try lab.run("work", ["/usr/local/etc/qubes-rpc/test.Service"]).text == "served\n")
        #expect(try lab.shell("work", "echo inside > /home/user/x").status == 0)
        let file = try Descriptor.open("\(root)/home/user/x", O_RDONLY)
        #expect(try file.readAll(limit: 100) == Array("inside\n".utf8))
    }

    @Test("home_size limits /home/user, which root still shows", arguments: Starter.all)
    func homeSize(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube + "home_size = \"1M\"\n")
        let up = try lab.up()
        #expect(up.status == 0, "\(up.error)")
        let full = try lab.shell("work", "head -c 2000000 /dev/zero > /home/user/x")
        #expect(full.status != 0)
        #expect(full.error.contains("No space left"))
        #expect(try lab.shell("work", "rm ~/x; echo small > ~/y; stat -c %U ~").text == "user\n")
        let root = try lab.entry("work").root
        if starter.identity == nil {
            let file = try Descriptor.open("\(root)/home/user/y", O_RDONLY)
            #expect(try file.readAll(limit: 100) == Array("small\n".utf8))
        }
    }

    @Test("A qube restarts, starts, is shut down and killed", arguments: Starter.all)
    func powerStates(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube)
        #expect(try lab.up().status == 0)
        #expect(try lab.shell("work", "echo kept > ~/kept; echo gone > /tmp/gone").status == 0)
        #expect(try lab.command(["restart", "work"]).status == 0)
        #expect(try lab.entry("work").domid == 2)
        #expect(try lab.shell("work", "cat ~/kept; ls /tmp").text == "kept\n")
        #expect(try lab.command(["shutdown", "work"]).status == 0)
        #expect(try lab.entry("work").powerState == "Halted")
        #expect(try lab.command(["kill", "work"]).status == 1)
        #expect(try lab.command(["start", "work"]).status == 0)
        #expect(try lab.command(["start", "work"]).status == 0)
        #expect(try lab.command(["kill", "work"]).status == 0)
        #expect(try lab.command(["start", "nothing"]).status == 1)
    }

    @Test("What a qube puts in the place of its own directories leads nowhere")
    func plantedLinks() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        #expect(try lab.up().status == 0)
        let target = "\(lab.directory.path)/target"
        try PathStatus.makeDirectory(target, mode: 0o755)
        let user = lab.starter == .root ? "root" : "user"
        let script =
            "for d in pam.d profile.d qubes-rpc; do rm -rf /etc/$d; ln -s \(target) /etc/$d; done"
        #expect(try lab.shell("work", user: user, script).status == 0)
        #expect(try lab.command(["restart", "work"]).status == 0)
        #expect(try PathStatus.names(in: target) == [])
        #expect(try lab.shell("work", "cat /etc/pam.d/qrexec").status == 0)
    }

    @Test("dom0 restarts under running qubes")
    func restartDom0() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        #expect(try lab.up().status == 0)
        let old = try #require(try lab.entry("work").daemonPID)
        #expect(try lab.command(["restart", "dom0"]).status == 0)
        let socket = "\(lab.state)/qubes/dom0/root/run/qubes/qrexec.1"
        #expect(try eventually { PathStatus.exists(socket) })
        let new = try #require(try lab.entry("work").daemonPID)
        #expect(new != old)
        #expect(try lab.entry("work").domid == 1)
    }

    @Test("A dead agent is started again, and run works meanwhile", arguments: Starter.all)
    func agentDies(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube)
        #expect(try lab.up().status == 0)
        let old = try #require(try lab.entry("work").agentPID)
        kill(old, SIGKILL)
        #expect(try lab.run("work", ["echo", "still"]).text == "still\n")
        #expect(
            try eventually {
                let pid = try lab.status()?.qubes[1].agentPID
                return pid != nil && pid != old
            })
    }

    @Test("down cleans up after a killed manager", arguments: Starter.all)
    func managerKilled(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube)
        #expect(try lab.up().status == 0)
        let agent = try #require(try lab.entry("work").agentPID)
        let manager = try #require(ProcessRecord(file: lab.state + "/manager.pid"))
        kill(manager.pid, SIGKILL)
        let status = try lab.command(["status"])
        #expect(status.status == 1)
        #expect(status.error.contains("qubes-lab down"))
        let down = try lab.command(["down"])
        #expect(down.status == 0, "\(down.error)")
        #expect(!PathStatus.exists(lab.state))
        #expect(try eventually { kill(agent, 0) != 0 || HostProcess.isZombie(agent) })
        #expect(try eventually { try lab.processes() == [] })
    }

    @Test("up fails with the log's tail when an agent does not come up, and cleans up")
    func upFails() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        let programs = [
            "qubes-lab", "qrexec-policy-daemon", "qrexec-daemon-starter", "qrexec-daemon",
        ]
        for name in programs {
            try PathStatus.makeLink(
                "\(lab.directory.path)/\(name)", to: "\(LabUnderTest.programs)/\(name)")
        }
        try lab.directory.write(
            "qrexec-agent", "#!/bin/sh\necho I refuse; sleep 1; exit 1\n", mode: 0o755)
        let up = try lab.command(
            ["up", "--programs", lab.directory.path], environment: ["QREXEC_STARTUP_TIMEOUT=1"])
        #expect(up.status == 1)
        #expect(up.error.contains("I refuse"))
        #expect(!PathStatus.exists(lab.state))
        #expect(try lab.processes() == [])
    }

    @Test("Two labs run side by side")
    func sideBySide() throws {
        let labs =
            try Starter.all.map { try LabUnderTest($0, oneQube) } + [
                try LabUnderTest(Starter.all[0], oneQube)
            ]
        for lab in labs { #expect(try lab.up().status == 0) }
        for (index, lab) in labs.enumerated() {
            #expect(try lab.shell("work", "echo \(index) > ~/x").status == 0)
        }
        #expect(try labs[0].command(["down"]).status == 0)
        #expect(try labs[1].shell("work", "cat ~/x").text == "1\n")
    }

    @Test("A state directory that holds other files is left alone")
    func foreignDirectory() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        try PathStatus.makeDirectory(lab.state, mode: 0o700)
        try lab.directory.write("state/precious", "x")
        #expect(try lab.up().status == 1)
        #expect(try lab.command(["down"]).status == 1)
        #expect(PathStatus.exists(lab.state + "/precious"))
    }

    @Test("log shows a qube's lines")
    func log() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        #expect(try lab.up().status == 0)
        let all = try lab.command(["log"]).text
        let work = try lab.command(["log", "work"]).text
        #expect(all.contains("dom0: ") && all.contains("work: "))
        #expect(!work.contains("dom0: ") && work.contains("runs as domain 1"))
    }

    @Test("Every command explains itself", arguments: ["", "up", "run", "status", "log", "demo"])
    func help(_ command: String) throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        let help = try lab.command(command.isEmpty ? ["--help"] : [command, "--help"])
        #expect(help.status == 0)
        #expect(help.text.contains("USAGE"))
        #expect(try lab.command(["--version"]).text.contains("swift-qrexec"))
    }
}

@Suite("Terminals and signals of run", .serialized)
struct TerminalTests {
    /// Types into a terminal of its own in which `qubes-lab` runs, and gives what it showed.
    private func session(
        _ lab: LabUnderTest, _ arguments: [String], _ typed: String, after prompt: String
    ) throws -> Output {
        let pair = try TerminalDevice.makePair(owner: starterID(lab))
        try TerminalDevice.setSize(pair.first.number, .init(rows: 33, columns: 99))
        let slave = pair.second.number
        let child = try lab.start(
            arguments, descriptors: [slave, slave, slave], controllingTerminal: 0)
        try pair.first.setNonblocking(true)
        var shown: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        var hasTyped = false
        let ended = try eventually {
            while let count = try? pair.first.read(into: &chunk), count > 0 {
                shown += chunk[..<count]
            }
            if !hasTyped, String(decoding: shown, as: UTF8.self).contains(prompt) {
                hasTyped = true
                try pair.first.writeAll(Array(typed.utf8))
            }
            return HostProcess.isZombie(child.pid)
        }
        if !ended { child.signal(SIGKILL) }
        while let count = try? pair.first.read(into: &chunk), count > 0 { shown += chunk[..<count] }
        return Output(status: try child.reap(), out: shown, error: "")
    }

    private func starterID(_ lab: LabUnderTest) -> UInt32 {
        lab.starter.identity?.uid ?? CurrentProcess.effectiveUser
    }

    @Test(
        "A shell has a terminal with the window's size, and its status comes back",
        arguments: Starter.all)
    func shell(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube)
        #expect(try lab.up().status == 0)
        let shown = try session(
            lab, ["shell", "work"], "stty size; tty; echo $0 $TERM; exit 5\n", after: "$ ")
        #expect(shown.status == 5, "\(shown.text)")
        #expect(shown.text.contains("33 99"))
        #expect(shown.text.contains("/dev/pts/0"))
        #expect(shown.text.contains("-bash vt100"))
    }

    @Test("Ctrl-C in a terminal goes to the program", arguments: Starter.all)
    func interrupt(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube)
        #expect(try lab.up().status == 0)
        let shown = try session(
            lab,
            [
                "run", "work", "--", "sh", "-c",
                "trap 'exit 130' INT; echo ready; while :; do sleep 0.1; done",
            ], "\u{3}", after: "ready")
        #expect(shown.status == 130, "\(shown.text)")
    }

    @Test("A signal to run goes to the program, and run's death is its hang-up")
    func signals() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        #expect(try lab.up().status == 0)
        let out = try Descriptor.memoryFile("test")
        let script = "trap 'exit 42' INT; echo ready; while :; do sleep 0.1; done"
        let first = try lab.start(
            ["run", "work", "--", "sh", "-c", script], descriptors: [nil, out.number, out.number])
        #expect(try eventually { try out.fileSize() > 0 })
        first.signal(SIGINT)
        #expect(try first.reap() == 42)
        let second = try lab.start(
            ["run", "work", "--", "sleep", "31337"], descriptors: [nil, out.number, out.number])
        let isRunning = {
            try lab.shell("work", "grep -al '^sleep.31337' /proc/*/cmdline").status == 0
        }
        #expect(try eventually(isRunning))
        second.signal(SIGKILL)
        #expect(try second.reap() == 137)
        #expect(try eventually { try !isRunning() })
    }
}

@Suite("Qubes through qubesd", .serialized)
struct QubeManagementTests {
    private static let script = """
        import socket, sys
        def call(method, dest="dom0", payload=b""):
            s = socket.socket(socket.AF_UNIX)
            s.connect("/run/qubesd.internal.sock")
            s.sendall(("%s dom0 name %s" % (method, dest)).encode() + b"\\0" + payload)
            s.shutdown(socket.SHUT_WR)
            answer = b""
            while True:
                data = s.recv(65536)
                if not data:
                    return answer.decode()
                answer += data
        def show(*arguments):
            print(repr(call(*arguments)))

        """

    private func python(_ lab: LabUnderTest, _ lines: String) throws -> Output {
        try lab.run("dom0", ["python3", "-c", Self.script + lines])
    }

    private let disposables =
        oneQube + """
            [qubes.default-dvm]
            template_for_dispvms = true
            autostart = false

            """

    @Test("A halted qube is started, listed and killed by qubesd's methods", arguments: Starter.all)
    func powerStates(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, oneQube + "[qubes.idle]\nautostart = false\n")
        #expect(try lab.up().status == 0)
        let shown = try python(
            lab,
            """
            show("admin.vm.Start", "idle")
            show("admin.vm.CurrentState", "idle")
            show("admin.vm.Start", "idle")
            show("admin.vm.Kill", "idle")
            show("admin.vm.CurrentState", "idle")
            show("admin.vm.Start", "nothing")
            import json
            domains = json.loads(call("internal.GetSystemInfo")[2:])["domains"]
            print(sorted(domains), domains["dom0"]["uuid"], domains["work"]["power_state"])
            """)
        let lines = shown.text.split(separator: "\n")
        try #require(lines.count == 7, "\(shown)")
        #expect(lines[0] == "'0\\x00'")
        #expect(lines[1] == "'0\\x00power_state=Running'")
        #expect(lines[2].contains("QubesVMNotHaltedError"))
        #expect(lines[3] == "'0\\x00'")
        #expect(lines[4] == "'0\\x00power_state=Halted'")
        #expect(lines[5].contains("QubesVMNotFoundError"))
        #expect(lines[6] == "['dom0', 'idle', 'work'] \(QubeUUID.zero) Running")
    }

    @Test(
        "A disposable begins with its template's files and is gone when it ends",
        arguments: Starter.all)
    func disposable(_ starter: Starter) throws {
        let lab = try LabUnderTest(starter, disposables)
        #expect(try lab.up().status == 0)
        #expect(try lab.command(["start", "default-dvm"]).status == 0)
        #expect(try lab.shell("default-dvm", "echo mine > ~/file").status == 0)
        let made = try python(lab, "name = call('admin.vm.CreateDisposable')[2:]; print(name)")
        let name = made.text.split(separator: "\n").last.map(String.init) ?? ""
        #expect(name.hasPrefix("disp"), "\(made)")
        #expect(try lab.command(["start", name]).status == 0)
        let shown = try lab.shell(name, "cat ~/file; stat -c %U ~/file; hostname")
        #expect(shown.text == "mine\nuser\n\(name)\n")
        let entry = try lab.entry(name)
        #expect(entry.type == "DispVM" && entry.inUse)
        #expect(try python(lab, "show('admin.vm.Kill', '\(name)')").text.hasPrefix("'0"))
        #expect(try eventually { try lab.status()?.qubes.count == 3 })
        #expect(!PathStatus.exists("\(lab.state)/qubes/\(name)"))
        #expect(try python(lab, "show('admin.vm.CreateDisposable', 'work')").text.hasPrefix("'2"))
    }

    @Test("A pool has disposables ready, each is used once, and an old one is not used")
    func pool() throws {
        let features = "features = { preload-dispvm-max = \"1\", preload-dispvm-delay = \"0\" }\n"
        let lab = try LabUnderTest(Starter.all[0], disposables + features)
        #expect(try lab.up().status == 0)
        let pooled = { () throws -> [String] in
            let qubes = try lab.status()?.qubes ?? []
            return qubes.filter { $0.powerState == "Running" && !$0.inUse }.map(\.name)
        }
        #expect(try eventually { try pooled().count == 1 })
        let first = try #require(try pooled().first)
        #expect(
            try python(lab, "print(call('admin.vm.CreateDisposable')[2:])").text == first + "\n")
        #expect(try lab.entry(first).inUse)
        #expect(try eventually { try pooled().count == 1 })
        let second = try #require(try pooled().first)
        #expect(second != first)
        let template = try lab.entry("default-dvm").root
        try QubeFiles.write("#!/bin/sh\n", to: "\(template)/usr/local/etc/qubes-rpc/x", mode: 0o755)
        let fresh = try python(lab, "print(call('admin.vm.CreateDisposable')[2:])").text
        #expect(fresh != second + "\n" && fresh.hasPrefix("disp"))
    }

    @Test("A pool follows its features, and leaves the memory that dom0 wants free")
    func poolSize() throws {
        let features = "features = { preload-dispvm-delay = \"0\" }\n"
        let lab = try LabUnderTest(Starter.all[0], disposables + features)
        #expect(try lab.up().status == 0)
        let ready = { () throws -> [String] in
            let answer = try python(
                lab, "print(call('admin.vm.feature.Get+preload-dispvm', 'default-dvm')[2:])"
            ).text
            return answer.hasPrefix("QubesFeatureNotFoundError")
                ? [] : answer.split(whereSeparator: \.isWhitespace).map(String.init)
        }
        let pooled = { () throws -> [String] in
            (try lab.status()?.qubes ?? []).filter { $0.type == "DispVM" }.map(\.name)
        }
        let set = { (key: String, value: String, qube: String) throws in
            let call = "show('admin.vm.feature.Set+\(key)', '\(qube)', b'\(value)')"
            let answer = try python(lab, call).text
            #expect(answer.hasPrefix("'0"), "\(answer)")
        }
        #expect(try ready() == [])
        try set("preload-dispvm-max", "2", "default-dvm")
        #expect(try eventually { try ready().count == 2 })
        #expect(try Set(ready()) == Set(pooled()))
        try set("preload-dispvm-max", "1", "default-dvm")
        #expect(try eventually { try pooled().count == 1 })
        // Of the default template dom0's feature counts.
        try set("preload-dispvm-threshold", "100000000", "dom0")
        try set("preload-dispvm-max", "2", "default-dvm")
        let used = try python(lab, "print(call('admin.vm.CreateDisposable')[2:])").text
        #expect(used.hasPrefix("disp"))
        #expect(try pooled().count == 1)
        try set("preload-dispvm-threshold", "1", "dom0")
        #expect(try eventually { try ready().count == 2 })
    }

    @Test("A disposable is preloaded when qubesd is asked for that, and nothing else is")
    func preload() throws {
        let lab = try LabUnderTest(Starter.all[0], disposables)
        #expect(try lab.up().status == 0)
        for wrong in [
            "'admin.vm.CreateDisposable+now'", "'admin.vm.CreateDisposable', 'dom0', b'name'",
            "'admin.vm.CreateDisposable+preload', 'work'",
            "'admin.vm.CreateDisposable', 'no-such-qube'",
        ] {
            let answer = try python(lab, "print(ord(call(\(wrong))[0]) - 48)").text
            #expect(answer == "2\n", "\(wrong)")
        }
        #expect(try lab.status()?.qubes.filter { $0.type == "DispVM" }.isEmpty == true)
        let name = try python(
            lab, "print(call('admin.vm.CreateDisposable+preload', 'default-dvm')[2:])"
        ).text.trimmingCharacters(in: .newlines)
        #expect(try eventually { try lab.entry(name).powerState == "Running" })
        #expect(try !lab.entry(name).inUse)
        let used = try python(lab, "print(call('admin.vm.CreateDisposable')[2:])").text
        #expect(used == name + "\n")
        #expect(try lab.entry(name).inUse)
    }

    @Test("Nothing is left of disposables when the manager is killed and the lab comes up again")
    func managerKilled() throws {
        let features = "features = { preload-dispvm-max = \"1\", preload-dispvm-delay = \"0\" }\n"
        let lab = try LabUnderTest(Starter.all[0], disposables + features)
        #expect(try lab.up().status == 0)
        let known = { () throws -> [String] in
            (try lab.status()?.qubes ?? []).filter { $0.type == "DispVM" }.map(\.name)
        }
        #expect(try eventually { try known().count == 1 })
        let used = try python(lab, "print(call('admin.vm.CreateDisposable')[2:])").text
        #expect(try eventually { try known().count == 2 })
        let old = try known()
        #expect(old.contains(used.trimmingCharacters(in: .whitespacesAndNewlines)))
        let manager = try #require(ProcessRecord(file: lab.state + "/manager.pid"))
        #expect(manager.end())
        #expect(try lab.up().status == 0)
        #expect(try eventually { try known().count == 1 })
        #expect(try Set(known()).isDisjoint(with: old))
        for name in old { #expect(!PathStatus.exists("\(lab.state)/qubes/\(name)")) }
        #expect(
            try !lab.processes().contains { line in
                old.contains { line.contains("/qubes/\($0)/") }
            })
    }

    @Test("A copy of a template's files that has no room says so")
    func noRoom() throws {
        let directory = try TemporaryDirectory()
        let template = directory.path + "/template"
        for path in [template, template + "/home", directory.path + "/place"] {
            try PathStatus.makeDirectory(path, mode: 0o755)
        }
        let script = """
            head -c 3000000 /dev/urandom > "$1/home/file" && mount -t tmpfs -o size=2M none "$2"
            exec "$0" copy-qube "$1" "$2/root" 0 0
            """
        let child = try ChildProcess.spawn(
            SpawnRequest(
                path: "/usr/bin/unshare",
                arguments: [
                    "unshare", "-r", "-m", "sh", "-c", script, LabUnderTest.programs + "/qubes-lab",
                    template, directory.path + "/place",
                ], environment: ["PATH=/usr/bin:/bin"]))
        #expect(try child.reap() == TreeCopy.noRoom)
    }

    @Test("Listeners hear what happens to qubes")
    func events() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube + "[qubes.idle]\nautostart = false\n")
        #expect(try lab.up().status == 0)
        let shown = try python(
            lab,
            """
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(20)
            s.connect("/run/qubesd.sock")
            s.sendall(b"admin.Events dom0 name dom0\\0")
            s.shutdown(socket.SHUT_WR)
            heard = s.recv(65536)
            call("admin.vm.Start", "idle")
            call("admin.vm.Kill", "idle")
            while b"domain-shutdown" not in heard:
                heard += s.recv(65536)
            print([part for part in heard.decode().split("\\0") if part.startswith(("domain", "conn"))])
            """)
        #expect(
            shown.text
                == "['connection-established', 'domain-pre-start', 'domain-spawn', 'domain-start', "
                + "'domain-pre-shutdown', 'domain-shutdown']\n", "\(shown)")
    }

    @Test("Clients that send nothing or nonsense are shut out, and others go on")
    func hostileClients() throws {
        let lab = try LabUnderTest(Starter.all[0], oneQube)
        #expect(try lab.up().status == 0)
        let shown = try python(
            lab,
            """
            idle = []
            for i in range(400):
                s = socket.socket(socket.AF_UNIX)
                try:
                    s.connect("/run/qubesd.sock")
                    s.sendall(b"x" * 1000)
                    if i % 2:
                        idle.append(s)
                    else:
                        s.close()
                except OSError:
                    pass
            s = socket.socket(socket.AF_UNIX)
            s.connect("/run/qubesd.sock")
            try:
                s.sendall(b"a" * 200000)
            except OSError:
                pass
            del idle
            show("admin.vm.CurrentState", "work")
            """)
        #expect(shown.text == "'0\\x00power_state=Running'\n", "\(shown)")
    }
}

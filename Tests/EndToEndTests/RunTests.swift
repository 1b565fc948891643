import Foundation
import Testing

extension EndToEnd {
    @Suite("Programs that run in other qubes", .serialized)
    struct Run {
        let lab: Lab

        init() throws { lab = try Lab.shared.get() }

        private func runVM(_ arguments: String..., input: String = "") throws -> Outcome {
            try lab.run("work", ["qvm-run-vm"] + arguments, input: input)
        }

        private func qvmRun(_ arguments: String..., input: String = "") throws -> Outcome {
            try lab.run("dom0", ["qvm-run"] + arguments, input: input)
        }

        // MARK: From a qube

        @Test("A command runs in another qube's shell, with streams and exit status")
        func command() throws {
            let outcome = try runVM(
                "personal", "hostname;", "read", "x;", "echo", "$x", "|", "tr", "a-z", "A-Z;",
                "echo e >&2; exit 5", input: "input\nrest")
            #expect(outcome.text == "personal\nINPUT\n")
            #expect(outcome.errors == "e\n")
            #expect(outcome.status == 5)
            #expect(try runVM("-t", "personal", "cat", input: "all of it").text == "all of it")
        }

        @Test("A command that policy denies does not run")
        func denied() throws {
            try lab.setPolicy("10-run", "qubes.VMShell * @anyvm vault deny\n")
            let outcome = try runVM("vault", "touch /tmp/ran")
            #expect(outcome.status == 126)
            #expect(outcome.errors.contains("Request refused"))
            #expect(try lab.script("vault", "test -e /tmp/ran").status == 1)
            try lab.setPolicy("10-run", nil)
        }

        @Test(
            "A wrong command line is 2", arguments: [[], ["personal"], ["-x", "personal", "ls"]])
        func usage(_ arguments: [String]) throws {
            #expect(try lab.run("work", ["qvm-run-vm"] + arguments).status == 2)
        }

        @Test("A program runs without a shell, its words as they are")
        func words() throws {
            let outcome = try lab.call("qubes.VMExec+printf+-5B-25s-5D+a-20b+-24HOME++-3Bid")
            #expect(outcome.text == "[a b][$HOME][][;id]")
            #expect(try lab.call("qubes.VMExec+cat", input: "in").text == "in")
            #expect(try lab.call("qubes.VMExecGUI+hostname").text == "personal\n")
            #expect(try lab.call("qubes.VMExec+sh+--c+exit-209").status == 9)
        }

        @Test(
            "A hostile caller's command is refused with a reason, at both ends",
            arguments: [
                ("qubes.VMExec", 1), ("qubes.VMExec+", 1), ("qubes.VMExec+ls+-2f", 1),
                ("qubes.VMExec+-00", 1), ("qubes.VMExec++ls", 1), ("qubes.VMExec+-2Fnone", 127),
                ("qubes.VMExec+\(String(repeating: "-2D", count: 1000))x", 127),
                ("qubes.VMShell+-c", 1), ("qubes.StartApp", 1), ("qubes.StartApp+..", 1),
                ("qubes.StartApp+none.such", 1), ("qubes.GetDate+-s", 1),
                ("qubes.SelectFile", 1), ("qubes.ConnectTCP", 125), ("qubes.ConnectTCP+0", 125),
                ("qubes.ConnectTCP+65536", 125), ("qubes.ConnectTCP+1+2", 125),
                ("qubes.ConnectTCP+22x", 125), ("qubes.UpdatesProxy+80", 125),
                ("qubes.SetDateTime", 1), ("qubes.ClipboardCopy", 1), ("qubes.ClipboardPaste", 1),
            ] as [(String, Int32)])
        func hostile(_ service: String, _ status: Int32) throws {
            let outcome = try lab.call(service, input: "hostile\ninput")
            #expect(outcome.status == status)
            #expect(outcome.text == "")
            if status != 125 { #expect(outcome.errors.contains(service.prefix { $0 != "+" })) }
        }

        @Test("Root's services run as root where there is one, and else say why not")
        func root() throws {
            let shell = try lab.call("qubes.VMRootShell", input: "id -u\n")
            let exec = try lab.call("qubes.VMRootExec+id+--u")
            if geteuid() == 0 {
                #expect(shell.text == "0\n")
                #expect(exec.text == "0\n")
                #expect(try lab.call("qubes.VMExec+id+--u").text == "1000\n")
            } else {
                #expect(shell.status == 125)
                #expect(exec.status == 125)
            }
        }

        @Test("An application of the qube starts, and the call lasts as long as it runs")
        func application() throws {
            let directory = try lab.qube("personal").root + "/usr/local/share/applications"
            try FileManager.default.createDirectory(
                atPath: directory, withIntermediateDirectories: true)
            try """
            [Desktop Entry]
            Type=Application
            Name=An app
            Exec=sh -c "hostname > /tmp/started; exit 6" %U
            """.write(toFile: directory + "/my.app.desktop", atomically: false, encoding: .utf8)
            #expect(try lab.call("qubes.StartApp+my.app").status == 6)
            #expect(try lab.script("personal", "cat /tmp/started").text == "personal\n")
        }

        @Test("dom0 tells the date, and qubes do")
        func date() throws {
            let asked = try lab.call("qubes.GetDate", to: "dom0").text
            #expect(asked.wholeMatch(of: /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\n/) != nil)
            let precise = try lab.call("qubes.GetDate+ns").text
            #expect(precise.wholeMatch(of: /[-0-9T:]{19},\d{9}\+00:00\n/) != nil)
            #expect(try lab.call("qubes.SetDateTime", input: asked).status == 0)
        }

        @Test(
            "What dom0 waits for and announces is served",
            arguments: [
                "qubes.WaitForSession", "qubes.WaitForRunningSystem", "qubes.SuspendPre",
                "qubes.SuspendPost", "qubes.SuspendPreAll", "qubes.SuspendPostAll",
            ])
        func announcements(_ service: String) throws {
            let outcome = try lab.run(
                "dom0", ["qrexec-client", "-d", "work", "DEFAULT:QUBESRPC \(service) dom0"],
                input: "user\n")
            #expect(outcome.status == 0)
            #expect(outcome.text == "")
        }

        @Test(
            "The start of the system is waited for where systemd runs, whatever its tool says",
            arguments: [
                ("sleep 0.2; echo running", 0), ("echo degraded; exit 1", 0),
                ("echo stopping; exit 1", 1), ("exit 1", 1), ("kill -9 $$", 1),
                ("printf '\\033[31mrunning\\n'", 1), ("head -c 100000 /dev/zero", 1),
                ("echo runningly", 1),
            ] as [(String, Int32)])
        func startOfTheSystem(_ script: String, _ status: Int32) throws {
            let tool = try lab.qube("personal").root + "/usr/local/bin/systemctl"
            try lab.install("test.Tool", "echo $* >/tmp/asked; \(script)")
            try lab.script(
                "personal", user: Lab.administrator,
                """
                mkdir -p /run/systemd/system /usr/local/bin
                mv /usr/local/etc/qubes-rpc/test.Tool /usr/local/bin/systemctl
                """
            ).expectSuccess()
            defer {
                try? FileManager.default.removeItem(atPath: tool)
                _ = try? lab.script(
                    "personal", user: Lab.administrator, "rmdir /run/systemd/system /run/systemd")
            }
            let outcome = try lab.call("qubes.WaitForRunningSystem", input: "no data")
            #expect(outcome.status == status, "\(outcome)")
            #expect(outcome.text == "")
            #expect(outcome.errors.isEmpty == (status == 0))
            #expect(!outcome.errors.contains("\u{1B}"))
            #expect(
                try lab.script("personal", "cat /tmp/asked").text == "is-system-running --wait\n")
        }

        @Test("Where no session will come, waiting for it costs no program")
        func sessionless() throws {
            let root = try lab.qube("personal").root
            try FileManager.default.createDirectory(
                atPath: root + "/usr/local/etc/qubes/rpc-config", withIntermediateDirectories: true)
            try "wait-for-session=1\n".write(
                toFile: root + "/usr/local/etc/qubes/rpc-config/test.Waits", atomically: false,
                encoding: .utf8)
            for service in ["test.Waits", "test.Plain"] { try lab.install(service, "echo $$") }
            // How many processes each call starts, by the numbers that its services get.
            func started(_ service: String) throws -> Int {
                let numbers = try (0..<4).map { _ in
                    try #require(Int(lab.call(service).text.dropLast()))
                }
                return try #require(zip(numbers, numbers.dropFirst()).map { $1 - $0 }.min())
            }
            #expect(try started("test.Waits") == started("test.Plain"))
        }

        // MARK: From dom0

        @Test("qvm-run passes streams and the exit status when asked to")
        func passIO() throws {
            let outcome = try qvmRun(
                "-p", "work", "hostname; cat; echo e >&2; exit 4", input: "in\n")
            #expect(outcome.text == "work\nin\n")
            #expect(outcome.errors == "e\n")
            #expect(outcome.status == 4)
        }

        @Test("qvm-run without pass-io connects nothing, and says what it does")
        func withoutIO() throws {
            let outcome = try qvmRun("work", "cat > /tmp/got; echo out; exit 3", input: "unread")
            #expect(outcome.status == 3)
            #expect(outcome.text == "")
            #expect(outcome.errors.contains("running"))
            #expect(try lab.script("work", "cat /tmp/got").text == "")
            #expect(try qvmRun("-q", "work", "true").errors == "")
        }

        @Test("Words go to the program as they are, also without a shell")
        func exactWords() throws {
            let words = ["a b", "$HOME", "", "'", "\"", ";id", "*", "-x", "ä"]
            let show = ["-p", "work", "--", "printf", "[%s]"]
            let expected = words.map { "[\($0)]" }.joined()
            #expect(try lab.run("dom0", ["qvm-run"] + show + words).text == expected)
            #expect(
                try lab.run("dom0", ["qvm-run", "--no-shell"] + show + words).text == expected)
            #expect(try qvmRun("-p", "--no-shell", "work", "id;hostname").status == 127)
        }

        @Test("qvm-run calls services, as users, with local commands")
        func options() throws {
            try lab.install("test.Arg", in: "work", #"echo "$1 $(id -un)""#)
            #expect(try qvmRun("-p", "--service", "work", "test.Arg+x").text == "x user\n")
            let user = try qvmRun("-p", "-u", Lab.administrator, "work", "id -un")
            #expect(user.text == "\(Lab.administrator)\n")
            let local = try qvmRun(
                "-p", "--localcmd", "echo sent; exec >&-; cat > /tmp/local", "work",
                "cat; echo from work")
            #expect(local.status == 0)
            #expect(try lab.script("dom0", "cat /tmp/local").text == "sent\nfrom work\n")
            #expect(try qvmRun("--no-gui", "-p", "work", "echo x").text == "x\n")
            #expect(try qvmRun("--gui", "-p", "work", "echo x").text == "x\n")
        }

        @Test("What a qube says is coloured and harmless on a terminal")
        func filters() throws {
            let outcome = try qvmRun(
                "-p", "--filter-escape-chars", "--colour-output", "32", "work",
                "printf 'a\\033[1mb\\n'")
            #expect(outcome.text == "\u{1B}[0;32ma_[1mb\n\u{1B}[0m")
            #expect(try qvmRun("-p", "work", "printf '\\033'").text == "\u{1B}")
        }

        @Test("Qubes that do not run are skipped when asked to")
        func skips() throws {
            _ = try lab.command("kill", ["sleeper"])
            let outcome = try qvmRun("-n", "sleeper", "true")
            #expect(outcome.status == 1)
            #expect(outcome.errors.contains("does not run"))
            #expect(try lab.qube("sleeper").powerState == "Halted")
            #expect(try qvmRun("-p", "sleeper", "hostname").text == "sleeper\n")
        }

        @Test("A command runs in all qubes but some")
        func all() throws {
            let outcome = try qvmRun(
                "--all", "--exclude", "vault", "touch /tmp/all-ran; [ $(hostname) != work ]")
            #expect(outcome.status == 1)
            for (qube, status) in [("work", 0), ("personal", 0), ("vault", 1), ("dom0", 1)] {
                #expect(try lab.script(qube, "test -e /tmp/all-ran").status == Int32(status))
            }
        }

        @Test("A disposable is there for one command, and gone after it")
        func disposable() throws {
            let outcome = try qvmRun("-p", "--dispvm", "hostname; exit 8")
            #expect(outcome.status == 8)
            #expect(outcome.text.hasPrefix("disp"))
            let name = outcome.text.dropLast()
            eventually("the disposable is gone") {
                (try? lab.status.qubes.contains { $0.name == name }) == false
            }
        }

        @Test(
            "What cannot be is explained",
            arguments: [
                (["nowhere", "ls"], 125), (["dom0", "ls"], 2), (["../x", "ls"], 2),
                (["--dispvm=nowhere", "ls"], 1), (["-n", "nowhere", "ls"], 1), (["work"], 2),
                (["-p", "work", "/none/such"], 127), (["-p", "--service", "work", "no.such"], 127),
            ] as [([String], Int32)])
        func problems(_ arguments: [String], _ status: Int32) throws {
            let outcome = try lab.run("dom0", ["qvm-run"] + arguments)
            #expect(outcome.status == status, "\(outcome.errors)")
            if status != 127 { #expect(!outcome.errors.isEmpty) }
        }

        @Test("A command ends with the qvm-run that is interrupted")
        func interrupted() throws {
            let run = try lab.start("dom0", ["qvm-run", "-p", "work", "echo ready; sleep 1000"])
            try run.expect("ready")
            run.signal(SIGINT)
            #expect(try run.wait().status == 130)
            eventually("the command is gone") {
                (try? lab.processes("work").contains { $0.command.hasPrefix("sleep 1000") })
                    == false
            }
        }
    }
}

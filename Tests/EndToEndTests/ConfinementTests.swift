import Foundation
import LinuxSystem
import Testing

extension EndToEnd {
    /// What somebody gets who takes a daemon of dom0 over (README, "Who is trusted with what").
    @Suite("A daemon in the hands of its qube")
    struct Confinement {
        let lab: Lab

        init() throws {
            lab = try Lab.shared.get()
            try lab.install("test.Echo", "cat")
        }

        /// Runs the hostile stand-in in the place of work's daemon.
        private func hostile(_ attempt: String, confined: Bool = true) throws -> [String] {
            let work = try lab.qube("work")
            // Beside the programs of the build, as dom0 sees them.
            let program =
                "$(dirname $(readlink -f /usr/lib/qubes/qrexec-daemon-starter))/hostile-daemon"
            let start =
                confined
                ? "qrexec-daemon-starter --direct --program=\(program) -- \(work.domid!) work '\(attempt)'"
                : "exec \(program) '\(attempt)' 3</dev/null"
            let outcome = try lab.script("dom0", user: "user", "PATH=$PATH:/usr/sbin\n" + start)
            let lines = outcome.errors.split(separator: "\n").map(String.init)
                .filter { $0.hasPrefix("hostile: ") }.map { String($0.dropFirst(9)) }
            // What it tries where nothing stops it may end it.
            #expect(!confined || lines.last == "done", "\(outcome)")
            return lines.filter { $0 != "done" }
        }

        @Test("It opens nothing, starts nothing, signals nobody and runs no code of its own")
        func system() throws {
            #expect(try hostile("system") == [])
            #expect(try hostile("execute") == [])
            // What it tries does work for others.
            #expect(try hostile("system", confined: false).count > 40)
        }

        @Test(
            "It speaks for no other qube and reaches no other's channels",
            arguments: [
                "call,id=1,target=personal,service=test.Echo,source=vault",
                "register,domain=3,name=vault,socket-dir=/run/qubes",
                "channel,id=1,port=1", "channel,id=1,port=511", "channel,id=1,port=769",
                "channel,id=1,port=514,domain=3", "call,id=1,target=personal,service=a/../b",
                "call,id=1,target=personal,service=a b", "status,id=1,status=0", "nonsense",
                "listen,socket-dir=/tmp",
            ])
        func others(_ attempt: String) throws { #expect(try hostile(attempt) == ["closed"]) }

        @Test("A relay's claim is for the policy to judge")
        func claim() throws {
            let answers = try hostile("call,id=1,target=personal,service=test.Echo,claimed=vault")
            #expect(answers.count == 1 && answers[0].contains("outcome=denied"))
        }

        @Test("The connection to a target's daemon takes nothing but the call that was allowed")
        func reach() throws {
            #expect(try hostile("reach") == ["reached", "the target's daemon closed"])
            // The allowed call's service waits for work's channel, by a number that the real daemon of
            // work does not know to be taken: a later call of the suite would meet it.
            #expect(try lab.command("restart", ["personal"]).status == 0)
        }

        @Test("The daemons of a lab hold nothing but their channels, their socket and their line")
        func descriptors() throws {
            let pid = try #require(lab.qube("vault").daemonPid)
            let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
            for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
                #expect(status.contains(line))
            }
            // Where root's lab may look.
            guard geteuid() == 0 else { return }
            let numbers = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd")
            var kinds: [String: Int] = [:]
            for number in numbers {
                let target = try FileManager.default.destinationOfSymbolicLink(
                    atPath: "/proc/\(pid)/fd/\(number)")
                kinds[String(target.prefix { $0 != "[" && $0 != ":" }), default: 0] += 1
            }
            // Output and errors are the log's pipe; sockets are the line, the listener, the channel.
            #expect(kinds == ["/dev/null": 1, "pipe": 2, "socket": 3, "anon_inode": 2])
        }

        @Test("A daemon that the dispatcher has lost is started again, and calls go on")
        func dispatcherKilled() throws {
            #expect(try lab.call("test.Echo", input: "x").text == "x")
            try lab.kill("qrexec-policy-daemon", in: "dom0")
            try eventually("calls work again") {
                try lab.call("test.Echo", input: "y").text == "y"
            }
        }
    }

    @Suite("Disposables")
    struct DisposableCalls {
        let lab: Lab

        init() throws {
            lab = try Lab.shared.get()
            // Its files are there from its first start on.
            if try !FileManager.default.fileExists(
                atPath: lab.qube("default-dvm").root + "/usr/local/etc/qubes-rpc")
            {
                #expect(try lab.command("start", ["default-dvm"]).status == 0)
                #expect(try lab.command("shutdown", ["default-dvm"]).status == 0)
            }
            try lab.install(
                "test.Which", in: "default-dvm", "echo $QREXEC_REMOTE_DOMAIN $(hostname); cat")
            try lab.install("test.Hang", in: "default-dvm", "echo ready; exec sleep 1000")
        }

        private var disposables: [String] {
            get throws { try lab.status.qubes.map(\.name).filter { $0.hasPrefix("disp") } }
        }

        private func allGone() throws {
            try eventually("no disposable is left") { try disposables.isEmpty }
        }

        @Test(
            "A call to a disposable makes it, and it is gone after the call",
            arguments: ["@dispvm", "@dispvm:default-dvm"])
        func call(_ target: String) throws {
            let outcome = try lab.call("test.Which", to: target, input: "data")
            #expect(outcome.status == 0)
            #expect(outcome.text.hasPrefix("work disp"))
            #expect(outcome.text.hasSuffix("\ndata"))
            try allGone()
        }

        enum Victim: CaseIterable { case client, callersDaemon, disposablesDaemon, disposable }

        @Test("It is gone whatever ends the call", arguments: Victim.allCases)
        func ends(_ victim: Victim) throws {
            let call = try lab.start("work", ["qrexec-client-vm", "@dispvm", "test.Hang"])
            try call.expect("ready")
            let name = try #require(disposables.first)
            switch victim {
            case .client: try lab.kill("qrexec-client-vm", in: "work")
            case .callersDaemon: kill(try #require(lab.qube("work").daemonPid), SIGKILL)
            case .disposablesDaemon: kill(try #require(lab.qube(name).daemonPid), SIGKILL)
            case .disposable: _ = try lab.command("kill", [name])
            }
            // Without its daemon the caller's side goes on until somebody ends it.
            if victim == .callersDaemon { call.signal(SIGTERM) }
            _ = try call.wait()
            try allGone()
        }

        @Test("One that cannot be called is a refusal, and nothing is left")
        func unmade() throws {
            #expect(try lab.call("test.Which", to: "@dispvm:personal").status == 126)
            try allGone()
        }
    }
}

extension Lab {
    /// Kills the process of a qube that was started by this name.
    func kill(_ name: String, in qube: String) throws {
        let process = try processes(qube).first { $0.command.contains(name) }
        try kill(#require(process, "no \(name) in \(qube)").pid, in: qube)
    }
}

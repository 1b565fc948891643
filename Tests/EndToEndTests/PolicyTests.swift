import Foundation
import Testing

extension EndToEnd {
    @Suite("Policy and log of a lab", .serialized)
    struct Policy {
        let lab: Lab

        init() throws {
            lab = try Lab.shared.get()
            try lab.install("test.Echo", "cat")
        }

        @Test("A change is in force for the next call, every time")
        func changes() throws {
            defer { try? lab.setPolicy("10-change", nil) }
            for action in ["deny", "allow", "deny", "allow"] {
                try lab.setPolicy("10-change", "test.Echo * work personal \(action)\n")
                let status = try lab.call("test.Echo").status
                #expect(status == (action == "allow" ? 0 : 126), "\(action)")
            }
        }

        @Test("A file that does not parse keeps the last good policy, and its line is logged")
        func broken() throws {
            try lab.setPolicy("10-broken", "test.Echo * work personal deny\n")
            #expect(try lab.call("test.Echo").status == 126)
            try lab.setPolicy("10-broken", "# fine\ntest.Echo * work personal perhaps\n")
            #expect(try lab.call("test.Echo").status == 126)
            #expect(try lab.call("test.Nowhere", to: "vault").status == 127)
            #expect(try lab.log.contains("10-broken.policy:2"))
            try lab.setPolicy("10-broken", nil)
            #expect(try lab.call("test.Echo").status == 0)
        }

        @Test("Each call has one line that says who, what, which rule, the outcome and the times")
        func logLine() throws {
            let service = "test.Logged\(UInt32.random(in: 0...UInt32.max))"
            try lab.install(service, "cat")
            try lab.setPolicy("10-logged", "# one\n\n\(service) +no * * deny\n")
            defer { try? lab.setPolicy("10-logged", nil) }
            for (argument, outcome, rule) in [
                ("no", "denied", "10-logged.policy:3"), ("yes", "allowed", "20-test.policy:1"),
            ] {
                _ = try lab.call("\(service)+\(argument)")
                let wanted = " call source=work service=\(service)+\(argument) "
                try eventually("the call is logged") { try lab.log.contains(wanted) }
                let lines = try lab.log.split(separator: "\n").filter { $0.contains(wanted) }
                #expect(lines.count == 1)
                let line = lines[0]
                #expect(line.contains(" requested_target=personal target=personal "))
                #expect(line.contains(" outcome=\(outcome) "))
                #expect(line.contains(" rule=/etc/qubes/policy.d/\(rule) "))
                let id = try #require(line.split(separator: " ").first { $0.hasPrefix("id=") })
                    .dropFirst(3)
                try eventually("the policy's and the target's lines are shown with it") {
                    let lines = try lab.command("log", ["--call", String(id)]).text
                    return lines.contains("qrexec: \(service)+\(argument): work")
                        && (outcome == "denied" || lines.contains(" call ended "))
                }
                let times = try #require(line.split(separator: " ms: ").last).split(separator: " ")
                    .map { $0.split(separator: "=") }
                #expect(Set(times.map { $0[0] }).isSuperset(of: ["policy", "total"]))
                #expect(times.allSatisfy { Double($0[1]) != nil })
            }
        }

        @Test("A request to ask, with nobody to ask, is denied")
        func ask() throws {
            try lab.setPolicy("10-ask", "test.Echo * work personal ask\n")
            defer { try? lab.setPolicy("10-ask", nil) }
            #expect(try lab.call("test.Echo").status == 126)
        }

        @Test(
            "The decided target, user and stopped notification are the ones used",
            arguments: [("target=vault", "vault:user"), ("user=nobody-of-that-name", "")])
        func parameters(_ parameter: String, _ expected: String) throws {
            for qube in ["personal", "vault"] {
                try lab.install("test.Where", in: qube, "echo \(qube):$USER")
            }
            try lab.setPolicy("10-where", "test.Where * work personal allow \(parameter)\n")
            defer { try? lab.setPolicy("10-where", nil) }
            let outcome = try lab.call("test.Where")
            #expect(outcome.text == (expected.isEmpty ? "" : expected + "\n"))
            #expect(outcome.status == (expected.isEmpty ? 125 : 0))
        }
    }

    @Suite("Labs", .serialized)
    struct Labs {
        let lab: Lab

        init() throws { lab = try Lab.shared.get() }

        @Test("Two labs run side by side and share nothing")
        func sideBySide() throws {
            let other = try Lab()
            try lab.install("test.Which", "echo first")
            try other.install("test.Which", "echo second")
            #expect(try lab.call("test.Which").text == "first\n")
            #expect(try other.call("test.Which").text == "second\n")
            try other.setPolicy("20-test", "* * @anyvm @anyvm deny\n")
            #expect(try lab.call("test.Which").status == 0)
            #expect(try other.call("test.Which").status == 126)
        }

        @Test("A second start of a running lab says so")
        func alreadyRuns() throws {
            let second = try lab.command("up")
            #expect((second.text + second.errors).contains("already"), "\(second)")
            #expect(try lab.status.qubes.count >= 6)
        }

        @Test("A lab that ends leaves no process and no file behind, also after a crash")
        func nothingLeft() throws {
            for crash in [false, true] {
                let lab = try Lab()
                if crash {
                    let text = try String(
                        contentsOfFile: "\(lab.state)/manager.pid", encoding: .utf8)
                    let pid = try #require(Int32(text.split(separator: " ")[0]))
                    kill(pid, SIGKILL)
                }
                #expect(try lab.command("down").status == 0)
                #expect(!FileManager.default.fileExists(atPath: lab.state))
                try eventually("no process of the lab is left") {
                    try !hostCommands().contains {
                        $0.contains(lab.state) && !$0.contains(" down ")
                    }
                }
            }
        }

        @Test("Streams and exit status of a program pass through, also without an agent")
        func run() throws {
            let agent = try #require(try lab.qube("vault").agentPid)
            let running = try lab.start("vault", ["bash", "-c", "cat; echo err >&2; exit 42"])
            kill(agent, SIGKILL)
            try running.write("in")
            let outcome = try running.finish()
            #expect(outcome.status == 42)
            #expect(outcome.text == "in")
            #expect(outcome.errors == "err\n")
            #expect(try lab.run("vault", ["bash", "-c", "kill -TERM $$"]).status == 128 + 15)
            #expect(try lab.run("vault", ["/nowhere"]).status == 127)
        }

        @Test("Programs that have run leave nothing in a qube's first process")
        func nothingHeld() throws {
            func held() throws -> Int {
                let list = ["bash", "-c", "set -- /proc/1/fd/*; echo $#"]
                let text = try lab.run("vault", user: Lab.administrator, list).text
                return try #require(Int(text.trimmingCharacters(in: .newlines)))
            }
            let before = try held()
            for _ in 0..<10 { _ = try lab.run("vault", ["true"]) }
            // The last ones may be on their way out, now as before.
            try eventually("it holds no more than before") { try held() <= before + 2 }
        }

        @Test("A restarted qube answers calls")
        func restart() throws {
            try lab.install("test.Echo", in: "vault", "cat")
            #expect(try lab.command("restart", ["vault"]).status == 0)
            #expect(try lab.call("test.Echo", to: "vault", input: "x").text == "x")
        }

        private func hostCommands() throws -> [String] {
            try FileManager.default.contentsOfDirectory(atPath: "/proc").filter { Int($0) != nil }
                .compactMap {
                    guard let data = FileManager.default.contents(atPath: "/proc/\($0)/cmdline")
                    else { return nil }
                    return String(decoding: data.map { $0 == 0 ? 32 : $0 }, as: UTF8.self)
                }
        }
    }
}

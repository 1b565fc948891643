import Foundation
import Testing

extension EndToEnd {
    @Suite("Disposables", .serialized)
    struct Disposables {
        let lab: Lab

        /// Two are kept ready of one template, none of the other.
        private static let shared = Result {
            try Lab(
                configuration: """
                    [qubes.default-dvm]
                    features = { preload-dispvm-max = "2", preload-dispvm-delay = "0" }
                    [qubes.plain-dvm]
                    template_for_dispvms = true
                    autostart = false
                    [qubes.vault]
                    autostart = false
                    [qubes.untrusted]
                    autostart = false
                    """)
        }

        init() throws {
            lab = try Self.shared.get()
            try lab.setPolicy(
                "20-test",
                """
                * * @anyvm @anyvm allow
                * * work @dispvm allow
                * * work @dispvm:default-dvm allow
                * * work @dispvm:plain-dvm allow

                """)
            for template in ["default-dvm", "plain-dvm"] {
                try install("test.Name", in: template, "hostname")
                try install("test.Hold", in: template, "echo ready; cat; sleep 1000")
            }
        }

        /// Puts a service into a template, unless it is there: a change makes pooled ones old.
        private func install(_ service: String, in template: String, _ script: String) throws {
            let path = try "\(lab.qube(template).root)/usr/local/etc/qubes-rpc/\(service)"
            guard (try? String(contentsOfFile: path, encoding: .utf8)) == nil else { return }
            try FileManager.default.createDirectory(
                atPath: (path as NSString).deletingLastPathComponent,
                withIntermediateDirectories: true)
            try lab.install(service, in: template, script)
        }

        private var disposables: [Lab.Status.Qube] {
            get throws { try lab.status.qubes.filter { $0.type == "DispVM" } }
        }

        private var used: [Lab.Status.Qube] { get throws { try disposables.filter(\.inUse) } }

        private func poolIsFull() throws {
            var all: [Lab.Status.Qube] = []
            func isFull() -> Bool {
                all.count == 2 && all.allSatisfy { $0.powerState == "Running" && !$0.inUse }
            }
            try eventually("two are ready") {
                all = try disposables
                return isFull()
            }
            #expect(isFull(), "\(all)")
        }

        /// No disposable but pooled ones, and no file of one that is gone.
        private func nothingLeaks() throws {
            try eventually("no disposable is in use") { try used.isEmpty }
            try eventually("their files are gone") {
                let known = Set(try lab.status.qubes.map(\.name))
                let names = try FileManager.default.contentsOfDirectory(
                    atPath: "\(lab.state)/qubes")
                return names.allSatisfy(known.contains)
            }
        }

        @Test(
            "Each call has a disposable of its own, which is gone afterwards",
            arguments: ["@dispvm", "@dispvm:default-dvm", "@dispvm:plain-dvm"])
        func fresh(_ target: String) throws {
            var names: Set<String> = []
            for _ in 1...3 {
                let outcome = try lab.call("test.Name", to: target)
                #expect(outcome.status == 0, "\(outcome.errors)")
                names.insert(outcome.text)
            }
            #expect(names.count == 3)
            #expect(names.allSatisfy { $0.hasPrefix("disp") })
            try nothingLeaks()
        }

        @Test("Ready ones are used, shown as not in use, and made up for")
        func pool() throws {
            try poolIsFull()
            let ready = Set(try disposables.map(\.name))
            let name = try lab.call("test.Name", to: "@dispvm").text.trimmingCharacters(
                in: .newlines)
            #expect(ready.contains(name))
            try poolIsFull()
            #expect(try !disposables.contains { $0.name == name })
        }

        @Test("More calls at once than are ready each get one")
        func atOnce() throws {
            let calls = try (1...5).map { _ in
                try lab.start("work", ["qrexec-client-vm", "@dispvm", "test.Name"], input: [])
            }
            let names = try calls.map { try $0.finish().text }
            #expect(Set(names).count == 5)
            try nothingLeaks()
        }

        @Test("A disposable begins with its template's files, and changes only its own")
        func files() throws {
            try poolIsFull()
            let root = try lab.qube("default-dvm").root
            let deep = "\(root)/home/user/.config/deep"
            try FileManager.default.createDirectory(
                atPath: deep, withIntermediateDirectories: true)
            let text = "\(UInt32.random(in: 0...UInt32.max))"
            try text.write(toFile: deep + "/file", atomically: false, encoding: .utf8)
            try lab.install(
                "test.Files", in: "default-dvm",
                "cat ~/.config/deep/file; touch ~/new /usr/local/etc/qubes-rpc/test.New; ls ~")
            let first = try lab.call("test.Files", to: "@dispvm")
            #expect(first.text.hasPrefix(text), "\(first)")
            #expect(try lab.call("test.Files", to: "@dispvm").text == first.text)
            #expect(!FileManager.default.fileExists(atPath: "\(root)/home/user/new"))
            try nothingLeaks()
        }

        // MARK: What ends a call

        enum Victim: String, CaseIterable, CustomTestStringConvertible {
            case caller, sourceAgent, sourceDaemon, policyService
            case agent, daemon, dataProcess, service, qube
            var testDescription: String { rawValue }
        }

        @Test("None outlives its call, whatever is killed", arguments: Victim.allCases)
        func killed(_ victim: Victim) throws {
            try poolIsFull()
            let call = try lab.start("work", ["qrexec-client-vm", "@dispvm", "test.Hold"])
            try call.expect("ready")
            let disposable = try #require(try used.first)
            try kill(victim, disposable)
            // Some do not end the call; then its caller does.
            call.closeInput()
            try? kill("qrexec-client-vm", in: "work")
            #expect(try call.wait().status != 0)
            try nothingLeaks()
            try poolIsFull()
            try eventually("calls work again") {
                try lab.call("test.Name", to: "@dispvm").status == 0
            }
        }

        private func kill(_ victim: Victim, _ disposable: Lab.Status.Qube) throws {
            let work = try lab.qube("work")
            switch victim {
            case .caller: try kill("qrexec-client-vm", in: "work")
            case .sourceAgent: Foundation.kill(try #require(work.agentPid), SIGKILL)
            case .sourceDaemon: Foundation.kill(try #require(work.daemonPid), SIGKILL)
            case .policyService: try kill("qrexec-policy-daemon", in: "dom0")
            case .agent: Foundation.kill(try #require(disposable.agentPid), SIGKILL)
            case .daemon: Foundation.kill(try #require(disposable.daemonPid), SIGKILL)
            case .dataProcess: try kill("qrexec-agent-data", in: disposable.name)
            case .service: try kill("/usr/local/etc/qubes-rpc/test.Hold", in: disposable.name)
            case .qube: #expect(try lab.command("kill", [disposable.name]).status == 0)
            }
        }

        private func kill(_ command: String, in qube: String) throws {
            for process in try lab.processes(qube)
            where process.command.split(separator: " ").contains(where: {
                $0 == command || $0.hasSuffix("/\(command)")
            }) {
                try lab.kill(process.pid, in: qube)
            }
        }

        @Test(
            "None is left of a call that ends while its disposable is being made",
            arguments: [0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
        func givenUp(_ seconds: Double) throws {
            let call = try lab.start(
                "work", ["qrexec-client-vm", "@dispvm:plain-dvm", "test.Hold"])
            try eventually("the caller runs") {
                try lab.processes("work").contains { $0.command.contains("qrexec-client-vm") }
            }
            usleep(UInt32(seconds * 1_000_000))
            try kill("qrexec-client-vm", in: "work")
            _ = try call.wait()
            try nothingLeaks()
        }

        @Test("None is left when the source's daemon ends while one is being made")
        func daemonEnds() throws {
            for seconds in [0.01, 0.1, 0.2] {
                let call = try lab.start(
                    "work", ["qrexec-client-vm", "@dispvm:plain-dvm", "test.Hold"])
                usleep(UInt32(seconds * 1_000_000))
                Foundation.kill(try #require(lab.qube("work").daemonPid), SIGKILL)
                call.closeInput()
                try? kill("qrexec-client-vm", in: "work")
                _ = try call.wait()
                try nothingLeaks()
                try eventually("calls work again") {
                    try lab.call("test.Name", to: "@dispvm").status == 0
                }
            }
        }

        // MARK: Opening

        private func opener(_ script: String) throws {
            let home = try "\(lab.qube("default-dvm").root)/home/user"
            try FileManager.default.createDirectory(
                atPath: "\(home)/.config/qubes", withIntermediateDirectories: true)
            try "#!/bin/bash\n\(script)\n".write(
                toFile: "\(home)/opener", atomically: false, encoding: .utf8)
            try FileManager.default.setAttributes(
                [.posixPermissions: 0o755], ofItemAtPath: "\(home)/opener")
            try "opener = /home/user/opener\n".write(
                toFile: "\(home)/.config/qubes/open.conf", atomically: false, encoding: .utf8)
        }

        @Test("A file is edited in a disposable, which lasts as long as its viewer")
        func open() throws {
            try opener(#"setsid bash -c 'sleep 2; echo " by $(hostname)" >> "$0"' "$1" & exit 0"#)
            try lab.script("work", "printf old > ~/note").expectSuccess()
            try lab.run("work", ["qvm-open-in-dvm", "/home/user/note"]).expectSuccess()
            let text = try lab.script("work", "cat ~/note").text
            #expect(text.hasPrefix("old by disp"))
            try nothingLeaks()
            try lab.run("work", ["qvm-open-in-dvm", "--view-only", "/home/user/note"])
                .expectSuccess()
            #expect(try lab.script("work", "cat ~/note").text == text)
            try nothingLeaks()
        }

        @Test("An address is opened in a disposable, which lasts as long as its browser")
        func address() throws {
            try opener(
                #"setsid bash -c 'until [ -e /tmp/end ]; do sleep 0.1; done; :' x "$1" & exit 0"#)
            let call = try lab.start(
                "work", ["qvm-open-in-dvm", "https://example.org/"], input: [])
            try eventually("the browser runs") {
                guard let name = try used.first?.name else { return false }
                return try lab.processes(name).contains { $0.command.hasPrefix("bash") }
            }
            // Longer than an opener may take to start a browser.
            usleep(2_000_000)
            let disposable = try #require(try used.first)
            try lab.run(disposable.name, ["touch", "/tmp/end"]).expectSuccess()
            try call.wait().expectSuccess()
            try nothingLeaks()
        }
    }
}

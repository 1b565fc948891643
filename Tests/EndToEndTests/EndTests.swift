import Foundation
import Testing

extension EndToEnd {
    @Suite("How calls end", .serialized)
    struct Ends {
        let lab: Lab

        init() throws {
            lab = try Lab.shared.get()
            try lab.install("test.Echo", "cat")
            try lab.install("test.Hold", "echo ready; cat")
        }

        @Test("Every exit status arrives as it was")
        func statuses() throws {
            try lab.install("test.Exit", #"exit "$1""#)
            let outcome = try lab.script(
                "work",
                """
                for i in {0..255}; do
                    qrexec-client-vm personal test.Exit+$i </dev/null || [ $? = $i ] || echo $i
                done
                """)
            #expect(outcome.text == "", "these arrived as something else")
        }

        @Test("A service killed by signal n gives 128 + n", arguments: [1, 2, 6, 9, 11, 13, 15])
        func signals(_ signal: Int) throws {
            try lab.install("test.Signal", "ulimit -c 0; kill -$1 $$; sleep 60")
            #expect(try lab.call("test.Signal+\(signal)").status == Int32(128 + signal))
        }

        enum Victim: String, CaseIterable {
            case targetAgent, targetDaemon, sourceAgent, sourceDaemon, dataProcess, service, client
        }

        @Test(
            "A part killed in a call gives the other end an error, and leaves nothing behind",
            arguments: Victim.allCases)
        func killed(_ victim: Victim) throws {
            #expect(try lab.call("test.Echo", input: "x").text == "x")
            let sides = ["work", "personal"]
            // The end of a call is known to its caller before all is put away at the service's side.
            try eventually("nothing of that call is there any more") {
                try sides.allSatisfy { try isIdle(lab.processes($0)) }
            }
            let before = try sides.map { try lab.processes($0) }
            let sockets = lab.rendezvous

            let call = try lab.start("work", ["qrexec-client-vm", "personal", "test.Hold"])
            try call.expect("ready")
            try kill(victim)
            let outcome = try call.wait()
            // The service and the client end by the signal itself.
            #expect(outcome.status == ([.service, .client].contains(victim) ? 137 : 255))

            #expect(try lab.call("test.Echo", input: "next").text == "next")
            for (side, before) in zip(sides, before) {
                var now = before
                eventually("\(side) is as it was before the call") {
                    now = (try? lab.processes(side)) ?? []
                    return isNoMore(now, than: before)
                }
                #expect(isNoMore(now, than: before), "\(now), before: \(before)")
            }
            eventually("no socket is left") { lab.rendezvous == sockets }
        }

        private func kill(_ victim: Victim) throws {
            let (work, personal) = try (lab.qube("work"), lab.qube("personal"))
            switch victim {
            case .targetAgent: Foundation.kill(try #require(personal.agentPid), SIGKILL)
            case .targetDaemon: Foundation.kill(try #require(personal.daemonPid), SIGKILL)
            case .sourceAgent: Foundation.kill(try #require(work.agentPid), SIGKILL)
            case .sourceDaemon: Foundation.kill(try #require(work.daemonPid), SIGKILL)
            case .dataProcess: try kill("qrexec-agent-data", in: "personal")
            case .service: try kill("/usr/local/etc/qubes-rpc/test.Hold", in: "personal")
            case .client: try kill("qrexec-client-vm", in: "work")
            }
        }

        private func kill(_ command: String, in qube: String) throws {
            let found = try lab.processes(qube).filter {
                $0.command.split(separator: " ").contains { $0 == command }
            }
            #expect(found.count == 1, "\(found)")
            for process in found { try lab.kill(process.pid, in: qube) }
        }

        /// Whether no service runs and no data channel is open; the agent's own channel is.
        private func isIdle(_ processes: Set<Lab.QubeProcess>) -> Bool {
            processes.allSatisfy { process in
                // One that has ended and was not reaped yet has no command.
                process.command.contains { $0 != " " }
                    && !process.command.contains("qubes-rpc/")
                    && !process.command.contains("qrexec-pam-session")
                    && process.mappings == (process.command.hasPrefix("qrexec-agent ") ? 1 : 0)
            }
        }

        /// Whether the same programs run, maybe started again, and none holds more than before, but an
        /// agent one descriptor for a data process that it has started itself.
        private func isNoMore(_ now: Set<Lab.QubeProcess>, than before: Set<Lab.QubeProcess>)
            -> Bool
        {
            let pairs = zip(
                now.sorted { $0.command < $1.command },
                before.sorted { $0.command < $1.command })
            return now.count == before.count
                && pairs.allSatisfy {
                    $0.command == $1.command && $0.descriptors <= $1.descriptors + 1
                        && $0.mappings <= $1.mappings
                }
        }

        @Test("A halted qube is started by a call")
        func startOnDemand() throws {
            #expect(try lab.qube("sleeper").powerState == "Halted")
            #expect(try lab.call("test.Nowhere", to: "sleeper").status == 127)
            #expect(try lab.qube("sleeper").powerState == "Running")
            try lab.install("test.Echo", in: "sleeper", "cat")
            #expect(try lab.call("test.Echo", to: "sleeper", input: "awake").text == "awake")
            #expect(try lab.command("shutdown", ["sleeper"]).status == 0)
            #expect(try lab.call("test.Echo", to: "sleeper", input: "again").text == "again")
        }

        @Test("A qube that halts in a call ends it with an error")
        func haltedInCall() throws {
            try lab.install("test.Hold", in: "vault", "echo ready; cat")
            let call = try lab.start("work", ["qrexec-client-vm", "vault", "test.Hold"])
            try call.expect("ready")
            #expect(try lab.command("kill", ["vault"]).status == 0)
            #expect(try call.wait().status == 255)
            #expect(try lab.command("start", ["vault"]).status == 0)
        }

        @Test(
            "dom0 is called by its keyword and its name, and is told which",
            arguments: [
                ("@adminvm", "keyword  adminvm"), ("dom0", "name dom0 "),
            ])
        func toDom0(_ target: String, _ expected: String) throws {
            try lab.install(
                "test.Dom0", in: "dom0",
                """
                echo "$QREXEC_REMOTE_DOMAIN:$QREXEC_REQUESTED_TARGET_TYPE" \
                    "$QREXEC_REQUESTED_TARGET $QREXEC_REQUESTED_TARGET_KEYWORD"
                cat; exit 17
                """)
            let outcome = try lab.call("test.Dom0", to: target, input: "data")
            #expect(outcome.text == "work:\(expected)\ndata")
            #expect(outcome.status == 17)
        }

        @Test("Every exit status of a program that dom0 calls in a qube arrives")
        func fromDom0() throws {
            try lab.install("test.Exit", #"cat; exit "$1""#)
            for status in [0, 1, 125, 126, 127, 255] {
                let outcome = try lab.run(
                    "dom0",
                    [
                        "qrexec-client", "-d", "personal",
                        "DEFAULT:QUBESRPC test.Exit+\(status) dom0",
                    ],
                    input: "data")
                #expect(outcome.status == Int32(status), "\(outcome.errors)")
                #expect(outcome.text == "data")
            }
        }
    }

    @Suite("Much at once", .serialized)
    struct Load {
        let lab: Lab

        init() throws {
            lab = try Lab.shared.get()
            for qube in ["work", "personal"] { try lab.install("test.Echo", in: qube, "cat") }
        }

        /// 1 GiB takes longer than all other tests together: QREXEC_SOAK=1 adds it.
        static let dataSizes =
            [0, 1, 4095, 65_535, 65_536, 65_537, 1 << 20, 64 << 20]
            + (ProcessInfo.processInfo.environment["QREXEC_SOAK"] == nil ? [] : [1 << 30])

        @Test("Data of every size arrives unchanged in both directions", arguments: dataSizes)
        func sizes(_ size: Int) throws {
            let outcome = try lab.script(
                "work",
                """
                head -c \(size) /dev/urandom | tee >(sha256sum > /tmp/sent) |
                    qrexec-client-vm personal test.Echo | sha256sum > /tmp/back
                status=$?
                until [ -s /tmp/sent ]; do sleep 0.01; done
                cmp /tmp/sent /tmp/back && rm /tmp/sent /tmp/back && exit $status
                """)
            #expect(outcome.status == 0, "\(outcome.text)\(outcome.errors)")
        }

        @Test("120 calls between the same two qubes run at once, and as many back meanwhile")
        func parallel() throws {
            let calls = 120
            // Each service says that it runs, and goes on when the test says so.
            for qube in ["work", "personal"] {
                try lab.install("test.Gate", in: qube, "echo up; cat; exit $1")
            }
            let script = { (target: String) in
                """
                for i in {1..\(calls)}; do
                    { qrexec-client-vm \(target) test.Gate+$i < <(until [ -e /tmp/gate ]; do sleep 0.5; done; echo $i) |
                        { read up; echo $up; cat; }; [ ${PIPESTATUS[0]} = $i ] || echo wrong; } &
                done; wait; echo finished
                """
            }
            let sides = [("work", "personal"), ("personal", "work")]
            let running = try sides.map { source, target in
                try lab.script(source, "rm -f /tmp/gate").expectSuccess()
                return try lab.start(source, ["bash", "-c", script(target)])
            }
            for (side, program) in zip(sides, running) {
                try program.expect(String(repeating: "up\n", count: calls))
                try lab.script(side.0, ": > /tmp/gate").expectSuccess()
            }
            for program in running {
                let lines = try program.finish().text.split(separator: "\n")
                let numbers = lines.compactMap { Int($0) }.sorted()
                #expect(numbers == Array(1...calls))
                #expect(lines.last == "finished")
                #expect(!lines.contains("wrong"))
            }
        }

        @Test("A service name of 5,000 characters is refused, and later calls work")
        func longName() throws {
            let outcome = try lab.call(String(repeating: "x", count: 5000))
            #expect([125, 126, 127, 1].contains(outcome.status))
            #expect(outcome.errors != "")
            #expect(try lab.call("test.Echo", input: "later").text == "later")
            #expect(
                try lab.call("test.Echo", from: "personal", to: "work", input: "x").text == "x")
        }
    }
}

extension Outcome {
    func expectSuccess(sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(status == 0, "\(text)\(errors)", sourceLocation: sourceLocation)
    }
}

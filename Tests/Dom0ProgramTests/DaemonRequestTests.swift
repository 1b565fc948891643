import Glibc
import Testing

extension Dom0Programs {
    /// What becomes of the requests of a daemon's qube.
    @Suite struct DaemonRequests {
        let scene: Scene
        init() throws { scene = try Scene() }

        // MARK: The question

        @Test(arguments: [(2, 2), (3, 3), (3, 4), (4, 4)] as [(UInt32, UInt32)])
        func thePolicyIsAskedAndARefusalKeepsTheIdent(request: UInt32, version: UInt32) throws {
            let policy = try scene.policy { _ in "result=deny\n" }
            let (agent, _) = try scene.daemon(version: version)
            try agent.send(trigger(request, service: "test.Service+arg"))
            #expect(try agent.message() == refused("SOCKET7"))
            let claimed = request == 4 ? "requested_source=\n" : ""
            let question =
                "source=source\n\(claimed)intended_target=target\n"
                + "service_and_arg=test.Service+arg\n\n"
            #expect(policy.texts == [question])
        }

        @Test func theClaimedSourceOfARelayIsPassedOn() throws {
            let policy = try scene.policy { _ in "result=deny\n" }
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(source: "remote"))
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(
                policy.texts.first?.contains("source=source\nrequested_source=remote\n") == true)
        }

        @Test(arguments: [(4, 3), (4, 2), (3, 2), (2, 3), (2, 4)] as [(UInt32, UInt32)])
        func aRequestOfTheWrongVersionEndsTheChannel(request: UInt32, version: UInt32) throws {
            let (agent, _) = try scene.daemon(version: version)
            try agent.send(trigger(request))
            #expect(agent.isClosed())
        }

        @Test func charactersThatNamesCannotHaveAreReplaced() throws {
            let policy = try scene.policy { _ in "result=deny\n" }
            let (agent, _) = try scene.daemon()
            try agent.send(
                trigger(source: "r e$", target: "@dispvm:a/b\u{e9}", service: "a.B+c d\ne=f"))
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(
                policy.texts == [
                    "source=source\nrequested_source=r_e_\nintended_target=@dispvm:a_b__\n"
                        + "service_and_arg=a.B+c_d_e_f\n\n"
                ])
        }

        static let malformed: [(service: [UInt8], ident: [UInt8])] = [
            ([0], field("SOCKET7", 32)), (Array("+arg".utf8) + [0], field("SOCKET7", 32)),
            (Array("a.B".utf8), field("SOCKET7", 32)),
            (Array("a".utf8) + [0] + Array("b".utf8) + [0], field("SOCKET7", 32)),
            (Array("a.B".utf8) + [0], [UInt8](repeating: 0x41, count: 32)),
            (Array("a.B".utf8) + [0], field("SOCK/ET", 32)),
            (Array("a.B".utf8) + [0], field("a\0b", 32)),
            (Array("a.B".utf8) + [0], [UInt8](repeating: 0xFF, count: 32)),
            (Array(String(repeating: "a", count: 256).utf8) + [0], field("SOCKET7", 32)),
        ]

        @Test(arguments: malformed)
        func malformedRequestsAreRefusedWithTheirIdentAndNobodyIsAsked(
            service: [UInt8], ident: [UInt8]
        ) throws {
            let policy = try scene.policy { _ in allow("target") }
            let (agent, _) = try scene.daemon()
            try agent.send(message(0x213, field("", 64) + field("t", 64) + ident + service))
            #expect(try agent.message() == message(0x203, ident))
            #expect(policy.texts == [])
        }

        @Test(arguments: [
            message(0x213, field("", 64) + field("t", 64) + field("SOCKET7", 32)),
            message(0x212, field("t", 64) + field("SOCKET7", 32)),
            little(0x213) + little(160 + 65001), little(0x212) + little(96 + 65001),
            little(0x210) + little(127), message(0x300, little(4)), message(0x200, little(0)),
            message(0x202, field("", 40)), message(0x203, field("", 32)), message(0x190, []),
            message(0x211, little(0)), place(0x211, 0, 512), place(0x211, 0, 769),
            little(0x999) + little(0), little(0x213) + little(.max),
        ])
        func whatNoAgentSendsEndsTheChannel(bytes: [UInt8]) throws {
            let (agent, _) = try scene.daemon()
            try agent.send(bytes)
            #expect(agent.isClosed())
        }

        @Test func aServiceNameMayHave65000Bytes() throws {
            let policy = try scene.policy { _ in "result=deny\n" }
            let (agent, _) = try scene.daemon()
            let service = "a.B+" + String(repeating: "x", count: 64995)
            try agent.send(trigger(service: service))
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(policy.texts.first?.hasSuffix("\nservice_and_arg=\(service)\n\n") == true)
        }

        // MARK: The answer

        static let badAnswers: [String?] = [
            nil, "", "\n", "result=allow\n", "result=maybe\n", "deny", "result=deny\nuser=x\n",
            "result=deny\n\n", "result=deny\nresult=deny\n", "result=deny\0\n",
            allow("target") + "nonsense\n", allow("target") + "target=other\n",
            allow("target").replacing("True", with: "yes"),
            allow("target").replacing("requested_target=target\n", with: ""),
            allow("target").replacing("user=DEFAULT\n", with: ""),
            allow("target").replacing("autostart=True\n", with: ""),
            allow("target", more: "x=" + String(repeating: "y", count: 4096) + "\n"),
        ]

        @Test(arguments: badAnswers) func aBadAnswerIsADenial(answer: String?) throws {
            try scene.policy { _ in answer }
            let target = try scene.targetDaemon("target")
            let (agent, _) = try scene.daemon()
            try agent.send(trigger())
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(throws: Failure.self) { try target.accept(milliseconds: 100) }
        }

        @Test func withoutAPolicyServiceEverythingIsDenied() throws {
            let (agent, _) = try scene.daemon()
            try agent.send(trigger() + trigger(3, ident: "SOCKET8"))
            #expect(
                try Set([agent.message(), agent.message()]) == [
                    refused("SOCKET7"), refused("SOCKET8"),
                ])
        }

        // MARK: The program that is asked instead

        private func program(_ script: String) throws -> String {
            try scene.install("policy", "echo \"$@\" >>\(scene.directory)/asked\n\(script)")
            return "\(scene.directory)/services/policy"
        }

        private var asked: String {
            (try? String(contentsOfFile: "\(scene.directory)/asked", encoding: .utf8)) ?? ""
        }

        @Test(arguments: [nil, "garbage"] as [String?])
        func aNamedProgramIsAskedWhenTheServiceDoesNotAnswer(service: String?) throws {
            if let service { try scene.policy { _ in service } }
            let path = try program("printf '%s' '\(allow("target"))'")
            let target = try scene.targetDaemon("target")
            let (agent, _) = try scene.daemon(["--policy-program=\(path)"])
            try agent.send(trigger(service: "test.Service+arg"))
            let call = try target.accept()
            try call.greet(3, answer: 3)
            #expect(
                try call.message()
                    == exec(42, 0, "DEFAULT:QUBESRPC test.Service+arg source"))
            #expect(asked == "-- source target test.Service+arg\n")
        }

        @Test func itIsToldTheClaimedSource() throws {
            let path = try program("echo result=deny")
            let (agent, _) = try scene.daemon(["-p", path])
            try agent.send(trigger(source: "remote"))
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(asked == "--requested-source=remote -- source target test.Service\n")
        }

        @Test(arguments: [
            "exit 1", "echo result=deny; exit 1", "echo nonsense", "echo result=allow",
            "kill -9 $$",
            "head -c 100000 /dev/zero",
        ])
        func itsAnswerIsCheckedAsStrictly(script: String) throws {
            let path = try program(script)
            let (agent, _) = try scene.daemon(["-p", path])
            try agent.send(trigger())
            #expect(try agent.message() == refused("SOCKET7"))
        }

        @Test func anAnswerWithABadStatusIsNone() throws {
            let path = try program("printf '%s' '\(allow("target"))'; exit 1")
            let target = try scene.targetDaemon("target")
            let (agent, _) = try scene.daemon(["-p", path])
            try agent.send(trigger())
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(throws: Failure.self) { try target.accept(milliseconds: 100) }
        }

        @Test func itIsNotAskedWhenTheServiceAnswers() throws {
            try scene.policy { _ in "result=deny\n" }
            let path = try program("printf '%s' '\(allow("target"))'")
            let (agent, _) = try scene.daemon(["-p", path])
            try agent.send(trigger())
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(asked == "")
        }

        // MARK: Calls to qubes

        @Test func anAllowedCallIsConnectedToTheTarget() throws {
            try scene.policy { _ in allow("target", user: "joe") }
            let target = try scene.targetDaemon("target")
            let (agent, _) = try scene.daemon()
            try agent.send(trigger())
            let call = try target.accept()
            try call.greet(3, answer: 3)
            #expect(try call.message() == exec(42, 0, "joe:QUBESRPC test.Service+ source"))
            #expect(agent.isQuiet(milliseconds: 50))
            try call.send(place(0x200, 7, 530))
            #expect(try agent.message() == serviceConnect(7, 530, "SOCKET7"))
            // Both sides tell the end; the port is the other daemon's.
            try agent.send(place(0x211, 7, 530))
            #expect(agent.isQuiet(milliseconds: 50))
        }

        @Test(arguments: [
            allow("source"), allow("uuid:\(Scene.uuid)"),
            allow("source", uuid: "uuid:\(Scene.uuid)"), allow("42"),
        ])
        func aQubeCannotCallItselfHoweverItIsSpelled(answer: String) throws {
            try scene.policy { _ in answer }
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(service: "a.B"))
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(agent.isQuiet())
        }

        @Test func theUUIDIsPreferredToTheName() throws {
            try scene.policy { _ in allow("other", uuid: "uuid:1234-5") }
            let target = try scene.targetDaemon("uuid:1234-5")
            let (agent, _) = try scene.daemon()
            try agent.send(trigger())
            try target.accept().greet(3, answer: 3)
        }

        @Test func relaysReplaceServiceAndSource() throws {
            try scene.policy { _ in
                allow("relay", more: "service=qubes.Transport+target+a.B+\npolicy_source=remote\n")
            }
            let target = try scene.targetDaemon("relay")
            let (agent, _) = try scene.daemon()
            try agent.send(trigger(service: "a.B"))
            let call = try target.accept()
            try call.greet(3, answer: 3)
            #expect(
                try call.message()
                    == exec(42, 0, "DEFAULT:QUBESRPC qubes.Transport+target+a.B+ remote"))
        }

        @Test(arguments: ["closes", "lies", "garbage", "old"])
        func aTargetThatDoesNotAnswerWellIsARefusal(how: String) throws {
            try scene.policy { _ in allow("target") }
            let target = try scene.targetDaemon("target")
            let (agent, _) = try scene.daemon()
            try agent.send(trigger())
            do {
                let call = try target.accept()
                if how == "old" {
                    try call.send(hello(2))
                } else {
                    try call.greet(3, answer: 3)
                    _ = try call.message()
                }
                if how == "lies" { try call.send(place(0x201, 7, 530)) }
                if how == "garbage" { try call.send(message(0x200, [1, 2, 3])) }
            }
            #expect(try agent.message() == refused("SOCKET7"))
        }

        @Test func requestsAreIndependentOfEachOther() throws {
            try scene.policy { $0.contains("a.Fast") ? allow("target") : nil }
            let target = try scene.targetDaemon("target")
            let (agent, _) = try scene.daemon()
            try agent.send(
                trigger(ident: "one", service: "a.Slow") + trigger(ident: "two", service: "a.Fast"))
            let call = try target.accept()
            try call.greet(3, answer: 3)
            _ = try call.message()
            #expect(try agent.message() == refused("one"))
            try call.send(place(0x200, 7, 530))
            #expect(try agent.message() == serviceConnect(7, 530, "two"))
        }

        // MARK: Qubes that do not run

        @Test(arguments: ["0\0", "2\0QubesVMNotHaltedError\0\0text\0\0"])
        func aTargetThatDoesNotRunIsStarted(answer: String) throws {
            try scene.policy { _ in allow("target", uuid: "uuid:1-2") }
            let path = scene.socket("uuid:1-2")
            nonisolated(unsafe) var listener: Listener?
            let qubesd = try scene.qubesd { _ in
                listener = try? Listener(path)
                return answer
            }
            let (agent, _) = try scene.daemon()
            try agent.send(trigger())
            try eventually("the target is started") { qubesd.texts.count == 1 && listener != nil }
            let call = try listener!.accept()
            try call.greet(3, answer: 3)
            _ = try call.message()
            try call.send(place(0x200, 7, 530))
            #expect(try agent.message() == serviceConnect(7, 530, "SOCKET7"))
            #expect(qubesd.texts == ["admin.vm.Start+ dom0 name uuid:1-2\0"])
        }

        @Test(arguments: ["2\0QubesVMError\0\0failed\0\0", "", "1\0", "garbage"])
        func aTargetThatCannotBeStartedIsARefusal(answer: String) throws {
            try scene.policy { _ in allow("target") }
            try scene.qubesd { _ in answer }
            let (agent, _) = try scene.daemon()
            try agent.send(trigger())
            #expect(try agent.message() == refused("SOCKET7"))
        }

        @Test func autostartFalseStartsNothing() throws {
            try scene.policy { _ in allow("target", autostart: false) }
            let qubesd = try scene.qubesd { _ in "0\0" }
            let (agent, _) = try scene.daemon()
            try agent.send(trigger())
            #expect(try agent.message() == refused("SOCKET7"))
            #expect(qubesd.texts == [])
        }

        // MARK: Local answers of other implementations' helpers

        @Test func aHelperMayConnectARequestThatWaits() throws {
            try scene.policy { _ in
                sleep(2)
                return "result=deny\n"
            }
            let (agent, _) = try scene.daemon()
            try agent.send(trigger() + trigger(ident: "SOCKET8"))
            usleep(100_000)
            let helper = try scene.client()
            try helper.send(serviceConnect(7, 530, "SOCKET7"))
            #expect(try agent.message() == serviceConnect(7, 530, "SOCKET7"))
            let dom0 = try scene.client()
            try dom0.send(serviceConnect(0, 0, "SOCKET8"))
            #expect(try dom0.message() == place(0x202, 42, 513))
            #expect(try agent.message() == serviceConnect(0, 513, "SOCKET8"))
            // Once only, and the policy's answer comes too late.
            let again = try scene.client()
            try again.send(serviceConnect(7, 532, "SOCKET7"))
            #expect(again.isClosed())
            #expect(agent.isQuiet(milliseconds: 2500))
        }
    }
}

import QrexecRuntime
import Testing

@testable import QrexecDom0

@Suite("Asking and telling people", .serialized)
struct PromptTests {
    static let policy = [
        "30-user.policy": """
        test.Ask +x work vault ask default_target=vault
        test.Ask * work @anyvm ask
        test.Other * @anyvm @anyvm ask target=@dispvm
        test.Quiet * work vault deny notify=no
        test.Told * work vault allow notify=yes
        """
    ]

    @Test("A person is asked in the terms of the protocol, and the answer decides")
    func allowed() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let agent = try FakePromptAgent(
            harness.loop, harness.root + "/policy.Ask", answer: "allow:personal")
        let answer = try harness.call("work", "vault", "test.Ask+x")
        #expect(answer["result"] == "allow")
        #expect(answer["target"] == "personal")
        #expect(answer["requested_target"] == "vault")
        let call = try #require(agent.calls.first)
        #expect(call.descriptor == "policy.Ask dom0 name dom0")
        #expect(call.payload["source"]?.string == "work")
        #expect(call.payload["service"]?.string == "test.Ask")
        #expect(call.payload["argument"]?.string == "+x")
        #expect(call.payload["targets"]?.array?.map(\.string) == ["personal", "vault"])
        #expect(call.payload["default_target"]?.string == "vault")
        #expect(call.payload["icons"]?["vault"]?.string == "appvm-red")
    }

    @Test(
        "Anything but a valid consent is a denial",
        arguments: ["deny", "", "allow:", "allow:dom0", "allow:ghost", "yes", "allow:vault\n"])
    func refused(answer: String) throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let agent = try FakePromptAgent(
            harness.loop, harness.root + "/policy.Ask", answer: answer)
        #expect(try harness.call("work", "vault", "test.Ask")["result"] == "deny")
        #expect(agent.calls.count == 1)
    }

    @Test("Without anybody to ask the call is denied")
    func nobody() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        #expect(try harness.call("work", "vault", "test.Ask")["result"] == "deny")
    }

    @Test("An open prompt holds up nobody, and is given up when its caller goes")
    func slow() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let agent = try FakePromptAgent(harness.loop, harness.root + "/policy.Ask", answer: nil)
        var client: Client? = try Client(
            harness.loop, harness.root + "/policy.sock",
            "source=work\nintended_target=vault\nservice_and_arg=test.Ask\n\n")
        try harness.run(until: { agent.calls.count == 1 })
        #expect(try harness.call("work", "vault", "test.Told")["result"] == "allow")
        #expect(client?.isDone == false)
        client = nil
        try harness.run(until: { agent.gone == 1 })
    }

    @Test("Consent to a call that policy meanwhile denies counts for nothing")
    func changed() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let agent = try FakePromptAgent(
            harness.loop, harness.root + "/policy.Ask", answer: "allow:vault")
        harness.qubesd.isAnswering = true
        agent.answer = "allow:vault"
        #expect(try harness.call("work", "vault", "test.Ask")["result"] == "allow")
        agent.answer = nil
        let client = try Client(
            harness.loop, harness.root + "/policy.sock",
            "source=work\nintended_target=vault\nservice_and_arg=test.Ask\n\n")
        try harness.run(until: { agent.calls.count == 2 })
        harness.write("10-first.policy", "* * * * deny\n")
        try agent.answerHeld("allow:vault")
        try harness.run(until: { client.isDone })
        #expect(String(decoding: client.answer, as: UTF8.self).contains("result=deny"))
    }

    @Test("Consent does not pass to another qube of the same name")
    func reusedName() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let agent = try FakePromptAgent(harness.loop, harness.root + "/policy.Ask", answer: nil)
        let client = try Client(
            harness.loop, harness.root + "/policy.sock",
            "source=work\nintended_target=vault\nservice_and_arg=test.Ask\n\n")
        try harness.run(until: { agent.calls.count == 1 })
        harness.qubesd.information = FakeQubesd.system(["work": 1, "vault": 8, "personal": 3])
        harness.qubesd.send("domain-delete", subject: "")
        harness.qubesd.send("domain-add", subject: "")
        try agent.answerHeld("allow:vault")
        try harness.run(until: { client.isDone })
        #expect(String(decoding: client.answer, as: UTF8.self).contains("result=deny"))
    }

    @Test("No qube opens more prompts than fit")
    func limit() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let agent = try FakePromptAgent(harness.loop, harness.root + "/policy.Ask", answer: nil)
        let clients = try (0..<12).map { _ in
            try Client(
                harness.loop, harness.root + "/policy.sock",
                "source=work\nintended_target=vault\nservice_and_arg=test.Ask\n\n")
        }
        let limit = PolicyPrompts.maximumOpen
        try harness.run(until: { clients.filter(\.isDone).count == 12 - limit })
        try harness.run(until: { agent.calls.count == limit })
        #expect(harness.log.contains("too many open prompts"))
    }

    @Test("People are told of a denial, and of an allowed call where the rule says so")
    func notifications() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let agent = try FakePromptAgent(harness.loop, harness.root + "/policy.Notify", answer: "")
        _ = try harness.call("vault", "work", "test.Nothing+a")
        try harness.run(until: { agent.calls.count == 1 })
        #expect(agent.calls[0].payload["resolution"]?.string == "deny")
        #expect(agent.calls[0].payload["target"]?.string == "work")
        #expect(agent.calls[0].payload["argument"]?.string == "+a")
        _ = try harness.call("work", "vault", "test.Quiet")
        _ = try harness.call("work", "*", "test.Nothing")
        _ = try harness.call("work", "vault", "test.Told")
        try harness.run(until: { agent.calls.count == 2 })
        #expect(agent.calls[1].payload["resolution"]?.string == "allow")
        #expect(agent.calls[1].payload["target"]?.string == "vault")
    }

    @Test("A qube that is refused all the time fills neither the screen nor the log")
    func flood() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let agent = try FakePromptAgent(harness.loop, harness.root + "/policy.Notify", answer: "")
        for _ in 0..<300 {
            #expect(try harness.call("vault", "work", "test.Nothing")["result"] == "deny")
        }
        #expect(agent.calls.count < 30)
        let lines = harness.log.split(separator: "\n")
        #expect(lines.filter { $0.contains("denied:") }.count < 280)
        #expect(lines.filter { $0.contains("too many refused calls") }.count >= 1)
        #expect(lines.filter { $0.contains("too many refused calls") }.count < 20)
    }

    @Test("A rate has a burst and comes back with time")
    func rate() {
        var limiter = RateLimiter(burst: 2, perSecond: 1)
        #expect(limiter.admit("a", now: 0) == .admitted)
        #expect(limiter.admit("a", now: 0) == .admitted)
        #expect(limiter.admit("a", now: 0) == .refusedFirst)
        #expect(limiter.admit("a", now: 0) == .refused)
        #expect(limiter.admit("b", now: 0) == .admitted)
        #expect(limiter.admit("a", now: seconds(1)) == .admitted)
        #expect(limiter.admit("a", now: seconds(1)) == .refusedFirst)
    }
}

@Suite("Those who only want to know", .serialized)
struct EvaluationTests {
    static let policy = ["30-user.policy": "test.Ok * work vault allow\ntest.Ask * work * ask\n"]

    private func ask(
        _ request: String, isGUI: Bool = false, information: String = FakeQubesd.standard
    ) throws -> String {
        let harness = try ServiceHarness(policy: Self.policy, qubesdAnswers: false)
        harness.qubesd.information = information
        try harness.run(until: { harness.authority.knowsQubes })
        let path = harness.root + "/eval.sock"
        let server = try PolicyServer.forEvaluation(
            harness.authority, harness.loop, path: path, isGUI: isGUI,
            log: Log(program: "test"))
        let client = try Client(harness.loop, path, request, finish: true)
        try withExtendedLifetime(server) { try harness.run(until: { client.isDone }) }
        return String(decoding: client.answer, as: UTF8.self)
    }

    @Test(
        "get the result, where ask counts as allow for what may be chosen",
        arguments: [
            ("policy.EvalSimple+test.Ok+x sys-gui\0work\0vault", "result=allow\n"),
            ("policy.EvalSimple+test.Ok sys-gui\0vault\0work", "result=deny\n"),
            ("policy.EvalSimple+test.Ask sys-gui\0work\0vault", "result=allow\n"),
            ("policy.EvalSimple+test.Ask sys-gui name dom0\0work\0@default", "result=deny\n"),
        ])
    func results(request: String, expected: String) throws {
        #expect(try ask(request) == expected)
    }

    @Test(
        "get nothing for what is no request",
        arguments: [
            "policy.EvalSimple+test.Ok sys-gui", "policy.EvalSimple+test.Ok sys-gui\0work",
            "policy.EvalSimple sys-gui\0work\0vault", "x\0\0",
            "policy.EvalSimple+test.Ok sys-gui\0work\0vault\0",
            "policy.EvalSimple+test.Ok sys-gui\0wo rk\0vault",
            "policy.EvalSimple+test.Ok g\0" + String(repeating: "a", count: 32) + "\0vault",
            "policy.EvalSimple+test.Ok g\0work\0" + String(repeating: "a", count: 64),
        ])
    func malformed(request: String) throws {
        #expect(try ask(request) == "")
    }

    @Test("A GUI qube is told about qubes that it shows, and about no others")
    func shown() throws {
        let request = "policy.EvalGUI+test.Ok sys-gui\0work\0vault"
        #expect(try ask(request, isGUI: true) == "")
        let shown = FakeQubesd.standard
            .replacing("\"t1\"", with: "\"guivm-sys-gui\"")
            .replacing("\"t2\"", with: "\"guivm-sys-gui\"")
        #expect(try ask(request, isGUI: true, information: shown) == "result=allow\n")
    }
}

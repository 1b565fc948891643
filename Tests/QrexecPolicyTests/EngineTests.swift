import QrexecPolicy
import Testing

@Suite("The engine")
struct EngineTests {
    static let system = SystemInformation([
        Qube(name: "dom0", uuid: "00000000-0000-0000-0000-000000000000", type: "AdminVM"),
        Qube(name: "work", uuid: "00000000-0000-0000-0000-000000000001", type: "AppVM"),
        Qube(name: "vault", uuid: "00000000-0000-0000-0000-000000000002", type: "AppVM"),
        Qube(
            name: "remote", uuid: "00000000-0000-0000-0000-000000000005", type: "RemoteVM",
            relay: "work", transportService: "qubes.Transport"),
    ])

    private func engine(_ text: String) -> PolicyEngine {
        PolicyEngine(load(["a.policy": text]).policy, Self.system)
    }

    private func answer(_ engine: PolicyEngine, _ decision: Decision, _ service: String) -> String {
        var bytes: [UInt8] = []
        engine.appendAnswer(to: decision, service: Array(service.utf8).span, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test("decides as walking the rules one by one does", arguments: PolicyVector.all)
    func agreesWithWalk(vector: PolicyVector) throws {
        let engine = PolicyEngine(vector.load().policy, try vector.system)
        for request in vector.json["requests"]?.array ?? [] {
            let service = request["service"]!.string! + request["argument"]!.string!
            let decision = engine.decide(
                source: request["source"]!.string!, target: request["target"]!.string!,
                service: service, claimedSource: request["requested_source"]?.string ?? "")
            if decision.reason.isInvalidRequest { continue }
            let walked = engine.consideredRules(for: decision, service: service)
            let first = walked.last.flatMap { $0.mismatch == nil ? $0.rule : nil } ?? -1
            #expect(first == Int(decision.rule))
        }
    }

    @Test("gives the same answer the second time, and a new one when the qubes change")
    func cache() {
        var engine = engine("a * work vault allow\na * @tag:x vault allow\n")
        for _ in 0..<3 {
            #expect(engine.decide(source: "work", target: "vault", service: "a").rule == 0)
            #expect(engine.decide(source: "remote", target: "vault", service: "a").rule == -1)
        }
        var qubes = Self.system.qubes
        qubes[3].tags = ["x"]
        engine.update(SystemInformation(qubes))
        #expect(engine.decide(source: "remote", target: "vault", service: "a").rule == 1)
    }

    @Test("denies a source that is not known, even where everything is allowed")
    func unknownSource() {
        let decision = engine("* * * * allow\n").decide(
            source: "ghost", target: "vault", service: "a")
        #expect(decision.outcome == .deny)
        #expect(decision.reason == .unknownSource)
    }

    @Test("treats a target that does not exist like one that is forbidden")
    func equalBehaviour() {
        let engine = engine("a * work dom0 allow\n")
        let missing = engine.decide(source: "work", target: "ghost", service: "a")
        let forbidden = engine.decide(source: "work", target: "vault", service: "a")
        #expect(answer(engine, missing, "a") == answer(engine, forbidden, "a"))
        #expect(missing.notify == forbidden.notify)
    }

    @Test("sends a call to a remote qube through its relay, the chosen target where none was named")
    func remote() {
        let engine = engine(
            "a * vault @default allow target=remote\nb * vault remote ask\nc * remote vault allow\n"
        )
        let redirected = engine.decide(source: "vault", target: "", service: "a+x")
        let text = answer(engine, redirected, "a+x")
        #expect(text.contains("target=work\n"))
        #expect(text.contains("service=qubes.Transport+remote+a+x\n"))
        let asked = engine.decide(source: "vault", target: "remote", service: "b")
        let chosen = engine.answered(asked, target: "remote")
        #expect(answer(engine, chosen, "b").contains("service=qubes.Transport+remote+b+\n"))
        let inbound = engine.decide(
            source: "work", target: "vault", service: "c", claimedSource: "remote")
        #expect(answer(engine, inbound, "c").contains("policy_source=remote\n"))
        let stolen = engine.decide(
            source: "vault", target: "vault", service: "c", claimedSource: "remote")
        #expect(stolen.reason == .badRelay)
    }

    @Test("never gives an answer that is longer than a daemon takes")
    func longAnswer() {
        let engine = engine("* * * * allow\n")
        let service = "a+" + String(repeating: "x", count: 5000)
        let decision = engine.decide(source: "vault", target: "remote", service: service)
        #expect(decision.outcome == .allow)
        let text = answer(engine, decision, service)
        #expect(text.hasPrefix("result=deny\n"))
        #expect(text.utf8.count < 4095)
    }

    @Test("lets a person choose only what may be chosen")
    func answered() {
        let engine = engine("a * work @anyvm ask\n")
        let asked = engine.decide(source: "work", target: "vault", service: "a")
        #expect(asked.question?.targets == ["remote", "vault"])
        #expect(engine.answered(asked, target: "vault").outcome == .allow)
        for target in ["dom0", "work", "ghost", "", "@dispvm", "@default"] {
            #expect(engine.answered(asked, target: target).outcome == .deny)
        }
    }
}

@Suite("Rules that can never decide")
struct ShadowedRuleTests {
    private func shadowed(_ text: String) -> [[Int]] {
        load(["a.policy": text]).policy.shadowedRules().map { [$0.rule, $0.hiddenBy ?? -1] }
    }

    @Test("are found with the rule that hides each")
    func found() {
        #expect(shadowed("a * work vault allow\na * work vault deny\n") == [[1, 0]])
        #expect(shadowed("a * @anyvm @anyvm deny\na +x work @dispvm allow\n") == [[1, 0]])
        #expect(shadowed("* * * * deny\na +x dom0 dom0 allow\n") == [[1, 0]])
        #expect(shadowed("a * @dispvm:x vault allow\n") == [[0, -1]])
    }

    @Test("are not confused with rules that can")
    func alive() {
        #expect(shadowed("a * @anyvm @anyvm deny\na * dom0 vault allow\n") == [])
        #expect(shadowed("a * @anyvm @anyvm deny\na * work dom0 allow\n") == [])
        #expect(shadowed("a * @anyvm @anyvm deny\na * @type:AdminVM vault allow\n") == [])
        #expect(shadowed("a +x work vault deny\na * work vault allow\n") == [])
        #expect(shadowed("a * work vault deny\nb * work vault allow\n") == [])
        #expect(shadowed("a * @tag:x vault deny\na * work vault allow\n") == [])
    }

    @Test("never decide in any of the policy vectors", arguments: PolicyVector.all)
    func vectors(vector: PolicyVector) throws {
        let policy = vector.load().policy
        let hidden = Set(policy.shadowedRules().map(\.rule))
        let engine = PolicyEngine(policy, try vector.system)
        for request in vector.json["requests"]?.array ?? [] {
            let decision = engine.decide(
                source: request["source"]!.string!, target: request["target"]!.string!,
                service: request["service"]!.string! + request["argument"]!.string!)
            #expect(!hidden.contains(Int(decision.rule)))
        }
    }
}

@Suite("JSON")
struct JSONTests {
    @Test(
        "that is none is refused",
        arguments: [
            "", "{", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "01", "1.", "nul", "\"\u{1}\"",
            "\"\\x\"", "\"\\ud800\"", "[1] 2", "'a'", "{a:1}", "\"", "--1", "[1 2]",
        ])
    func refused(text: String) {
        #expect(throws: JSONError.self) { try JSONReader.read(Array(text.utf8)) }
    }

    @Test("is bounded in depth, size, strings and values")
    func limits() {
        var limits = JSONLimits()
        limits.depth = 4
        #expect(throws: JSONError.self) {
            try JSONReader.read(Array("[[[[[]]]]]".utf8), limits: limits)
        }
        limits.string = 3
        #expect(throws: JSONError.self) {
            try JSONReader.read(Array("\"abcdef\"".utf8), limits: limits)
        }
        limits.values = 3
        #expect(throws: JSONError.self) {
            try JSONReader.read(Array("[1,2,3]".utf8), limits: limits)
        }
        limits.size = 4
        #expect(throws: JSONError.self) {
            try JSONReader.read(Array("[1,2]".utf8), limits: limits)
        }
        let deep = [UInt8](repeating: UInt8(ascii: "["), count: 1_000_000)
        #expect(throws: JSONError.self) { try JSONReader.read(deep) }
    }

    @Test("is read and written without loss")
    func roundTrip() throws {
        let text = #"{"a":[null,true,-1.5e+3,"é\n\"\u0001😀"],"b":{}}"#
        let value = try JSONReader.read(Array(text.utf8))
        #expect(try JSONReader.read(Array(value.text.utf8)) == value)
        #expect(value["a"]?.array?.last?.string == "é\n\"\u{1}😀")
    }
}

@Suite("SHA-256")
struct SHA256Tests {
    @Test(
        "gives the digests of the standard",
        arguments: [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
        ])
    func digests(text: String, expected: String) {
        #expect(SHA256.hexadecimal(Array(text.utf8)) == expected)
    }
}

import QrexecPolicy
import Testing

@Suite("The engine agrees with the reference implementation")
struct ReferenceAgreementTests {
    @Test("All sets of vectors are there")
    func count() {
        #expect(PolicyVector.all.count == 300)
        let requests = PolicyVector.all.map { $0.json["requests"]?.array?.count ?? 0 }
        #expect(requests.reduce(0, +) == 9802)
    }

    @Test("A set is refused where the reference refuses it", arguments: PolicyVector.all)
    func refusal(vector: PolicyVector) throws {
        let result = vector.load()
        guard vector.json["error"] != nil else {
            #expect(result.errors.isEmpty)
            return
        }
        let message = try #require(vector.json["message"]?.string)
        let error = try #require(result.errors.first, "reference: \(message)")
        #expect(message.hasPrefix("\(error.file.display):\(error.line):"), "\(error)")
    }

    @Test("Each request gets the reference's decision", arguments: PolicyVector.all)
    func decisions(vector: PolicyVector) throws {
        guard let requests = vector.json["requests"]?.array,
            let results = vector.json["results"]?.array
        else { return }
        let engine = PolicyEngine(vector.load().policy, try vector.system)
        for (request, expected) in zip(requests, results) {
            let service = request["service"]!.string! + request["argument"]!.string!
            let decision = engine.decide(
                source: request["source"]!.string!, target: request["target"]!.string!,
                service: service, claimedSource: request["requested_source"]?.string ?? "")
            let rule = decision.rule < 0 ? nil : engine.policy.location(of: Int(decision.rule))
            let context = Comment(rawValue: "\(request.text) → \(expected.text), got \(decision)")
            #expect(decision.outcome.rawValue == expected["decision"]!.string, context)
            #expect(decision.notify == expected["notify"]!.bool, context)
            #expect(rule?.file.display == expected["rule"]?["file"]?.string, context)
            #expect(rule?.line == expected["rule"]?["line"]?.integer, context)
            switch decision.outcome {
            case .deny: break
            case .allow:
                compareReply(engine, decision, service, expected["reply"] ?? .null, context)
            case .ask: compareQuestion(engine, decision, expected, context)
            }
        }
    }

    private func compareReply(
        _ engine: PolicyEngine, _ decision: Decision, _ service: String, _ reply: JSONValue,
        _ context: Comment
    ) {
        var bytes: [UInt8] = []
        engine.appendAnswer(to: decision, service: Array(service.utf8).span, to: &bytes)
        var map = answerMap(bytes)
        #expect(map.removeValue(forKey: "rule") != nil)
        guard case .object(let members) = reply else { return }
        let expected = Dictionary(uniqueKeysWithValues: members.map { ($0.name, $0.value.string!) })
        #expect(map == expected, context)
    }

    private func compareQuestion(
        _ engine: PolicyEngine, _ decision: Decision, _ expected: JSONValue, _ context: Comment
    ) {
        let rule = engine.policy.description(of: Int(decision.rule))
        #expect(decision.question?.targets == expected["targets"]?.array?.map(\.string), context)
        #expect(decision.question?.defaultTarget == expected["default_target"]?.string, context)
        #expect(rule.user == expected["user"]?.string, context)
        #expect(rule.autostart == expected["autostart"]?.bool, context)
    }
}

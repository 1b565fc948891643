import Foundation
import QrexecRuntime
import Testing

@testable import QrexecDom0

@Suite("The policy service", .serialized)
struct PolicyServiceTests {
    static let policy = [
        "30-user.policy": """
        test.Ok * work vault allow
        test.Ask * work vault ask
        """
    ]

    @Test("An allowed call is answered with its target, and the rule that decided")
    func allowed() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let answer = try harness.call("work", "vault", "test.Ok+arg")
        #expect(answer["result"] == "allow")
        #expect(answer["target"] == "vault")
        #expect(answer["target_uuid"] == "uuid:00000000-0000-0000-0000-000000000002")
        #expect(answer["autostart"] == "True")
        #expect(answer["user"] == "DEFAULT")
        #expect(answer["rule"] == harness.root + "/policy.d/30-user.policy:1")
        #expect(harness.log.contains("qrexec: test.Ok+arg: work -> vault: allowed to vault"))
    }

    @Test("A call that no rule allows is denied with the reason")
    func denied() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let answer = try harness.call("vault", "work", "test.Ok")
        #expect(answer["result"] == "deny")
        #expect(answer["target"] == nil)
        #expect(answer["user"] == nil)
        #expect(answer["reason"]?.contains("rule") == true)
        #expect(harness.log.contains("qrexec: test.Ok: vault -> work: denied: "))
    }

    @Test("A changed, added or removed file is in force for the next call")
    func reload() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        harness.write("30-user.policy", "test.Ok * work vault deny\n")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "deny")
        harness.write("10-first.policy", "* * * * allow\n")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
        harness.remove("10-first.policy")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "deny")
    }

    @Test("A file that does not parse leaves the last good policy in force, and the log says so")
    func lastGood() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        harness.write("20-broken.policy", "\n* * work vault deyn\n")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
        #expect(harness.log.contains("20-broken.policy:2:"))
        harness.write("20-broken.policy", "* * work vault deny\n")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "deny")
    }

    @Test("Without any good policy every call is denied, until there is one")
    func noPolicy() throws {
        let harness = try ServiceHarness(policy: ["30-user.policy": "what is this\n"])
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "deny")
        harness.write("30-user.policy", "* * * * allow\n")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
    }

    @Test("A directory that is missing denies everything, until it is made")
    func missingDirectory() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        try FileManager.default.removeItem(atPath: harness.root + "/policy.d")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
        #expect(harness.log.contains("the last good one stays in force"))
        try FileManager.default.createDirectory(
            atPath: harness.root + "/policy.d", withIntermediateDirectories: false)
        harness.write("30-user.policy", "test.Ok * work vault deny\n")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "deny")
    }

    @Test("A file that is included, or that a link leads to, is watched where it is")
    func elsewhere() throws {
        let harness = try ServiceHarness(policy: [:])
        let place = harness.root + "/elsewhere"
        try FileManager.default.createDirectory(
            atPath: place, withIntermediateDirectories: false)
        for name in ["linked", "included"] {
            try "test.\(name) * work vault deny\n".write(
                toFile: place + "/" + name, atomically: false, encoding: .utf8)
        }
        try FileManager.default.createSymbolicLink(
            atPath: harness.root + "/policy.d/10-link.policy",
            withDestinationPath: place + "/linked")
        harness.write("20-more.policy", "!include \(place)/included\n")
        for name in ["linked", "included"] {
            #expect(try harness.call("work", "vault", "test." + name)["result"] == "deny")
            try "test.\(name) * work vault allow\n".write(
                toFile: place + "/" + name, atomically: false, encoding: .utf8)
            #expect(try harness.call("work", "vault", "test." + name)["result"] == "allow")
        }
    }

    @Test("The state of the service is told in a file that goes with it")
    func status() throws {
        let path: String
        do {
            let harness = try ServiceHarness(policy: Self.policy)
            path = harness.root + "/status"
            _ = try harness.call("work", "vault", "test.Ok")
            var text = try String(contentsOfFile: path, encoding: .utf8)
            #expect(text.contains("\"rules\":2"))
            #expect(text.contains("\"qubes_known\":true"))
            harness.write("20-broken.policy", "bad\n")
            _ = try harness.call("work", "vault", "test.Ok")
            text = try String(contentsOfFile: path, encoding: .utf8)
            #expect(text.contains("20-broken.policy:1"))
        }
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test(
        "What is no request is closed without an answer",
        arguments: [
            "source=a\n\n", "nonsense\n\n", "source=a\nsource=a\n\n", "\n",
            "source=work\nintended_target=vault\nservice_and_arg=test.Ok\nextra=1\n\n",
            "source=work\nintended_target=vault\nservice_and_arg=test.Ok\njust_evaluate=maybe\n\n",
            "source=w\u{e9}\nintended_target=vault\nservice_and_arg=test.Ok\n\n",
            String(repeating: "a", count: 100_000),
        ])
    func malformed(request: String) throws {
        let harness = try ServiceHarness(policy: Self.policy)
        #expect(try harness.exchange(request) == "")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
    }

    @Test("The end of the input ends a request as an empty line does")
    func endOfInput() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let answer = try harness.exchange(
            "source=work\nintended_target=vault\nservice_and_arg=test.Ok", finish: true)
        #expect(answer.contains("result=allow"))
    }

    @Test("Only the result is told to those who just evaluate, and ask counts as deny")
    func evaluate() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let request = "source=work\nintended_target=vault\nservice_and_arg=test."
        #expect(try harness.exchange(request + "Ok\njust_evaluate=yes\n\n") == "result=allow\n")
        #expect(try harness.exchange(request + "Ask\njust_evaluate=yes\n\n") == "result=deny\n")
        let assumed = try harness.exchange(request + "Ask\nassume_yes_for_ask=yes\n\n")
        #expect(assumed.contains("result=allow"))
    }

    @Test("A request that comes in pieces holds up nobody")
    func slowClient() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let slow = try Client(harness.loop, harness.root + "/policy.sock", "source=work\ninten")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
        try slow.send("ded_target=vault\nservice_and_arg=test.Ok\n\n")
        try harness.run(until: { slow.isDone })
        #expect(String(decoding: slow.answer, as: UTF8.self).contains("result=allow"))
    }

    @Test("Many connections at once are all answered")
    func many() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let request = "source=work\nintended_target=vault\nservice_and_arg=test.Ok\n\n"
        let clients = try (0..<100).map { _ in
            try Client(harness.loop, harness.root + "/policy.sock", request)
        }
        try harness.run(until: { clients.allSatisfy { $0.isDone } })
        #expect(
            clients.allSatisfy {
                String(decoding: $0.answer, as: UTF8.self).contains("result=allow")
            })
    }
}

@Suite("Knowledge of the qubes", .serialized)
struct SystemInformationFeedTests {
    static let policy = ["30-user.policy": "test.Ok * work vault allow\n* * @tag:t9 * allow\n"]

    @Test("Nothing is fetched for a call")
    func noFetch() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let before = harness.qubesd.fetches
        for _ in 0..<20 { _ = try harness.call("work", "vault", "test.Ok") }
        #expect(harness.qubesd.fetches == before)
    }

    @Test("A change of tags is known to the call that follows its event")
    func change() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        #expect(try harness.call("personal", "vault", "test.Ok")["result"] == "deny")
        harness.qubesd.information = FakeQubesd.system(["work": 1, "vault": 2, "personal": 9])
        harness.qubesd.send("domain-tag-add:t9", subject: "personal")
        #expect(try harness.call("personal", "vault", "test.Ok")["result"] == "allow")
    }

    @Test("Many events make few requests")
    func coalesced() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let before = harness.qubesd.fetches
        for _ in 0..<200 { harness.qubesd.send("domain-tag-add:x", subject: "work") }
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
        #expect(harness.qubesd.fetches - before <= 3)
    }

    @Test("Without qubesd every call is denied, until all is fetched again")
    func lost() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let before = harness.qubesd.fetches
        harness.qubesd.drop()
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "deny")
        try harness.run(until: { harness.qubesd.fetches >= before + 2 })
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
    }

    @Test("A call waits for a change that is being fetched")
    func waits() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        harness.qubesd.isAnswering = false
        let before = harness.qubesd.fetches
        harness.qubesd.send("domain-delete", subject: "vault")
        try harness.run(until: { harness.qubesd.fetches > before })
        let client = try Client(
            harness.loop, harness.root + "/policy.sock",
            "source=work\nintended_target=vault\nservice_and_arg=test.Ok\n\n")
        harness.qubesd.information = FakeQubesd.system(["work": 1])
        harness.loop.schedule(after: milliseconds(20)) { harness.qubesd.answerHeld() }
        try harness.run(until: { client.isDone })
        #expect(String(decoding: client.answer, as: UTF8.self).contains("result=deny"))
    }

    @Test("Changes without end hold up nobody, and what came before the call is known to it")
    func flood() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        let qubesd = harness.qubesd
        var isOver = false
        qubesd.onFetch = { if !isOver { qubesd.send("domain-tag-add:x", subject: "vault") } }
        qubesd.information = FakeQubesd.system(["work": 1, "vault": 2, "personal": 9])
        qubesd.send("domain-tag-add:t9", subject: "personal")
        #expect(try harness.call("personal", "vault", "test.Ok")["result"] == "allow")
        #expect(try harness.call("work", "vault", "test.Ok")["result"] == "allow")
        isOver = true
    }

    @Test("Refusals for want of qubesd do not fill the log either")
    func lostAndFlooded() throws {
        let harness = try ServiceHarness(policy: Self.policy)
        harness.qubesd.isAnswering = false
        harness.qubesd.drop()
        let request = "source=work\nintended_target=vault\nservice_and_arg=test.Ok\n\n"
        for _ in 0..<8 {
            let clients = try (0..<50).map { _ in
                try Client(harness.loop, harness.root + "/policy.sock", request)
            }
            try harness.run(until: { clients.allSatisfy { $0.isDone } })
        }
        let lines = harness.log.split(separator: "\n").filter { $0.contains("test.Ok") }
        #expect((1..<400).contains(lines.count))
        #expect(harness.log.contains("left out of the log"))
    }

    @Test(
        "Events are understood however they are cut, with one header or one for each",
        arguments: ["", "1\0"])
    func cutEvents(_ header: String) throws {
        let bytes = Array(
            ("1\0\0connection-established\0\0\(header)work\0domain-tag-add:x\0tag\0x\0\0"
                + "\(header)\0domain-add\0vm\0new\0\0").utf8)
        for size in 1...bytes.count {
            var parser = QubesdEventParser()
            var events: [QubesdEvent] = []
            var start = 0
            while start < bytes.count {
                let end = min(start + size, bytes.count)
                events += try parser.parse(bytes[start..<end])
                start = end
            }
            #expect(
                events.map(\.name)
                    == ["connection-established", "domain-tag-add:x", "domain-add"])
            #expect(events.map(\.subject) == ["", "work", ""])
        }
    }
}

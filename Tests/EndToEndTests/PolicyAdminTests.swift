import Foundation
import LinuxSystem
import Synchronization
import Testing

/// A prompt agent of dom0, played by this process: answers each question in the same way.
private final class PromptAgent: Sendable {
    private let path: String
    private let isEnded = Atomic(false)
    private let questions = Mutex<[String]>([])

    /// What it was asked, the bytes of each call.
    var asked: [String] { questions.withLock { $0 } }

    init(_ lab: Lab, answer: String) throws {
        path = try lab.qube("dom0").root + "/run/qubes/policy-agent.sock"
        try FileStatus.remove(path)
        let listener = try UnixSocket.listen(path, mode: 0o666).release()
        Thread.detachNewThread { [self] in
            let listener = Descriptor(taking: listener)
            while !isEnded.load(ordering: .relaxed) {
                _ = try? poll(listener.number, .readable, milliseconds: 100)
                guard let caller = try? UnixSocket.accept(listener) else { continue }
                try? caller.setNonblocking(false)
                let bytes = (try? caller.readAll(limit: 1 << 20)) ?? []
                questions.withLock { $0.append(String(decoding: bytes, as: UTF8.self)) }
                try? caller.writeAll(Array(answer.utf8))
            }
        }
    }

    func end() {
        isEnded.store(true, ordering: .relaxed)
        try? FileStatus.remove(path)
    }
}

extension EndToEnd {
    @Suite("Policy by its services", .serialized)
    struct PolicyServices {
        let lab: Lab

        init() throws {
            lab = try Lab.shared.get()
            try lab.install("test.Echo", "cat")
        }

        @Test("A qube that may edits policy over calls, and what would break it is refused")
        func editing() throws {
            defer { try? lab.setPolicy("15-remote", nil) }
            func call(_ service: String, _ input: String = "") throws -> Outcome {
                try lab.call(service, to: "dom0", input: input)
            }
            #expect(try call("policy.List").text.split(separator: "\n").contains("90-default"))
            let rule = "test.Edited * work personal deny\n"
            #expect(try call("policy.Replace+15-remote", "new\n" + rule).status == 0)
            #expect(try lab.call("test.Edited").status == 126)
            let shown = try call("policy.Get+15-remote").text
            #expect(shown.hasPrefix("sha256:"))
            #expect(shown.hasSuffix("\n" + rule))
            #expect(try call("policy.Replace+15-remote", "new\n" + rule).status == 1)
            #expect(try call("policy.Replace+15-remote", "any\nbad\n").status == 1)
            #expect(try call("policy.Replace+Upper", "any\n" + rule).status == 1)
            #expect(try call("policy.GetFiles+test.Edited").text.contains("15-remote\n"))
            #expect(try call("policy.Remove+15-remote", "any").status == 0)
            #expect(try lab.call("test.Edited").status == 127)
        }

        @Test("A person's consent lets a call through, a refusal stops it")
        func asking() throws {
            try lab.setPolicy("10-asked", "test.Echo * work @anyvm ask default_target=personal\n")
            defer { try? lab.setPolicy("10-asked", nil) }
            #expect(try lab.call("test.Echo").status == 126)
            let yes = try PromptAgent(lab, answer: "allow:personal")
            let allowed = try lab.call("test.Echo+x", to: "vault", input: "data")
            yes.end()
            #expect(allowed.status == 0)
            #expect(allowed.text == "data")
            let question = try #require(yes.asked.last { $0.hasPrefix("policy.Ask") })
            #expect(question.contains(#""source":"work","service":"test.Echo","argument":"+x""#))
            #expect(question.contains(#""default_target":"personal""#))
            let no = try PromptAgent(lab, answer: "deny")
            let refused = try lab.call("test.Echo")
            no.end()
            #expect(refused.status == 126)
        }

        @Test("The tools in dom0 tell what is in force and why")
        func tools() throws {
            let status = try lab.run("dom0", ["qubes-policy", "status"])
            #expect(status.status == 0)
            #expect(status.text.contains("qubes known"))
            let decision = try lab.run(
                "dom0", ["qubes-policy", "explain", "work", "personal", "test.Echo"])
            #expect(decision.status == 0)
            #expect(decision.text.contains("20-test.policy:1"))
            try lab.setPolicy("10-broken", "bad\n")
            defer { try? lab.setPolicy("10-broken", nil) }
            _ = try lab.call("test.Echo")
            let broken = try lab.run("dom0", ["qubes-policy", "status"])
            #expect(broken.status == 1)
            #expect(broken.text.contains("10-broken.policy:1"))
        }
    }
}

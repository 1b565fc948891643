import Foundation
import Testing

/// Runs the tools as a person does.
private struct Tool {
    struct Outcome {
        let status: Int32
        let output: String
        let errors: String
    }

    /// The program beside the tests.
    static var program: URL {
        URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
            .appendingPathComponent("qubes-policy-tools")
    }
}

/// A directory with policies and qubes that goes away with it.
private final class Place {
    let root: String

    init(_ files: [String: String]) throws {
        root = NSTemporaryDirectory() + "tools-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        for (name, text) in files.merging(["qubes.json": Self.qubes], uniquingKeysWith: { $1 }) {
            let path = root + "/" + name
            try FileManager.default.createDirectory(
                atPath: (path as NSString).deletingLastPathComponent,
                withIntermediateDirectories: true)
            try text.write(toFile: path, atomically: false, encoding: .utf8)
        }
    }

    deinit { try? FileManager.default.removeItem(atPath: root) }

    func text(_ name: String) -> String? {
        try? String(contentsOfFile: root + "/" + name, encoding: .utf8)
    }

    func run(
        _ arguments: [String], input: String = "", environment: [String: String] = [:]
    ) throws -> Tool.Outcome {
        let process = Process()
        process.executableURL = Tool.program
        process.arguments = arguments.map { $0.replacingOccurrences(of: "ROOT", with: root) }
        process.environment = ["PATH": "/usr/bin:/bin", "QREXEC_POLICY_DIR": root + "/p"]
            .merging(environment) { $1 }
        process.currentDirectoryURL = URL(fileURLWithPath: root)
        let pipes = [Pipe(), Pipe(), Pipe()]
        process.standardInput = pipes[0]
        process.standardOutput = pipes[1]
        process.standardError = pipes[2]
        try process.run()
        try pipes[0].fileHandleForWriting.write(contentsOf: Data(input.utf8))
        try pipes[0].fileHandleForWriting.close()
        let output = pipes[1].fileHandleForReading.readDataToEndOfFile()
        let errors = pipes[2].fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return Tool.Outcome(
            status: process.terminationStatus,
            output: String(decoding: output, as: UTF8.self),
            errors: String(decoding: errors, as: UTF8.self))
    }

    private static func qube(_ name: String, _ number: Int, _ type: String = "AppVM") -> String {
        """
        "\(name)": {"type": "\(type)", "tags": [], "template_for_dispvms": \(name == "dvm"),
        "default_dispvm": "dvm", "icon": "", "guivm": null, "power_state": "Running",
        "uuid": "00000000-0000-0000-0000-00000000000\(number)", "internal": null}
        """
    }

    static let qubes =
        "{\"domains\": {"
        + [
            qube("dom0", 0, "AdminVM"), qube("work", 1), qube("vault", 2), qube("untrusted", 3),
            qube("dvm", 4),
        ].joined(separator: ",") + "}}"
}

@Suite("The policy tools")
struct PolicyToolsTests {
    static let policy = [
        "p/30-user.policy": """
        qubes.Filecopy * work vault allow
        qubes.Filecopy * @anyvm @anyvm ask
        qubes.Filecopy * untrusted vault deny
        test.Echo +x vault untrusted allow user=root

        """
    ]
    private static let common = ["--policy-dir", "ROOT/p", "--system-info", "ROOT/qubes.json"]

    @Test(
        "evaluate tells the decision by its exit status",
        arguments: [
            (["work", "vault", "qubes.Filecopy"], Int32(0), "allow"),
            (["vault", "work", "test.Nothing"], 1, "deny"),
            (["untrusted", "vault", "qubes.Filecopy+x"], 3, "ask"),
            (["work", "@anyvm", "qubes.Filecopy"], 1, "deny"),
            (["work", "vault"], 64, ""),
            (["work", "vault", "a", "b"], 64, ""),
        ])
    func evaluate(call: [String], status: Int32, word: String) throws {
        let place = try Place(Self.policy)
        let outcome = try place.run(["qubes-policy", "evaluate"] + Self.common + call)
        #expect(outcome.status == status)
        #expect(outcome.output.hasPrefix(word))
    }

    @Test("evaluate --batch answers a line for a line, in the form of the vectors")
    func batch() throws {
        let place = try Place(Self.policy)
        let outcome = try place.run(
            ["qubes-policy", "evaluate", "--batch"] + Self.common,
            input: """
                {"source": "work", "target": "vault", "service": "qubes.Filecopy", "argument": "+"}
                {"source": "vault", "target": "untrusted", "service": "test.Echo", "argument": "+x"}

                """)
        #expect(outcome.status == 0)
        let lines = outcome.output.split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines[0].contains(#""rule":{"file":"30-user.policy","line":1}"#))
        #expect(lines[1].contains(#""user":"root""#))
    }

    @Test("A policy that does not load is one line of JSON and status 2")
    func unusable() throws {
        let place = try Place(["p/a.policy": "\nbad\nworse\n"])
        let outcome = try place.run(
            ["qubes-policy", "evaluate", "--batch"] + Self.common, input: "{}\n")
        #expect(outcome.status == 2)
        #expect(outcome.output.hasPrefix(#"{"error":"syntax","file":"a.policy","line":2,"#))
        #expect(outcome.output.split(separator: "\n").count == 1)
        let plain = try place.run(
            ["qubes-policy", "evaluate"] + Self.common + ["work", "vault", "a"])
        #expect(plain.status == 2)
        #expect(plain.errors.contains("a.policy:3:"))
    }

    @Test("explain names each rule with why it does not match")
    func explain() throws {
        let place = try Place(Self.policy)
        let outcome = try place.run(
            ["qubes-policy", "explain"] + Self.common + ["vault", "untrusted", "test.Echo+x"])
        #expect(outcome.status == 0)
        #expect(outcome.output.contains("the service is not qubes.Filecopy"))
        #expect(outcome.output.contains("matches: allow"))
    }

    @Test("diff groups what changes, and says by its status whether anything does")
    func diff() throws {
        let place = try Place(
            Self.policy.merging(["q/30-user.policy": "qubes.Filecopy * work vault deny\n"]) { $1 })
        let same = try place.run(
            ["qubes-policy", "diff", "--system-info", "ROOT/qubes.json", "ROOT/p", "ROOT/p"])
        #expect(same.status == 0)
        let other = try place.run(
            ["qubes-policy", "diff", "--system-info", "ROOT/qubes.json", "ROOT/p", "ROOT/q"])
        #expect(other.status == 1)
        #expect(other.output.contains("qubes.Filecopy: allow → deny"))
        #expect(other.output.contains("from work to vault"))
    }

    @Test("test checks assertions everywhere a wildcard stands, and names the rule")
    func assertions() throws {
        let place = try Place(
            Self.policy.merging([
                "good":
                    "# fine\nallow qubes.Filecopy work vault\nask qubes.Filecopy+* untrusted @anyvm\n",
                "bad": "deny * untrusted vault\n", "wrong": "allw a b c\n",
            ]) { $1 })
        func run(_ file: String) throws -> Tool.Outcome {
            try place.run(["qubes-policy", "test"] + Self.common + ["ROOT/" + file])
        }
        #expect(try run("good").status == 0)
        let bad = try run("bad")
        #expect(bad.status == 1)
        #expect(bad.output.contains("30-user.policy:2"))
        #expect(try run("wrong").status == 64)
        #expect(try run("missing").status == 64)
    }

    @Test("flows shows ways through other qubes")
    func flows() throws {
        let place = try Place([
            "p/a.policy": "a * work vault allow\nb * vault untrusted allow\n"
        ])
        let outcome = try place.run(
            ["qubes-policy", "flows", "--from", "work", "--to", "untrusted"] + Self.common)
        #expect(outcome.status == 0)
        #expect(outcome.output.contains("through vault"))
        let none = try place.run(
            ["qubes-policy", "flows", "--from", "untrusted", "--to", "work"] + Self.common)
        #expect(none.status == 1)
        let dot = try place.run(["qubes-policy", "flows", "--dot"] + Self.common)
        #expect(dot.output.contains("\"work\" -> \"vault\""))
    }

    @Test("shadowed names the rule that hides")
    func shadowed() throws {
        let place = try Place(Self.policy)
        let outcome = try place.run(["qubes-policy", "shadowed", "--policy-dir", "ROOT/p"])
        #expect(outcome.status == 1)
        #expect(outcome.output.contains("hidden by 30-user.policy:2"))
    }

    @Test("lint writes FILE:LINE: error: TEXT")
    func lint() throws {
        let place = try Place(["x.policy": "* * a b deny\na * @adminvn b allow\n"])
        let outcome = try place.run(["qubes-policy-lint", "ROOT/x.policy"])
        #expect(outcome.status == 1)
        #expect(outcome.output.contains("x.policy:2: error: "))
        #expect(outcome.output.contains("@adminvm"))
        let old = try place.run(["qubes-policy-lint", "-i", "-"], input: "work vault allow\n")
        #expect(old.status == 0)
    }

    @Test("Files are listed, shown, replaced and removed")
    func files() throws {
        let place = try Place(Self.policy)
        #expect(try place.run(["qubes-policy", "-l"]).output == "30-user\n")
        #expect(
            try place.run(["qubes-policy", "-r", "include/x"], input: "").status == 0)
        #expect(try place.run(["qubes-policy", "-l", "include/"]).output == "x\n")
        let text = "* * work vault deny\n"
        #expect(try place.run(["qubes-policy", "-r", "40-more"], input: text).status == 0)
        #expect(try place.run(["qubes-policy", "-g", "40-more"]).output == text)
        #expect(try place.run(["qubes-policy", "-r", "40-more"], input: "bad").status == 1)
        #expect(try place.run(["qubes-policy", "-d", "40-more"]).status == 0)
        #expect(try place.run(["qubes-policy", "-g", "40-more"]).status == 1)
        #expect(try place.run(["qubes-policy"]).status == 64)
    }

    @Test("The editor checks, keeps the earlier version, and can go back")
    func editor() throws {
        let place = try Place(["p/30-user.policy": "* * work vault deny\n"])
        let edited = try place.run(
            ["qubes-policy-editor", "--system-info", "ROOT/qubes.json"],
            environment: ["EDITOR": "sed -i s/deny/allow/"])
        #expect(edited.status == 0)
        #expect(edited.output.contains("deny → allow"))
        #expect(place.text("p/30-user.policy") == "* * work vault allow\n")
        let broken = try place.run(
            ["qubes-policy-editor"], environment: ["EDITOR": "sed -i s/allow/alow/"])
        #expect(broken.status == 1)
        #expect(broken.errors.contains("did you mean 'allow'?"))
        #expect(place.text("p/30-user.policy") == "* * work vault allow\n")
        #expect(try place.run(["qubes-policy-editor", "--back", "0"]).status == 0)
        #expect(place.text("p/30-user.policy") == "* * work vault deny\n")
    }

    @Test("The graph has the edges that policy allows, and with --include-ask those it asks about")
    func graph() throws {
        let place = try Place(Self.policy)
        let plain = try place.run(["qrexec-policy-graph"] + Self.common)
        #expect(plain.output.contains("\"work\" -> \"vault\" [label=\"qubes.Filecopy\" color=red]"))
        #expect(!plain.output.contains("orange"))
        let asked = try place.run(
            ["qrexec-policy-graph", "--include-ask", "--target", "work", "--skip-labels"]
                + Self.common)
        #expect(asked.output.contains("\"vault\" -> \"work\" [color=orange]"))
    }

    @Test("Old rules are converted to what they meant, and their files moved away")
    func convert() throws {
        let place = try Place([
            "p/30-user.policy": "* * work vault deny\n",
            "old/test.Svc": "$anyvm dom0 allow,user=root\n", "old/test.Svc+x": "work vault ask\n",
        ])
        let outcome = try place.run(["qrexec-legacy-convert", "--legacy-dir", "ROOT/old"])
        #expect(outcome.status == 0)
        let text = try #require(place.text("p/35-compat-converted.policy"))
        let rules = text.split(separator: "\n").filter { !$0.hasPrefix("#") }
        #expect(
            rules == [
                "test.Svc +x work vault ask", "test.Svc +x @anyvm @anyvm deny",
                "test.Svc +x @anyvm @adminvm deny", "test.Svc * @anyvm dom0 allow user=root",
            ])
        #expect(place.text("old/test.Svc") == nil)
        #expect(place.text("old.converted/test.Svc") != nil)
    }

    @Test("A backup is restored as a whole or not at all")
    func restore() throws {
        let place = try Place([
            "p/90-default.policy": "", "backup/etc/qubes/policy.d/30-user.policy": "* * a b deny\n",
            "backup/etc/qubes/policy.d/include/x": "",
            "backup/etc/qubes-rpc/policy/test.Svc": "a b allow\n",
            "bad/30-user.policy": "bad\n", "bad/40-other.policy": "* * a b deny\n",
        ])
        #expect(try place.run(["qrexec-policy-restore", "ROOT/backup"]).status == 0)
        #expect(place.text("p/30-user.policy") == "* * a b deny\n")
        #expect(
            place.text("p/35-compat-converted.policy")?.contains("test.Svc * a b allow") == true)
        #expect(try place.run(["qrexec-policy-restore", "ROOT/bad"]).status == 1)
        #expect(place.text("p/40-other.policy") == nil)
    }

    @Test(
        "Every tool has help and a version",
        arguments: [
            "qubes-policy", "qubes-policy-lint", "qubes-policy-editor", "qrexec-policy-graph",
            "qrexec-legacy-convert", "qrexec-policy-restore",
        ])
    func help(name: String) throws {
        let place = try Place([:])
        #expect(try place.run([name, "--help"]).status == 0)
        #expect(try place.run([name, "--version"]).output.contains("swift-qrexec"))
        #expect(try place.run([name, "--no-such-option"]).status == 64)
    }
}

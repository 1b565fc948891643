import QrexecPolicy
import Testing

/// Loads texts as the files of /p.
func load(_ files: [String: String], legacy: String = "/legacy") -> PolicyLoadResult {
    var contents: [String: [UInt8]] = [:]
    for (name, text) in files {
        contents[name.hasPrefix("/") ? name : "/p/" + name] = Array(text.utf8)
    }
    return Policy.load(
        PolicyDirectories(["/p"], legacy: legacy),
        files: MemoryPolicyFiles(contents, directories: ["/p"]))
}

@Suite("An error in a policy file")
struct SyntaxErrorTests {
    @Test(
        "has its line, its column and a suggestion",
        arguments: [
            ("a * @adminvn b allow", 1, 5, "@adminvm"),
            ("\n  a * work @anyvn allow", 2, 12, "@anyvm"),
            ("a * work vault alow", 1, 16, "allow"),
            ("a * work vault ALLOW", 1, 16, "allow"),
            ("a * work vault allow taget=b", 1, 22, "target"),
            ("a * work vault deny notify=true", 1, 28, "yes"),
            ("a+b * work vault allow", 1, 2, "a +b"),
            ("a b work vault allow", 1, 3, "+b"),
            ("a work vault allow", 1, 19, "a * work vault allow"),
            ("!inclde x", 1, 1, "!include"),
            ("a * @tga:x vault deny", 1, 5, "@tag:x"),
            ("a * work @dipsvm deny", 1, 10, "@dispvm"),
        ])
    func place(text: String, line: Int, column: Int, suggestion: String) throws {
        let result = load(["a.policy": text])
        let error = try #require(result.errors.first)
        #expect(!result.isUsable)
        #expect(error.line == line)
        #expect(error.column == column)
        #expect(error.suggestion == suggestion)
        #expect(error.file.display == "a.policy")
    }

    @Test(
        "is found wherever it is",
        arguments: [
            "a * work vault allow target=", "a * work vault allow user", "a * work @default allow",
            "a * work vault deny target=b", "a * work vault ask target=@anyvm",
            "a * work vault allow target=x target=y", "* + work vault deny", "a * @default b deny",
            "a * @dispvm b deny", "a * @tag: b deny", "a * @tag:@x b deny", "a * @ b deny",
            "a * b @dispvm:@tag: deny", "a * b c allow # comment", "!include", "!include a b",
            "!include-service a x", "!include nothing", "!include-dir nothing", "!compat-4.0 x",
            "!compat-4.0", "a\u{1} * b c deny", "ü * b c deny", "a * b c",
        ])
    func found(text: String) {
        let result = load(["a.policy": text])
        #expect(!result.isUsable)
        #expect(result.errors.allSatisfy { $0.line == 1 })
    }

    @Test("does not hide the others")
    func all() {
        let result = load([
            "a.policy": "x\n* * work vault deny\na * @x @y allw\n", "b.policy": "y z\n",
        ])
        #expect(result.errors.map(\.line) == [1, 3, 3, 3, 1])
        #expect(
            result.errors.map(\.file.display) == ["a.policy"]
                + Array(repeating: "a.policy", count: 3) + ["b.policy"])
    }

    @Test("in an included file is told there, and at the line when the file is missing")
    func included() throws {
        let result = load([
            "a.policy": "* * a b deny\n!include include/x\n!include include/none\n",
            "include/x": "\nbad\n",
        ])
        #expect(result.errors.map(\.file.display) == ["include/x", "a.policy"])
        #expect(result.errors.map(\.line) == [2, 3])
    }

    @Test("Includes that go round, or are too deep, end with an error")
    func cycles() throws {
        let cycle = load(["a.policy": "!include include/x\n", "include/x": "!include include/x\n"])
        #expect(cycle.errors.count == 1)
        #expect(try #require(cycle.errors.first).file.display == "include/x")
        var files = ["a.policy": "!include include/0\n"]
        for depth in 0..<40 { files["include/\(depth)"] = "!include include/\(depth + 1)\n" }
        files["include/40"] = "* * a b deny\n"
        #expect(load(files).errors.count == 1)
    }

    @Test("Includes that multiply are bounded")
    func explosion() {
        var files = ["a.policy": "!include include/0\n"]
        for depth in 0..<14 {
            let line = "!include include/\(depth + 1)\n"
            files["include/\(depth)"] = String(repeating: line, count: 8)
        }
        files["include/14"] = "* * a b deny\n"
        let result = load(files)
        #expect(!result.isUsable)
        #expect(result.policy.files.count <= 16)
    }

    @Test("Bytes that are no UTF-8, huge lines and very many errors are bounded and told")
    func hugeAndBinary() throws {
        let bytes = Array("* * a b deny\na * b".utf8) + [0xC3, 0x28] + Array(" c deny\n".utf8)
        let result = Policy.load(
            PolicyDirectories(["/p"]), files: MemoryPolicyFiles(["/p/a.policy": bytes]))
        let error = try #require(result.errors.first)
        #expect(error.line == 2)
        #expect(error.column == 6)
        let long = load(["a.policy": String(repeating: "a", count: 70_000) + " * b c deny\n"])
        #expect(long.errors.count == 1)
        let many = load(["a.policy": String(repeating: "bad\n", count: 5_000)])
        #expect(many.errors.count == PolicyLimits.diagnostics)
    }

    @Test("A file name that the loader does not take makes the whole unusable")
    func fileName() {
        #expect(!load(["a.policy": "* * a b deny\n", "Upper.policy": ""]).isUsable)
        #expect(load(["a.policy": "* * a b deny\n", ".Upper.policy": "x", "Note": "x"]).isUsable)
    }

    @Test("A missing directory makes the whole unusable")
    func missingDirectory() {
        let result = Policy.load(
            PolicyDirectories(["/run/p", "/p"]),
            files: MemoryPolicyFiles(["/p/a.policy": Array("* * a b allow\n".utf8)]))
        #expect(!result.isUsable)
    }

    @Test("Names that no qube can have and unknown types are warnings, not errors")
    func warnings() throws {
        let result = load(["a.policy": "* * dispvm9/x @type:AppMV allow\n* * adminvm b deny\n"])
        #expect(result.isUsable)
        #expect(result.diagnostics.map(\.severity) == [.warning, .warning])
        #expect(result.diagnostics.map(\.suggestion).contains("@type:AppVM"))
    }
}

@Suite("Policy files")
struct LoadingTests {
    @Test("Files of /run hide those of /etc of the same name, and all are sorted together")
    func order() {
        let files = MemoryPolicyFiles([
            "/run/20-b.policy": Array("run.B * * * deny\n".utf8),
            "/etc/20-b.policy": Array("etc.B * * * deny\n".utf8),
            "/etc/10-a.policy": Array("etc.A * * * deny\n".utf8),
            "/run/30-c.policy": Array("run.C * * * deny\r\n".utf8),
            "/etc/100-d.policy": Array("etc.D * * * deny".utf8),
        ])
        let result = Policy.load(PolicyDirectories(["/run", "/etc"]), files: files)
        let services = (0..<result.policy.ruleCount).map {
            result.policy.description(of: $0).service
        }
        #expect(services == ["etc.A", "etc.D", "run.B", "run.C"])
    }

    @Test("Rules of the old format stand where !compat-4.0 does, arguments first")
    func legacy() {
        let result = load([
            "a.policy": "first.X * * * deny\n!compat-4.0\nlast.X * * * deny\n",
            "/legacy/b.Svc": "$anyvm dom0 allow,user=root\n$include:more\n",
            "/legacy/b.Svc+arg": "work vault ask,default_target=vault\n# note\n",
            "/legacy/a.Svc": "$tag:x $default deny\n",
            "/legacy/more": "", "/legacy/.hidden": "bad", "/legacy/a.Svc.rpmsave": "bad",
        ])
        #expect(result.errors == [])
        let rules = (0..<result.policy.ruleCount).map { result.policy.description(of: $0).text }
        #expect(
            rules == [
                "first.X * * * deny",
                "a.Svc * @tag:x @default deny",
                "b.Svc +arg work vault ask default_target=vault",
                "b.Svc +arg @anyvm @anyvm deny",
                "b.Svc +arg @anyvm @adminvm deny",
                "b.Svc * @anyvm dom0 allow user=root",
                "last.X * * * deny",
            ])
    }

    @Test("A file that would be in force can be tried without writing it")
    func overlay() {
        let base = MemoryPolicyFiles(["/p/a.policy": Array("* * a b allow\n".utf8)])
        let bad = OverlayPolicyFiles(base, changes: ["/p/b.policy": Array("bad\n".utf8)])
        #expect(!Policy.load(PolicyDirectories(["/p"]), files: bad).isUsable)
        let gone = OverlayPolicyFiles(base, changes: ["/p/a.policy": nil])
        #expect(Policy.load(PolicyDirectories(["/p"]), files: gone).policy.ruleCount == 0)
    }

    @Test("100,000 rules are loaded, and each can decide")
    func many() throws {
        var text = ""
        for number in 0..<100_000 { text += "svc.\(number) * work vault allow\n" }
        let result = load(["a.policy": text])
        #expect(result.isUsable)
        let engine = PolicyEngine(
            result.policy,
            SystemInformation([
                Qube(name: "work", type: "AppVM"), Qube(name: "vault", type: "AppVM"),
            ]))
        for number in [0, 1, 50_000, 99_999] {
            let decision = engine.decide(source: "work", target: "vault", service: "svc.\(number)")
            #expect(decision.rule == number)
        }
    }
}

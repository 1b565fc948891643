import Testing

@testable import QubesLab

@Suite("lab.toml")
struct SettingsFileTests {
    @Test("An empty file is the standard lab")
    func empty() throws {
        #expect(try SettingsFile.parse("", path: "lab.toml") == .standard)
    }

    @Test("Every key of a qube is taken over")
    func allKeys() throws {
        let text = """
            [qubes.work]
            label = "green"
            type = "StandaloneVM"
            tags = ["dev", "created-by-dom0"]
            template_for_dispvms = false
            default_dispvm = "default-dvm"
            autostart = false
            home_size = "64M"
            [qubes.work.features]
            qrexec = "1"
            """
        let work = try #require(try SettingsFile.parse(text, path: "lab.toml")["work"])
        #expect(work.label == "green")
        #expect(work.type == "StandaloneVM")
        #expect(work.tags == ["dev", "created-by-dom0"])
        #expect(work.features == ["qrexec": "1"])
        #expect(!work.autostart)
        #expect(work.homeSize == 64 << 20)
    }

    @Test("Qubes of the file are added to the standard ones, or stand alone")
    func standardQubes() throws {
        let added = try SettingsFile.parse("[qubes.extra]\n", path: "lab.toml")
        #expect(added.qubes.map(\.name) == LabSettings.standard.qubes.map(\.name) + ["extra"])
        let alone = try SettingsFile.parse(
            "default_qubes = false\n[qubes.b]\n[qubes.a]\n", path: "lab.toml")
        #expect(alone.qubes.map(\.name) == ["dom0", "b", "a"])
    }

    static let mistakes: [(text: String, line: Int, part: String)] = [
        ("[qubes.work\n", 1, "expected ']'"),
        ("\n\nx = 1\n", 3, "unknown key 'x'"),
        ("[qubes.work]\nlabel = \"blue\"\ncolour = \"red\"\n", 3, "unknown key 'colour'"),
        ("[qubes.work]\nlabel = \"pink\"\n", 2, "no label 'pink'"),
        ("[qubes.work]\nlabel = 3\n", 2, "label must be a string"),
        ("[qubes.work]\nautostart = \"yes\"\n", 2, "true or false"),
        ("[qubes.work]\ntype = \"AdminVM\"\n", 2, "AdminVM"),
        ("[qubes.work]\ntags = [\"a b\"]\n", 2, "a tag has"),
        ("[qubes.work]\ntags = [1]\n", 2, "list of strings"),
        ("[qubes.work]\nhome_size = \"1\"\n", 2, "home_size"),
        ("[qubes.work]\nhome_size = \"99999999999999999999G\"\n", 2, "home_size"),
        ("[qubes.work]\ndefault_dispvm = \"nope\"\n", 2, "no qube 'nope'"),
        ("[qubes.work]\ndefault_dispvm = \"vault\"\n", 2, "not template_for_dispvms"),
        ("[qubes.a]\n[qubes.1x]\n", 2, "must begin with a letter"),
        ("[qubes.\"a/b\"]\n", 1, "letters, digits"),
        ("[qubes.x-dm]\n", 1, "reserved"),
        ("[qubes]\nwork = 1\n", 2, "as a table"),
        ("default_qubes = 1\n", 1, "default_qubes"),
        ("qubes.work.label = \"blue\"\nqubes.work.tags = 1\n", 2, "tags"),
        ("[qubes.work]\nlabel = \"blue\"\nlabel = \"red\"\n", 3, "redefine"),
    ]

    @Test("A mistake is told with its line", arguments: mistakes)
    func mistake(_ mistake: (text: String, line: Int, part: String)) {
        do throws(SettingsFile.Invalid) {
            _ = try SettingsFile.parse(mistake.text, path: "lab.toml")
            Issue.record("accepted: \(mistake.text)")
        } catch {
            #expect(error.line == mistake.line, "\(error)")
            #expect(error.reason.contains(mistake.part), "\(error)")
        }
    }

    @Test("There is room left for disposables")
    func tooMany() {
        let text = (0..<40).map { "[qubes.q\($0)]\n" }.joined()
        #expect(throws: SettingsFile.Invalid.self) {
            try SettingsFile.parse(text, path: "lab.toml")
        }
    }
}

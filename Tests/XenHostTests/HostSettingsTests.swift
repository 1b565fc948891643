import QrexecDom0
import Testing

@testable import XenHost

@Suite("xl.toml")
struct HostSettingsTests {
    private func parse(_ text: String) throws -> HostSettings {
        try HostSettingsFile.parse(text, path: "xl.toml", machine: "m")
    }

    @Test("Every key is taken over")
    func allKeys() throws {
        let settings = try parse(
            """
            [host]
            xl = "/opt/xl"
            state = "/srv/qubes"
            create_timeout = 10
            start_timeout = 20
            shutdown_timeout = 30

            [qubes.dom0]
            default_dispvm = "dvm"
            [qubes.dom0.features]
            preload-dispvm-max = "2"

            [qubes.work]
            label = "blue"
            type = "StandaloneVM"
            tags = ["online", "created-by-dom0"]
            xl = "/srv/xen/w.cfg"
            xl_settings = ['extra = "systemd.hostname=@NAME@"', "memory=800"]
            default_dispvm = ""
            autostart = true
            default_user = "debian"
            qrexec = false
            guivm = ""
            uuid = "C0FFEE00-0000-4000-8000-000000000001"

            [qubes.dvm]
            template_for_dispvms = true
            """)
        #expect(settings.xl == "/opt/xl")
        #expect(settings.stateDirectory == "/srv/qubes")
        #expect(settings.createPatience == 10)
        #expect(settings.startPatience == 20)
        #expect(settings.shutdownPatience == 30)
        #expect(settings.qubes.map(\.name) == ["dom0", "work", "dvm"])
        #expect(settings["dom0"]?.features == ["preload-dispvm-max": "2"])
        var work = HostQubeSettings(name: "work")
        work.label = "blue"
        work.type = .standalone
        work.tags = ["online", "created-by-dom0"]
        work.configuration = "/srv/xen/w.cfg"
        work.additions = ["extra = \"systemd.hostname=@NAME@\"", "memory=800"]
        work.defaultDisposable = ""
        work.autostart = true
        work.defaultUser = "debian"
        work.hasAgent = false
        work.guiQube = ""
        work.uuid = "c0ffee00-0000-4000-8000-000000000001"
        #expect(settings["work"] == work)
        #expect(settings["dvm"]?.configuration == "/etc/xen/dvm.cfg")
    }

    @Test("A qube without a uuid has the same one each time, and no other qube has it")
    func derivedUUIDs() throws {
        let first = try parse("[qubes.a]\n[qubes.b]\n")
        let second = try parse("[qubes.b]\n[qubes.a]\n")
        #expect(first["a"]?.uuid == second["a"]?.uuid)
        #expect(first["a"]?.uuid != first["b"]?.uuid)
        #expect(HostUUID.parsed(first["a"]?.uuid ?? "") != nil)
    }

    static let mistakes: [(text: String, line: Int, part: String)] = [
        ("[qubes.work\n", 1, "expected ']'"),
        ("\n\nx = 1\n", 3, "unknown key 'x'"),
        ("host = 1\n", 1, "[host]"),
        ("[host]\nxl = \"xl\"\n", 2, "a path from /"),
        ("[host]\n\nstart_timeout = 0\n", 3, "number of seconds"),
        ("[host]\nstart_timeout = \"9\"\n", 2, "number of seconds"),
        ("[host]\nspeed = 1\n", 2, "unknown key 'speed'"),
        ("[qubes.work]\nlabel = \"blue\"\ncolour = \"red\"\n", 3, "unknown key 'colour'"),
        ("[qubes.work]\nlabel = \"pink\"\n", 2, "no label 'pink'"),
        ("[qubes.work]\nautostart = \"yes\"\n", 2, "true or false"),
        ("[qubes.work]\ntype = \"DispVM\"\n", 2, "cannot be had"),
        ("[qubes.work]\ntags = [\"a b\"]\n", 2, "a tag has"),
        ("[qubes.work]\nxl = \"work.cfg\"\n", 2, "a path from /"),
        ("[qubes.work]\nxl_settings = \"a=1\"\n", 2, "list of strings"),
        ("[qubes.work]\nxl_settings = [\"uuid='x'\"]\n", 2, "set by the manager"),
        ("[qubes.work]\nxl_settings = [\"disk=[]\"]\n", 2, "set by the manager"),
        ("[qubes.work]\nxl_settings = [\"a b\"]\n", 2, "no setting of xl"),
        ("[qubes.work]\ndefault_user = \"a b\"\n", 2, "no user's name"),
        ("[qubes.work]\ndefault_user = \"-x\"\n", 2, "no user's name"),
        ("[qubes.work]\nuuid = \"1234\"\n", 2, "hexadecimal digits"),
        ("[qubes.work]\nuuid = \"00000000-0000-0000-0000-000000000000\"\n", 2, "not all 0"),
        ("[qubes.work]\ndefault_dispvm = \"nope\"\n", 2, "no qube 'nope'"),
        ("[qubes.a]\n[qubes.work]\ndefault_dispvm = \"a\"\n", 3, "not template_for_dispvms"),
        ("[qubes.work]\nguivm = \"nope\"\n", 2, "no qube 'nope'"),
        ("[qubes.dom0]\nxl = \"/x\"\n", 2, "dom0 has no 'xl'"),
        ("[qubes.a]\n[qubes.1x]\n", 2, "no qube's name"),
        ("[qubes.x-dm]\n", 1, "no qube's name"),
        ("[qubes]\nwork = 1\n", 2, "as a table"),
        (
            "[qubes.a]\nuuid = \"c0ffee00-0000-4000-8000-000000000001\"\n"
                + "[qubes.b]\nuuid = \"c0ffee00-0000-4000-8000-000000000001\"\n", 4, "same uuid"
        ),
    ]

    @Test("A mistake is told with its line", arguments: mistakes)
    func mistake(_ mistake: (text: String, line: Int, part: String)) {
        do throws(HostSettingsFile.Invalid) {
            _ = try HostSettingsFile.parse(mistake.text, path: "xl.toml", machine: "m")
            Issue.record("accepted: \(mistake.text)")
        } catch {
            #expect(error.line == mistake.line, "\(error)")
            #expect(error.reason.contains(mistake.part), "\(error)")
        }
    }
}

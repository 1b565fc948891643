import QrexecPolicy
import Testing

@Suite("The shipped policy")
struct ShippedPolicyTests {
    static let engine: PolicyEngine = {
        let directory = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
        var files: [String: [UInt8]] = [:]
        let disk = DiskPolicyFiles()
        for folder in ["/policy.d", "/policy.d/include"] {
            for entry in try! disk.entries(of: directory + folder) where entry.isRegularFile {
                let path = folder + "/" + entry.name
                files[path] = try! disk.read(directory + path, limit: 1 << 20)
            }
        }
        let memory = MemoryPolicyFiles(files, directories: ["/legacy"])
        let result = Policy.load(
            PolicyDirectories(["/policy.d"], legacy: "/legacy"), files: memory)
        #expect(result.diagnostics == [])
        #expect(result.isUsable)
        return PolicyEngine(result.policy, system)
    }()

    static let system = SystemInformation([
        Qube(name: "dom0", type: "AdminVM"),
        Qube(name: "work", type: "AppVM", defaultDisposable: "default-dvm"),
        Qube(name: "vault", type: "AppVM"),
        Qube(name: "anon", type: "AppVM", tags: ["anon-vm"]),
        Qube(name: "debian-12", type: "TemplateVM"),
        Qube(name: "whonix-ws", type: "TemplateVM", tags: ["whonix-updatevm"]),
        Qube(name: "sys-net", type: "AppVM"),
        Qube(name: "sys-whonix", type: "AppVM"),
        Qube(name: "default-dvm", type: "AppVM", isDisposableTemplate: true),
    ])

    @Test(
        "decides as section 12.8 says",
        arguments: [
            ("policy.RegisterArgument+x", "work", "dom0", "deny"),
            ("qubes.Filecopy", "work", "vault", "ask"),
            ("qubes.OpenInVM", "work", "@dispvm", "allow"),
            ("qubes.OpenURL", "work", "vault", "ask"),
            ("qubes.VMShell", "work", "@dispvm", "allow"),
            ("qubes.VMExec", "work", "vault", "deny"),
            ("qubes.VMRootShell", "work", "@dispvm", "deny"),
            ("qubes.VMRootExec", "work", "@dispvm", "deny"),
            ("qubes.ConnectTCP+80", "work", "vault", "deny"),
            ("qubes.SyncAppMenus", "work", "dom0", "allow"),
            ("qubes.GetDate", "work", "@default", "allow"),
            ("qubes.GetDate", "anon", "@default", "deny"),
            ("qubes.Notifications", "work", "@default", "allow"),
            ("qubes.UpdatesProxy", "debian-12", "@default", "allow"),
            ("qubes.UpdatesProxy", "whonix-ws", "@default", "allow"),
            ("qubes.UpdatesProxy", "whonix-ws", "sys-net", "deny"),
            ("qubes.UpdatesProxy", "work", "@default", "deny"),
            ("qubes.ClipboardPaste", "work", "vault", "ask"),
            ("qubes.WindowIconUpdater", "work", "dom0", "allow"),
            ("qubes.ReceiveUpdates", "work", "dom0", "allow"),
            ("policy.Replace+x", "work", "dom0", "deny"),
            ("admin.vm.List", "work", "dom0", "deny"),
            ("admin.vm.property.GetAll", "work", "vault", "deny"),
        ])
    func decision(service: String, source: String, target: String, expected: String) {
        let decision = Self.engine.decide(source: source, target: target, service: service)
        #expect(decision.outcome.rawValue == expected)
    }

    @Test("sends updates through the right qube")
    func updates() {
        let engine = Self.engine
        for (source, proxy) in [("debian-12", "sys-net"), ("whonix-ws", "sys-whonix")] {
            let decision = engine.decide(
                source: source, target: "", service: "qubes.UpdatesProxy")
            #expect(engine.text(of: decision.target) == proxy)
        }
    }

    @Test("denies calls that programs only try without telling anybody")
    func quiet() {
        let decision = Self.engine.decide(
            source: "work", target: "dom0", service: "admin.property.GetAll")
        #expect(decision.outcome == .deny)
        #expect(!decision.notify)
    }
}

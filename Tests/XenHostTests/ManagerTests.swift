import Glibc
import LinuxSystem
import QrexecDom0
import QrexecProtocol
import SystemPackage
import Testing

@testable import XenHost

@Suite("The manager of a Xen host", .serialized)
struct ManagerTests {
    @Test("A qube is started with its configuration, its name and its uuid, and has a daemon")
    func start() throws {
        let host = try HostUnderTest(
            """
            [qubes.work]
            default_user = "debian"
            uuid = "c0ffee00-0000-4000-8000-000000000001"
            xl_settings = ['extra = "systemd.hostname=@NAME@"']
            """)
        #expect(try host.start("work") == nil)
        #expect(
            host.calls == [
                "create -q \(host.path)/work.cfg name=\\\"work\\\" "
                    + "uuid=\\\"c0ffee00-0000-4000-8000-000000000001\\\" "
                    + "extra\\ =\\ \\\"systemd.hostname=work\\\""
            ])
        #expect(host.record("work")?.powerState == .running)
        #expect(host.record("work")?.domainID == 1)
        let daemon = HostUnderTest.read("\(host.path)/daemons")
        #expect(
            daemon == "--direct --socket-dir=\(host.path)/sockets "
                + "-u c0ffee00-0000-4000-8000-000000000001 -- 1 work debian\n")
        #expect(try host.start("work")?.type == "QubesVMNotHaltedError")
        #expect(
            host.events == ["work domain-pre-start", "work domain-spawn", "work domain-start"])
    }

    @Test("Two who start a qube at the same time start it once")
    func startTwice() throws {
        let host = try HostUnderTest()
        try host.put("slow-create", "0.2")
        var results: [QubesdError?] = []
        for _ in 0..<2 { host.manager.start("work") { results.append($0) } }
        try host.wait { results.count == 2 }
        #expect(results == [nil, nil])
        #expect(host.calls.count == 1)
    }

    @Test("What is not there cannot be started, dom0 neither be started nor ended")
    func names() throws {
        let host = try HostUnderTest()
        #expect(try host.start("nope")?.type == "QubesVMNotFoundError")
        #expect(try host.kill("nope")?.type == "QubesVMNotFoundError")
        #expect(try host.start("dom0")?.type == "QubesVMNotHaltedError")
        #expect(try host.kill("dom0")?.type == "QubesVMError")
        #expect(try host.shutdown("work")?.type == "QubesVMNotRunningError")
        #expect(host.calls.isEmpty)
    }

    @Test("When xl fails, the caller is told what xl said, and the qube is halted")
    func createFails() throws {
        let host = try HostUnderTest()
        let followers = (1...3).map { "libxl: error: Domain 6: what follows \($0)\n" }.joined()
        try host.put(
            "fail-create", "libxl: error: failed to free memory for the domain\n" + followers)
        let error = try host.start("work")
        #expect(error?.message.contains("failed to free memory for the domain") == true)
        #expect(error?.message.contains("work.cfg") == true)
        #expect(host.record("work")?.powerState == .halted)
        try host.take("fail-create")
        #expect(try host.start("work") == nil)
    }

    @Test("An xl that hangs is killed with all it started, and the caller is told")
    func createHangs() throws {
        let host = try HostUnderTest(host: "create_timeout = 1")
        try host.put("hang-create")
        let error = try host.start("work")
        #expect(error?.message.contains("did not end in time") == true)
        let helper = try #require(
            Int32(HostUnderTest.read("\(host.path)/hanging").dropLast()))
        try host.wait { !host.isRunning(helper) }
        #expect(host.record("work")?.powerState == .halted)
    }

    @Test("A domain that ends at once is no success")
    func vanishes() throws {
        let host = try HostUnderTest()
        try host.put("vanish-work")
        #expect(try host.start("work")?.message.contains("ended at once") == true)
        #expect(host.record("work")?.powerState == .halted)
    }

    @Test("A qube whose agent does not connect is left running, and the caller is told")
    func noAgent() throws {
        let host = try HostUnderTest(host: "start_timeout = 1")
        try host.put("no-agent-work")
        #expect(try host.start("work")?.message.contains("start_timeout") == true)
        #expect(host.domains == ["work"])
        #expect(host.record("work")?.powerState == .running)
    }

    @Test("A qube without an agent has no daemon, and nobody waits for one")
    func withoutAgent() throws {
        let host = try HostUnderTest()
        #expect(try host.start("vault") == nil)
        #expect(HostUnderTest.read("\(host.path)/daemons").isEmpty)
    }

    @Test("Shutting down asks; who does not hear is destroyed")
    func shutdown() throws {
        let host = try HostUnderTest(host: "shutdown_timeout = 1")
        #expect(try host.start("work") == nil)
        #expect(try host.shutdown("work") == nil)
        #expect(host.calls.last == "shutdown -F 1")
        #expect(host.record("work")?.powerState == .halted)
        #expect(!PathStatus.exists("\(host.path)/sockets/qrexec.1"))

        try host.put("ignore-shutdown")
        #expect(try host.start("work") == nil)
        #expect(try host.shutdown("work") == nil)
        #expect(host.calls.suffix(2) == ["shutdown -F 2", "destroy 2"])
        #expect(host.domains.isEmpty)
    }

    @Test("A kernel that cannot be asked is destroyed at once")
    func shutdownFails() throws {
        let host = try HostUnderTest()
        #expect(try host.start("work") == nil)
        try host.put("fail-shutdown", "PV control interface not available\n")
        #expect(try host.shutdown("work") == nil)
        #expect(host.calls.last == "destroy 1")
    }

    @Test("A qube that is paused is woken to shut down")
    func shutdownPaused() throws {
        let host = try HostUnderTest()
        #expect(try host.start("work") == nil)
        try host.put("domains/1", "work 11111111-2222-3333-4444-555555555555 --p---\n")
        try host.wait { host.record("work")?.powerState == .paused }
        #expect(try host.shutdown("work") == nil)
        #expect(host.calls.suffix(2) == ["unpause 1", "shutdown -F 1"])
    }

    @Test("Killing while it is created leaves nothing")
    func killWhileCreating() throws {
        let host = try HostUnderTest()
        try host.put("hang-create")
        var error: QubesdError??
        host.manager.start("work") { error = .some($0) }
        try host.wait { !HostUnderTest.read("\(host.path)/hanging").isEmpty }
        #expect(try host.kill("work") == nil)
        #expect(error??.message.contains("was stopped") == true)
        #expect(host.record("work")?.powerState == .halted)
    }

    @Test("When destroying fails, the caller is told, and it can be tried again")
    func destroyFails() throws {
        let host = try HostUnderTest()
        #expect(try host.start("work") == nil)
        try host.put("fail-destroy", "libxl: error: no\n")
        #expect(try host.kill("work")?.message.contains("libxl: error: no") == true)
        #expect(host.record("work")?.powerState == .running)
        try host.take("fail-destroy")
        #expect(try host.kill("work") == nil)
        #expect(host.domains.isEmpty)
    }

    @Test("A start that comes while it shuts down starts it again")
    func startWhileStopping() throws {
        let host = try HostUnderTest()
        #expect(try host.start("work") == nil)
        try host.put("slow-shutdown", "0.2")
        var ended = false
        host.manager.shutdown("work") { _ in ended = true }
        #expect(try host.start("work") == nil)
        #expect(ended)
        #expect(host.record("work")?.domainID == 2)
    }

    @Test("What others start and end is followed, and a reboot has a new daemon")
    func elsewhere() throws {
        let host = try HostUnderTest()
        try host.startElsewhere("work", 7)
        try host.startElsewhere("stranger", 8)
        try host.wait { host.record("work")?.powerState == .running }
        #expect(host.record("work")?.domainID == 7)
        #expect(host.record("stranger") == nil)
        try host.take("domains/7")
        try host.startElsewhere("work", 9)
        try host.wait { host.record("work")?.domainID == 9 }
        try host.wait { host.record("work")?.powerState == .running }
        #expect(!PathStatus.exists("\(host.path)/sockets/qrexec.7"))
        #expect(PathStatus.exists("\(host.path)/sockets/qrexec.9"))
        try host.take("domains/9")
        try host.wait { host.record("work")?.powerState == .halted }
        #expect(host.events.last == "work domain-shutdown")
    }

    @Test("A domain that has shut down is left to xl, unless its end was asked for")
    func preserved() throws {
        let host = try HostUnderTest()
        #expect(try host.start("work") == nil)
        try host.put("domains/1", "work 11111111-2222-3333-4444-555555555555 ---s--\n")
        try host.wait { host.record("work")?.powerState == .transient }
        var lists = 0
        try host.wait {
            lists += 1
            return lists > 30
        }
        #expect(host.domains == ["work"])
        #expect(try host.kill("work") == nil)
        #expect(host.domains.isEmpty)
    }

    @Test("An xl that does not answer makes nobody wait, and the manager recovers")
    func listFails() throws {
        let host = try HostUnderTest()
        #expect(try host.start("work") == nil)
        try host.put("fail-list", "xenstore: no\n")
        try host.put("vanish-vault")
        #expect(try host.start("vault")?.message.contains("xenstore: no") == true)
        try host.take("fail-list")
        try host.wait { host.record("vault")?.powerState == .halted }
        #expect(host.record("work")?.powerState == .running)
    }

    @Test("A daemon that ends is started again")
    func daemonEnds() throws {
        let host = try HostUnderTest()
        #expect(try host.start("work") == nil)
        let daemons = { HostUnderTest.read("\(host.path)/daemons").split(separator: "\n").count }
        let daemon = try #require(Int32(HostUnderTest.read("\(host.path)/daemon-pid").dropLast()))
        #expect(Glibc.kill(daemon, SIGKILL) == 0)
        try host.wait { daemons() == 2 }
    }

    @Test("Qubes with autostart are started with the manager")
    func autostart() throws {
        let host = try HostUnderTest("[qubes.work]\nautostart = true\n[qubes.vault]\n")
        try host.wait { host.record("work")?.powerState == .running }
        #expect(host.domains == ["work"])
    }

    @Test("A changed configuration counts at once; what runs and is not in it any more goes on")
    func reload() throws {
        let host = try HostUnderTest()
        #expect(try host.start("work") == nil)
        let changed = """
            [host]
            xl = "\(host.path)/xl"
            state = "\(host.path)/state"
            [qubes.vault]
            label = "green"
            [qubes.new]
            """
        host.manager.apply(try HostSettingsFile.parse(changed, path: "xl.toml", machine: "m"))
        #expect(host.manager.qubes.map(\.name) == ["dom0", "work", "vault", "new"])
        #expect(host.record("vault")?.label == "green")
        #expect(try host.kill("work") == nil)
        #expect(host.manager.qubes.map(\.name) == ["dom0", "vault", "new"])
    }
}

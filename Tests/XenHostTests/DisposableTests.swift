import Glibc
import LinuxSystem
import QrexecDom0
import SystemPackage
import Testing

@testable import XenHost

@Suite("Disposables of a Xen host", .serialized)
struct HostDisposableTests {
    private func made(_ host: HostUnderTest, requester: Int32? = nil) throws -> QubeRecord {
        try host.disposable(requester: requester).get()
    }

    private func directories(_ host: HostUnderTest) -> [String] {
        (try? PathStatus.names(in: "\(host.path)/state/disposables")) ?? []
    }

    @Test("It is its template's configuration with another name and uuid, and gone when it halts")
    func life() throws {
        let host = try HostUnderTest()
        let disposable = try made(host)
        #expect(disposable.type == .disposable)
        #expect(disposable.name.hasPrefix("disp"))
        #expect(disposable.tags == ["created-by-work", "disp-created-by-work"])
        #expect(disposable.powerState == .halted)
        #expect(disposable.defaultDisposable == "dvm")
        #expect(try host.start(disposable.name) == nil)
        let call = try #require(host.calls.last)
        #expect(call.hasPrefix("create -q \(host.path)/dvm.cfg name=\\\"\(disposable.name)\\\""))
        #expect(call.contains(disposable.uuid))
        #expect(call.contains("on_poweroff=\\\"destroy\\\""))
        #expect(try host.kill(disposable.name) == nil)
        #expect(host.record(disposable.name) == nil)
        try host.wait { directories(host).isEmpty }
    }

    @Test("Its writable disks are copies, which go with it; read-only ones are shared")
    func disks() throws {
        let host = try HostUnderTest()
        try host.put("root.img", "contents")
        try host.put("tools.iso", "disc")
        try host.put(
            "dvm.cfg",
            """
            disk = [ 'format=raw, vdev=xvda, access=rw, target=\(host.path)/root.img',
                     '\(host.path)/tools.iso,raw,xvdb,r' ]

            """)
        let disposable = try made(host)
        let copy = "\(host.path)/state/disposables/\(disposable.name)/disk0"
        #expect(HostUnderTest.read(copy) == "contents")
        #expect(try host.start(disposable.name) == nil)
        let call = try #require(host.calls.last?.replacing("\\", with: ""))
        let disk =
            "disk=[\"format=raw, vdev=xvda, access=rw, target=\(copy)\","
            + "\"\(host.path)/tools.iso,raw,xvdb,r\"]"
        #expect(call.contains(disk), "\(call)")
        #expect(try host.kill(disposable.name) == nil)
        try host.wait { directories(host).isEmpty }
        #expect(HostUnderTest.read("\(host.path)/root.img") == "contents")
    }

    @Test("An LVM volume gets a thin snapshot, which is removed, if need be by several tries")
    func volumes() throws {
        let host = try HostUnderTest()
        try host.put("dvm.cfg", "disk = [ 'phy:/dev/null,xvda,w' ]\n")
        try host.put(
            "tools/lvs", "#!/bin/sh\ntest \"$2\" != --separator || echo '  vg/dvm'\n", mode: 0o755)
        try host.put("tools/lvcreate", "#!/bin/sh\necho \"$@\" >>\(host.path)/lvm\n", mode: 0o755)
        try host.put(
            "tools/lvremove",
            """
            #!/bin/sh
            echo "$@" >>\(host.path)/lvm
            test $(grep -c -- '--yes -- vg' \(host.path)/lvm) = 3

            """, mode: 0o755)
        try host.put("tools/sleep", "#!/bin/sh\n", mode: 0o755)
        let disposable = try made(host)
        let volume = "qubes-\(disposable.name)-0"
        #expect(try host.start(disposable.name) == nil)
        let call = try #require(host.calls.last?.replacing("\\", with: ""))
        #expect(call.contains("disk=[\"phy:/dev/vg/\(volume),xvda,w\"]"), "\(call)")
        #expect(try host.kill(disposable.name) == nil)
        try host.wait { directories(host).isEmpty }
        let lvm = HostUnderTest.read("\(host.path)/lvm").split(separator: "\n").map(String.init)
        let remove = "--quiet --yes -- vg/\(volume)"
        #expect(
            lvm == [
                "--quiet --yes --snapshot --setactivationskip n --name \(volume) -- vg/dvm",
                remove, remove, remove,
            ])
    }

    static let failures: [(name: String, configuration: String?, part: String)] = [
        ("no configuration", nil, "cannot read"),
        ("a broken configuration", "disk = [\n\n", ":3: "),
        ("a disk that is not there", "disk = ['/nowhere/x,raw,xvda,w']\n", "there is no disk"),
        ("a disk that is a directory", "disk = ['/tmp,raw,xvda,w']\n", "neither a file nor"),
        ("a script", "disk = ['vdev=xvda,script=x,target=y']\n", "script"),
    ]

    @Test("What cannot be made is told with the reason, and leaves nothing", arguments: failures)
    func failure(_ failure: (name: String, configuration: String?, part: String)) throws {
        let host = try HostUnderTest()
        if let text = failure.configuration {
            try host.put("dvm.cfg", text)
        } else {
            try host.take("dvm.cfg")
        }
        guard case .failure(let error) = try host.disposable() else {
            Issue.record("made")
            return
        }
        #expect(error.message.contains(failure.part), "\(error)")
        try host.wait { directories(host).isEmpty }
        #expect(host.manager.qubes.count == 4)
    }

    @Test("A template that runs is not copied while it writes to its disks")
    func runningTemplate() throws {
        let host = try HostUnderTest()
        try host.put("root.img")
        try host.put("dvm.cfg", "disk = ['\(host.path)/root.img,raw,xvda,w']\n")
        #expect(try host.start("dvm") == nil)
        guard case .failure(let error) = try host.disposable() else {
            Issue.record("made")
            return
        }
        #expect(error.message.contains("shut it down"))
    }

    @Test("Who has no default, or names what is no template, is told so")
    func templates() throws {
        let host = try HostUnderTest("[qubes.work]\n[qubes.vault]\n")
        for template in [nil, "vault", "nope"] {
            guard case .failure(let error) = try host.disposable(template) else {
                Issue.record("made")
                return
            }
            #expect(error.type == "QubesVMError")
        }
    }

    @Test(
        "A disposable ends when the daemon that asked for it does, started or not",
        arguments: [true, false])
    func requester(_ starts: Bool) throws {
        let host = try HostUnderTest()
        var request = SpawnRequest(
            path: "/bin/sleep", arguments: ["qrexec-daemon", "1000"], environment: [])
        request.diesWithParent = true
        let requester = try ChildProcess.spawn(request)
        let pid = requester.pid
        // Its arguments can be seen a moment after it was started.
        try host.wait { Requester.servesCalls(pid) }
        let disposable = try made(host, requester: pid)
        if starts { #expect(try host.start(disposable.name) == nil) }
        requester.signal(SIGKILL)
        _ = try requester.reap()
        try host.wait { host.record(disposable.name) == nil && directories(host).isEmpty }
        #expect(host.domains.isEmpty)
    }

    @Test("A disposable whose agent does not connect is destroyed and removed")
    func noAgent() throws {
        let host = try HostUnderTest(host: "start_timeout = 1")
        let disposable = try made(host)
        try host.put("no-agent-\(disposable.name)")
        #expect(try host.start(disposable.name)?.message.contains("did not connect") == true)
        #expect(host.domains.isEmpty)
        try host.wait { directories(host).isEmpty }
    }

    @Test("A new manager keeps disposables in use, and removes what others left")
    func recovery() throws {
        let host = try HostUnderTest()
        let used = try made(host)
        let unused = try made(host)
        let orphan = try made(host)
        for name in [used.name, unused.name] { #expect(try host.start(name) == nil) }
        // One that waited in the pool of the earlier manager.
        var files = DisposableFiles(
            left: "\(host.path)/state/disposables/\(unused.name)", name: unused.name)
        files.isHandedOut = false
        try files.write()
        try host.restart()
        try host.wait { host.record(unused.name) == nil && host.record(orphan.name) == nil }
        try host.wait { host.record(used.name)?.powerState == .running }
        #expect(host.record(used.name)?.tags == used.tags)
        #expect(host.record(used.name)?.uuid == used.uuid)
        #expect(host.domains == [used.name])
        try host.wait { directories(host) == [used.name] }
        #expect(try host.kill(used.name) == nil)
        try host.wait { directories(host).isEmpty }
    }

    static let pooled = """
        [qubes.dom0]
        default_dispvm = "dvm"
        [qubes.work]
        [qubes.dvm]
        template_for_dispvms = true
        [qubes.dvm.features]
        preload-dispvm-max = "1"
        preload-dispvm-delay = "0"
        """

    private func ready(_ host: HostUnderTest) -> QubeRecord? {
        let ready = host.manager.table.first { $0.isReadyInPool && $0.isPooled && $0.isPaused }
        return ready.map { host.manager.record($0) }
    }

    @Test("The pool has a paused one ready, hands it out awake, once, and makes the next")
    func pool() throws {
        let host = try HostUnderTest(Self.pooled)
        try host.wait { ready(host) != nil }
        let waiting = try #require(ready(host))
        let disposable = try made(host)
        #expect(disposable.name == waiting.name)
        #expect(disposable.powerState == .running)
        #expect(!disposable.isInternal)
        #expect(disposable.tags == ["created-by-work", "disp-created-by-work"])
        try host.wait { ready(host) != nil && ready(host)?.name != waiting.name }
        #expect(try host.kill(disposable.name) == nil)
    }

    @Test("A pooled one that is older than its template's configuration is not handed out")
    func stalePool() throws {
        let host = try HostUnderTest(Self.pooled)
        try host.wait { ready(host) != nil }
        let waiting = try #require(ready(host))
        try host.put("dvm.cfg", "memory = 800\n")
        let disposable = try made(host)
        #expect(disposable.name != waiting.name)
        try host.wait { host.record(waiting.name) == nil }
    }

    @Test("Starting the template throws away what was made from it before")
    func templateStarts() throws {
        let host = try HostUnderTest(Self.pooled)
        try host.wait { ready(host) != nil }
        let waiting = try #require(ready(host))
        #expect(try host.start("dvm") == nil)
        try host.wait { host.record(waiting.name) == nil }
    }
}

import LinuxSystem
import Testing

@testable import QubesLab

@Suite("A qube's sandbox and the lab's files")
struct LayoutTests {
    private func plan(_ settings: QubeSettings, _ ownership: Ownership) throws -> SandboxPlan {
        let directory = try TemporaryDirectory()
        try directory.write("qrexec-agent", "#!/bin/sh\n", mode: 0o755)
        let programs = try Programs(in: directory.path, side: .vm)
        let files = QubeFiles(
            settings: settings, uuid: QubeUUID.random(), ownership: ownership,
            directory: "/s/qubes/work")
        return SandboxPlan(
            files: files, domain: 5, programs: programs, programTree: "/s/usr/vm", xen: "/s/xen")
    }

    @Test("A qube sees its own offers writable, and of the others only those made to it")
    func store() throws {
        let parts = try plan(QubeSettings(name: "work"), .own).parts
        let xen = parts.filter { $0.source.hasPrefix("/s/xen/") }
        #expect(xen.filter { !$0.readOnly }.map(\.source) == ["/s/xen/5"])
        #expect(xen.filter(\.readOnly).map(\.source) == (0..<64).map { "/s/xen/\($0)/5" })
    }

    @Test("Nothing else of the state directory but the qube's own files is writable")
    func writable() throws {
        let parts = try plan(QubeSettings(name: "work"), .mapped(base: 7)).parts
        for part in parts where !part.readOnly && part.source != "/s/xen/5" {
            #expect(part.source.hasPrefix("/s/qubes/work/root/"))
        }
    }

    @Test("The namespaces of a qube are its own, and it ends with the lab")
    func namespaces() throws {
        let arguments = try plan(QubeSettings(name: "work"), .own).sandboxArguments
        for option in [
            "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent",
            "--as-pid-1",
        ] { #expect(arguments.contains(option)) }
        #expect(arguments.contains("--unshare-user"))
        let mapped = try plan(QubeSettings(name: "work"), .mapped(base: 7))
        #expect(!mapped.sandboxArguments.contains("--unshare-user"))
        #expect(mapped.launcherArguments.starts(with: ["--base", "7", "--domain", "5"]))
    }

    @Test("A home of its own size is mounted behind /home")
    func homeSize() throws {
        var settings = QubeSettings(name: "work")
        settings.homeSize = 1 << 26
        let arguments = try plan(settings, .own).sandboxArguments
        let home = try #require(arguments.firstIndex(of: "/home"))
        let user = try #require(arguments.firstIndex(of: "/home/user"))
        #expect(home < user)
        #expect(
            Array(arguments[(user - 5)..<user]) == [
                "--perms", "0700", "--size", "67108864", "--tmpfs",
            ])
    }

    @Test("A number is used again as late as possible")
    func numbers() {
        var numbers = DomainNumbers()
        #expect(numbers.take() == 1)
        numbers.giveBack(1)
        for expected in UInt32(2)...63 { #expect(numbers.take() == expected) }
        #expect(numbers.take() == 1)
        #expect(numbers.take() == nil)
        numbers.giveBack(17)
        #expect(numbers.take() == 17)
    }

    @Test("Our programs win over the machine's, which keep working")
    func programTree() throws {
        let directory = try TemporaryDirectory()
        for name in ["qrexec-agent", "qrexec-daemon", "ls"] {
            try directory.write(name, "#!/bin/sh\n", mode: 0o755)
        }
        let tree = "\(directory.path)/tree"
        try ProgramTree.make(at: tree, try Programs(in: directory.path, side: .dom0))
        #expect(FileStatus.linkText("\(tree)/bin/ls") == "/usr/.programs/0/ls")
        #expect(
            FileStatus.linkText("\(tree)/sbin/qrexec-daemon") == "/usr/.programs/0/qrexec-daemon")
        #expect(
            FileStatus.linkText("\(tree)/lib/qubes/qrexec-agent") == "/usr/.programs/0/qrexec-agent"
        )
        #expect(FileStatus.linkText("\(tree)/bin/cat") == "/usr/.machine/bin/cat")
        #expect(
            FileStatus.linkText("\(tree)/bin/sh") == "dash" || PathStatus.exists("\(tree)/bin/sh"))
    }

    @Test("A tool that differs between dom0 and qubes is found on its side")
    func sides() throws {
        let directory = try TemporaryDirectory()
        try directory.write("qrexec-agent", "#!/bin/sh\n", mode: 0o755)
        try directory.write("qvm-copy-to-vm", "vm\n", mode: 0o755)
        try PathStatus.makeDirectory("\(directory.path)/dom0", mode: 0o755)
        try directory.write("dom0/qvm-copy-to-vm", "dom0\n", mode: 0o755)
        let vm = try Programs(in: directory.path, side: .vm)
        let dom0 = try Programs(in: directory.path, side: .dom0)
        #expect(vm.directories[vm.files["qvm-copy-to-vm"]!.directory] == directory.path)
        #expect(
            dom0.directories[dom0.files["qvm-copy-to-vm"]!.directory] == "\(directory.path)/dom0")
    }

    @Test("A state directory that is a link, somebody else's or open to others is refused")
    func stateDirectory() throws {
        let directory = try TemporaryDirectory()
        let path = "\(directory.path)/state"
        let state = StateDirectory(path)
        #expect(try !state.check())
        try state.prepare()
        #expect(try state.check())
        try PathStatus.changeMode(path, 0o750)
        #expect(throws: LabError.self) { try state.check() }
        try PathStatus.changeMode(path, 0o700)
        try PathStatus.makeLink("\(directory.path)/link", to: path)
        #expect(throws: LabError.self) { try StateDirectory("\(directory.path)/link").prepare() }
        if CurrentProcess.effectiveUser == 0 {
            try PathStatus.changeOwner(path, uid: 12345, gid: 12345)
            #expect(throws: LabError.self) { try state.prepare() }
        }
    }

    @Test("A tree is removed however deep it is, and links are not followed")
    func deepTree() throws {
        let directory = try TemporaryDirectory()
        let top = "\(directory.path)/top"
        let kept = "\(directory.path)/kept"
        try PathStatus.makeDirectory(top, mode: 0o755)
        try PathStatus.makeDirectory(kept, mode: 0o755)
        try directory.write("kept/file", "x")
        try PathStatus.makeDirectory("\(top)/d", mode: 0o755)
        try PathStatus.makeLink("\(top)/d/link", to: kept)
        for _ in 0..<3000 {
            try PathStatus.makeDirectory("\(top)/n", mode: 0o500)
            try PathStatus.changeMode("\(top)/n", 0o700)
            try PathStatus.rename("\(top)/d", to: "\(top)/n/d")
            try PathStatus.rename("\(top)/n", to: "\(top)/d")
        }
        try PathStatus.changeMode("\(top)/d", 0)
        try PathStatus.removeTree(top)
        #expect(!PathStatus.exists(top))
        #expect(PathStatus.exists("\(kept)/file"))
    }

    @Test("Paths are made absolute without asking the file system")
    func paths() {
        #expect(StateDirectory("/a/./b/../c//d/").path == "/a/c/d")
        #expect(StateDirectory("x").path.hasSuffix("/x"))
    }
}

@Suite("Reports of process 1, which may be hostile")
struct InitReportTests {
    @Test("A report survives the way")
    func roundTrip() {
        let report = InitReport(kind: .failed, id: 0xFFFF_FFFE, value: -3, text: "why")
        #expect(InitReport(report.bytes) == report)
    }

    @Test(
        "What is no report is told apart",
        arguments: [
            [], [1], [UInt8](repeating: 0, count: 9), [9, 0, 0, 0, 0, 0, 0, 0, 0],
            [UInt8](repeating: 1, count: 9 + InitReport.maximumText + 1),
        ] as [[UInt8]])
    func hostile(_ bytes: [UInt8]) { #expect(InitReport(bytes) == nil) }

    @Test("Text that is not UTF-8 is taken, too long text is cut")
    func text() throws {
        let report = try #require(InitReport([3, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xC3]))
        #expect(report.kind == .failed)
        let long = InitReport(kind: .failed, text: String(repeating: "x", count: 10_000))
        #expect(long.bytes.count == InitReport.maximumLength)
    }

    @Test(
        "A client can send signals only", arguments: [[], [0], [65], [255], [2, 2]] as [[UInt8]])
    func signals(_ bytes: [UInt8]) { #expect(ClientSignal(bytes: bytes) == nil) }

    @Test("A process that was written down is told from one that got its number")
    func records() throws {
        let own = try #require(ProcessRecord(pid: CurrentProcess.id))
        #expect(ProcessRecord(text: "\(own.pid) \(own.startTime)\n") == own)
        for text in ["", "x y", "1 5", "-5 5", "5", "5 5 5"] {
            #expect(ProcessRecord(text: text) == nil)
        }
        let other = try #require(ProcessRecord(text: "\(own.pid) 1"))
        #expect(!other.end())
    }
}

import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage
import Testing

@testable import XenHost

/// The built programs, with stand-ins for xl and qrexec-daemon.
private final class Programs {
    static let path: String = {
        let package = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        return "/\(package)/.build/debug/qubes-xl"
    }()

    let host: HostUnderTest
    private var manager: ChildProcess?

    /// - Parameter watch: the body of the script that stands in for xenstore-watch.
    init(_ text: String, watch: String = "while sleep 0.1; do echo x; done") throws {
        host = try HostUnderTest(text, begin: false)
        let path = host.path
        try PathStatus.makeDirectory("\(path)/run", mode: 0o755)
        try host.put("watch", "#!/bin/sh\n\(watch)\n", mode: 0o755)
        try configure(text)
        var request = SpawnRequest(
            path: Self.path,
            arguments: [
                "qubes-xl-manager", "--config=\(path)/xl.toml", "--socket-dir=\(path)/run",
                "--daemon=\(path)/qrexec-daemon", "--daemon-socket-dir=\(path)/sockets",
                "--store-watch=\(path)/watch", "--quiet",
            ] + (CurrentProcess.effectiveUser == 0 ? ["--user=root"] : []), environment: [])
        request.descriptors = [nil, 2, 2]
        request.diesWithParent = true
        manager = try ChildProcess.spawn(request)
        try host.wait { PathStatus.exists("\(path)/run/qubesd.internal.sock") }
    }

    func configure(_ text: String) throws {
        let more = """

            [host]
            xl = "\(host.path)/xl"
            state = "\(host.path)/state"
            """
        try host.put("xl.toml", text + more)
    }

    func signal(_ signal: Int32) {
        if manager != nil { manager!.signal(signal) }
    }

    /// Its exit status.
    func end() throws -> Int32 {
        guard let manager = manager.take() else { return -1 }
        manager.signal(SIGTERM)
        return try manager.reap()
    }

    deinit { _ = try? end() }

    func run(_ arguments: String...) throws -> (status: Int32, out: String, errors: String) {
        let out = try Descriptor.memoryFile("out")
        let errors = try Descriptor.memoryFile("errors")
        var request = SpawnRequest(
            path: Self.path, arguments: ["qubes-xl"] + arguments,
            environment: ["QUBESD_SOCKET=\(host.path)/run/qubesd.sock"])
        request.descriptors = [nil, out.number, errors.number]
        let status = try ChildProcess.spawn(request).reap()
        try out.seek(to: 0)
        try errors.seek(to: 0)
        return (
            status, String(decoding: try out.readAll(limit: 1 << 20), as: UTF8.self),
            String(decoding: try errors.readAll(limit: 1 << 20), as: UTF8.self)
        )
    }
}

@Suite("qubes-xl and qubes-xl-manager", .serialized)
struct ProgramTests {
    private static let qubes = """
        [qubes.dom0]
        default_dispvm = "dvm"
        [qubes.work]
        xl = "/etc/hostname"
        label = "blue"
        [qubes.dvm]
        xl = "/dev/null"
        template_for_dispvms = true
        """

    @Test("People look at, start and end qubes, and each command tells how it went")
    func commands() throws {
        let programs = try Programs(Self.qubes)
        #expect(try programs.run("start", "work").status == 0)
        #expect(try programs.run("start", "work").out == "work runs already.\n")
        let list = try programs.run("list")
        #expect(list.out.contains("work  Running  1"), "\(list.out)")
        #expect(try programs.run("list", "--names").out == "dom0\nwork\ndvm\n")
        let status = try programs.run("status", "work")
        #expect(status.out.contains("work: Running\n  domid: 1\n"), "\(status.out)")
        #expect(try programs.run("shutdown", "work").status == 0)
        #expect(try programs.run("kill", "work").out == "work is halted already.\n")
        let mixed = try programs.run("start", "nope", "work")
        #expect(mixed.status == 1)
        #expect(mixed.errors.contains("No such domain: nope"))
        #expect(programs.host.domains == ["work"])
        let disposable = try programs.run("disposable").out.dropLast()
        #expect(disposable.hasPrefix("disp"))
        #expect(try programs.run("kill", String(disposable)).status == 0)
        #expect(programs.host.domains == ["work"])
        #expect(try programs.end() == 0)
        // Domains outlive the manager, its sockets and daemons do not.
        #expect(programs.host.domains == ["work"])
        #expect(!PathStatus.exists("\(programs.host.path)/run/qubesd.sock"))
        let gone = try programs.run("list")
        #expect(gone.status == 1)
        #expect(gone.errors.contains("systemctl start qubes-xl-manager"))
    }

    @Test("A changed file counts after SIGHUP; one with a mistake changes nothing")
    func reload() throws {
        let programs = try Programs(Self.qubes)
        try programs.configure("[qubes.wrong]\nlabel = 1\n")
        programs.signal(SIGHUP)
        #expect(try programs.run("list", "--names").out == "dom0\nwork\ndvm\n")
        try programs.configure("[qubes.new]\n")
        programs.signal(SIGHUP)
        try programs.host.wait { (try? programs.run("list", "--names").out) == "dom0\nnew\n" }
        let check = try programs.run("check", "\(programs.host.path)/xl.toml")
        #expect(check.out.contains("1 qubes"))
    }

    @Test("A watch of the store that tells nothing holds nobody")
    func silentWatch() throws {
        let programs = try Programs(Self.qubes, watch: "exec sleep 1000")
        #expect(try programs.run("start", "work").status == 0)
        #expect(try programs.run("kill", "work").status == 0)
        // What others start and end is seen all the same, some time later.
        try programs.host.startElsewhere("work", 77)
        try programs.host.wait {
            (try? programs.run("list").out.contains("work  Running  77")) == true
        }
    }

    @Test(
        "Wrong usage is 64, with the way to help",
        arguments: [[], ["nothing"], ["start"], ["list", "x"], ["disposable", "a", "b"]])
    func usage(_ arguments: [String]) {
        #expect(XLProgram.run(arguments: ["qubes-xl"] + arguments) == 64)
    }
}

import Foundation
import LinuxSystem
import Testing

@testable import QubesServices

/// The installed programs, started as a user starts them, with a stand-in for the call between the
/// two qubes. They need the programs of `make build`.
@Suite
struct ToolTests {
    @Test func copiesToAQube() throws {
        let scene = try Scene()
        try scene.here.write("work/d/f", "x")
        let outcome = try scene.run("qvm-copy-to-vm", "vault", "d")
        #expect(outcome.status == 0)
        #expect(outcome.error == "")
        #expect(scene.arrived == ["d", "d/f"])
        #expect(scene.left == ["d", "d/f"])
        #expect(scene.here.text("bin/calls") == "vault qubes.Filecopy\n")
        #expect(try scene.there.status("QubesIncoming").mode == 0o040700)
        #expect(try scene.there.status("QubesIncoming/work").mode == 0o040700)
    }

    @Test func asksForTheQubeWithoutOne() throws {
        let scene = try Scene()
        try scene.here.write("work/f", "x")
        #expect(try scene.run("qvm-copy", "--", "f").status == 0)
        #expect(scene.here.text("bin/calls") == "@default qubes.Filecopy\n")
    }

    @Test func asksForAllNamesOnlyWhenThereAreUnusualOnes() throws {
        let scene = try Scene()
        try scene.here.write("work/a\u{1}b", "x")
        #expect(try scene.run("qvm-copy-to-vm", "vault", "a\u{1}b").status == 0)
        #expect(scene.arrived == ["a\u{1}b"])
        #expect(scene.here.text("bin/calls") == "vault qubes.Filecopy+allow-all-names\n")
    }

    @Test func movesAWholeTree() throws {
        let scene = try Scene()
        try scene.here.write("work/d/e/f", "x")
        try scene.here.write("work/d/g", "y")
        try FileManager.default.createSymbolicLink(
            atPath: scene.here.path + "/work/d/l", withDestinationPath: "g")
        let outcome = try scene.run("qvm-move-to-vm", "vault", "d")
        #expect(outcome.status == 0)
        #expect(scene.arrived == ["d", "d/e", "d/e/f", "d/g", "d/l"])
        #expect(scene.left == [])
    }

    @Test func keepsEverythingWhenAMoveIsRefusedByTheReceiver() throws {
        let scene = try Scene()
        try scene.here.write("work/d/a", "x")
        try scene.here.write("work/d/b", "x")
        try scene.there.write("QubesIncoming/work/d/b", "mine")
        let outcome = try scene.run("qvm-move-to-vm", "vault", "d")
        #expect(outcome.status == EEXIST)
        #expect(outcome.error.contains("\"d/b\": exists already"))
        #expect(outcome.error.contains("Nothing was deleted here"))
        #expect(scene.left == ["d", "d/a", "d/b"])
        #expect(scene.there.text("QubesIncoming/work/d/b") == "mine")
    }

    @Test func keepsWhatWasNotSent() throws {
        let scene = try Scene()
        try scene.here.write("work/d/f", "x")
        try FileManager.default.createSymbolicLink(
            atPath: scene.here.path + "/work/d/l", withDestinationPath: "f")
        mkfifo(scene.here.path + "/work/d/pipe", 0o600)
        let outcome = try scene.run("qvm-move-to-vm", "--ignore-symlinks", "vault", "d")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("d/pipe: not sent"))
        #expect(outcome.error.contains("d: kept, because something in it was not sent"))
        #expect(scene.arrived == ["d", "d/f"])
        #expect(scene.left == ["d", "d/l", "d/pipe"])
    }

    @Test func keepsAFileThatChangedAfterItWasSent() throws {
        let scene = try Scene(
            client: Scene.call.replacing("exit \"${status[0]}\"", with: "echo more >> d/b; exit 0"))
        try scene.here.write("work/d/a", "x")
        try scene.here.write("work/d/b", "x")
        let outcome = try scene.run("qvm-move-to-vm", "vault", "d")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("d/b: kept, because it changed after it was sent"))
        #expect(scene.left == ["d", "d/b"])
        #expect(scene.here.text("work/d/b") == "xmore\n")
    }

    @Test func keepsEverythingWhenTheCallEndsWellButNothingWasSent() throws {
        let scene = try Scene(client: "exit 0")
        try scene.here.write("work/f", "x")
        let outcome = try scene.run("qvm-move-to-vm", "vault", "f")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("did not confirm"))
        #expect(scene.left == ["f"])
    }

    @Test(arguments: [1, 125, 126, 255])
    func keepsEverythingWhenTheCallFails(status: Int32) throws {
        let scene = try Scene(client: "cat > /dev/null; exit \(status)")
        try scene.here.write("work/f", "x")
        let outcome = try scene.run("qvm-move-to-vm", "vault", "f")
        #expect(outcome.status == status)
        #expect(outcome.error.contains("Nothing was deleted here"))
        #expect(scene.left == ["f"])
    }

    @Test func sendsNothingWhenOneNameIsMissing() throws {
        let scene = try Scene()
        try scene.here.write("work/f", "x")
        let outcome = try scene.run("qvm-copy-to-vm", "vault", "f", "none")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains("none: No such file or directory. Nothing was sent."))
        #expect(scene.arrived == [])
    }

    @Test(arguments: [
        ["qvm-copy"], ["qvm-copy-to-vm"], ["qvm-copy-to-vm", "vault"], ["qvm-copy", "--none", "f"],
        ["qvm-move-to-vm", "--", "--oops", "f"], ["qvm-copy-to-vm", "", "f"],
    ])
    func explainsAWrongCommandLine(command: [String]) throws {
        let scene = try Scene()
        let error = Pipe()
        let process = try scene.start(command[0], Array(command.dropFirst()), error: error)
        let text = error.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        #expect(process.terminationStatus == 2)
        #expect(String(decoding: text, as: UTF8.self).contains("see --help"))
    }

    @Test(arguments: Array(ServiceTools.all.keys.filter { !$0.hasPrefix("qubes.") }))
    func helps(tool: String) throws {
        let scene = try Scene()
        #expect(try scene.run(tool, "--help").status == 0)
        #expect(try scene.run(tool, "--version").status == 0)
    }

    @Test func refusesAnUnknownArgumentOfTheService() throws {
        let scene = try Scene()
        #expect(try scene.run("qubes.Filecopy", "allow-everything").status == 1)
    }

    @Test func receivesOnlyForAQubeWithAName() throws {
        let scene = try Scene()
        for name in ["", "../evil", "a/b", "-x", "none"] {
            let error = Pipe()
            let process = Process()
            process.executableURL = URL(fileURLWithPath: scene.here.path + "/bin/qubes.Filecopy")
            process.environment = ["HOME": scene.there.path, "QREXEC_REMOTE_DOMAIN": name]
            process.standardError = error
            process.standardOutput = FileHandle.nullDevice
            process.standardInput = FileHandle.nullDevice
            try process.run()
            process.waitUntilExit()
            #expect(process.terminationStatus == EINVAL)
        }
        #expect(scene.there.contents == [])
    }

    @Test func interruptedLeavesNothingHalfWritten() throws {
        let scene = try Scene()
        let file = try Descriptor.open(
            scene.here.path + "/work/large", O_CREAT | O_WRONLY, mode: 0o600)
        for _ in 0..<300 { try file.writeAll([UInt8](repeating: 7, count: 1_000_000)) }
        let error = Pipe()
        let process = try scene.start("qvm-move-to-vm", ["vault", "large"], error: error)
        while scene.here.text("bin/calls") == nil {
            try #require(process.isRunning, "it ended before it called")
            usleep(1000)
        }
        usleep(20_000)
        kill(process.processIdentifier, SIGINT)
        process.waitUntilExit()
        // The receiver ends when the connection is gone, which closes standard error.
        _ = error.fileHandleForReading.readDataToEndOfFile()
        let finished = process.terminationStatus == 0
        #expect(scene.left == (finished ? [] : ["large"]))
        #expect(scene.arrived.isEmpty || scene.arrived == ["large"])
        if scene.arrived == ["large"] {
            #expect(try scene.there.status("QubesIncoming/work/large").size == 300_000_000)
        }
    }

    @Test func tellsTheSizeAndWhetherAllNamesAreNeeded() throws {
        let scene = try Scene()
        try scene.here.write("work/d/a", "12345")
        #expect(try scene.run("qubes-fs-tree-check", "--machine-readable", "d").status == 0)
        #expect(
            try scene.run("qubes-fs-tree-check", "--no-allow-directories", "d").status == 1)
        try scene.here.write("work/d/\u{1}", "")
        #expect(try scene.run("qubes-fs-tree-check", "d").status == 2)
        #expect(try scene.run("qubes-fs-tree-check", "--allow-all-names", "d").status == 0)
    }
}

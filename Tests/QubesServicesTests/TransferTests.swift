import Foundation
import LinuxSystem
import Testing

@testable import QubesServices

@Suite struct TransferTests {
    /// Paths, kinds, permissions, times and contents of everything below a directory.
    private func fingerprint(_ directory: TemporaryDirectory) throws -> [String] {
        try directory.contents.map { name in
            let status = try directory.status(name)
            let path = directory.path + "/" + name
            var line = "\(name) \(status.mode) \(status.modified)"
            if status.kind == .regular {
                let bytes = [UInt8](FileManager.default.contents(atPath: path) ?? Data())
                var sum = CRC32()
                sum.update(bytes.span)
                line += " \(bytes.count) \(sum.value)"
            } else if status.kind == .symbolicLink {
                line += try " " + FileManager.default.destinationOfSymbolicLink(atPath: path)
            }
            return line
        }
    }

    private func set(_ path: String, mode: Int, seconds: Int) throws {
        try FileManager.default.setAttributes(
            [
                .posixPermissions: mode,
                .modificationDate: Date(timeIntervalSince1970: Double(seconds) + 0.125),
            ], ofItemAtPath: path)
    }

    @Test func bringsAWholeTreeWithEverythingThatBelongsToIt() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        try source.write("tree/plain", "text")
        try source.write("tree/empty", "")
        try source.write("tree/with space/ünïcödé 漢字", "more")
        try source.write("tree/a/b/c/d/deep", "deep")
        try source.write("tree/big", (0..<700_001).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) })
        try FileManager.default.createDirectory(
            atPath: source.path + "/tree/empty directory", withIntermediateDirectories: false)
        for (link, to) in [("tree/link", "plain"), ("tree/a/b/up", "../../plain")] {
            try FileManager.default.createSymbolicLink(
                atPath: source.path + "/" + link, withDestinationPath: to)
        }
        for (index, name) in source.contents.enumerated().reversed() {
            if try source.status(name).kind == .symbolicLink { continue }
            let isDirectory = try source.status(name).kind == .directory
            let mode =
                isDirectory ? [0o755, 0o711, 0o2770][index % 3] : [0o644, 0o400, 0o751][index % 3]
            try set(source.path + "/" + name, mode: mode, seconds: 900_000_000 + index)
        }
        let done = try transfer([source.path + "/tree"], to: target)
        #expect(done.failure == nil)
        #expect(done.result.code == 0)
        #expect(try fingerprint(target) == fingerprint(source))
    }

    @Test func bringsFiveThousandFiles() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        for index in 0..<5000 {
            try source.write("t/\(index % 50)/f\(index)", "contents of \(index)")
        }
        #expect(try transfer([source.path + "/t"], to: target).failure == nil)
        #expect(try fingerprint(target) == fingerprint(source))
    }

    @Test func bringsALargeSparseFileQuicklyAndSparse() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        let file = try Descriptor.open(source.path + "/s", O_CREAT | O_WRONLY, mode: 0o600)
        try file.setSize(300_000_000)
        try file.seek(150_000_000, .start)
        try file.writeAll(Array("in the middle".utf8))
        #expect(try transfer([source.path + "/s"], to: target).failure == nil)
        let status = try target.status("s")
        #expect(status.size == 300_000_000)
        #expect(status.allocated < 10_000_000)
        #expect(try fingerprint(target) == fingerprint(source))
    }

    @Test func sendsByTheLastComponentOfEachArgument() throws {
        let source = try TemporaryDirectory()
        try source.write("a/b/one", "1")
        try source.write("a/two", "2")
        for (argument, expected) in [
            ("a/b/one", ["one"]), ("a/b/", ["b", "b/one"]), ("a/b/.", ["b", "b/one"]),
            ("a/b/../b", ["b", "b/one"]), ("a/b/..", ["a", "a/b", "a/b/one", "a/two"]),
        ] {
            let target = try TemporaryDirectory()
            #expect(try transfer([source.path + "/" + argument], to: target).failure == nil)
            #expect(target.contents == expected, "\(argument)")
        }
    }

    @Test func bringsDeeplyNestedDirectories() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        // Far beyond what a path in one piece may have.
        let depth = 600
        var directory = SharedDescriptor(try source.open())
        let name = Array("directory".utf8) + [0]
        for _ in 0..<depth {
            try directory.descriptor.makeDirectory(name, mode: 0o755)
            directory = SharedDescriptor(
                try directory.descriptor.open(entry: name, O_RDONLY | O_DIRECTORY))
        }
        let file = try directory.descriptor.open(
            entry: Array("f".utf8) + [0], O_CREAT | O_WRONLY, mode: 0o600)
        try file.writeAll([1, 2, 3])
        #expect(try transfer([source.path + "/directory"], to: target).failure == nil)
        let path = [[UInt8]](repeating: Array("directory".utf8), count: depth)
            .joined(separator: [slash])
        let copy = try target.open().openBeneath(path + Array("/f".utf8) + [0], O_RDONLY)
        #expect(try copy.readAll(limit: 10) == [1, 2, 3])
        for place in [source, target] {
            let remove = try Process.run(
                URL(fileURLWithPath: "/bin/rm"), arguments: ["-rf", place.path + "/directory"])
            remove.waitUntilExit()
        }
    }

    @Test func leavesLinksOutWhenAsked() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        try source.write("d/f", "x")
        try FileManager.default.createSymbolicLink(
            atPath: source.path + "/d/l", withDestinationPath: "/etc/passwd")
        #expect(try transfer([source.path + "/d"], to: target).result.code == UInt32(ENOLINK))
        let other = try TemporaryDirectory()
        #expect(try transfer([source.path + "/d"], to: other, ignoreLinks: true).failure == nil)
        #expect(other.contents == ["d", "d/f"])
    }

    @Test func saysWhichFileTheReceiverRefused() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        try source.write("d/f", "x")
        try target.write("d/f", "mine")
        let done = try transfer([source.path + "/d"], to: target)
        guard case .refused(let result) = done.failure else {
            Issue.record("not refused but \(String(describing: done.failure))")
            return
        }
        #expect(result.code == UInt32(EEXIST))
        #expect(done.failure?.text.contains("\"d/f\": exists already") == true)
        #expect(target.text("d/f") == "mine")
    }

    @Test func saysWhichFileOfThisSideIsMissing() throws {
        let target = try TemporaryDirectory()
        let done = try transfer(["/nonexistent/file"], to: target)
        #expect(done.failure?.text == "/nonexistent/file: No such file or directory")
        #expect(done.result.code == UInt32(EREMOTEIO))
    }

    @Test func stopsWhenAFileShrinksWhileItIsRead() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        let file = try Descriptor.open(source.path + "/f", O_CREAT | O_RDWR, mode: 0o600)
        try file.writeAll([UInt8](repeating: 1, count: 3_000_000))
        let stream = try TestPipe()
        let answers = try TestPipe()
        let path = source.path + "/f"
        let sender = Background {
            defer { close(stream.writing) }
            return send([path], output: stream.writing, answers: answers.reading)
        }
        // The sender has begun and waits for the pipe: now the file changes.
        #expect(try Descriptor.isReadable(stream.reading, milliseconds: -1))
        try file.setSize(1_000_000)
        var receiver = TreeReceiver(into: try target.open(), options: TreeReceiver.Options())
        let result = receiver.receive(from: stream.reading)
        #expect(sender.wait()?.text.contains("changed while it was read") == true)
        #expect(result.code == TransferResult.brokenOff)
        #expect(target.contents == [])
        close(answers.writing)
    }

    @Test func stopsWhenAFileIsWrittenToWhileItIsRead() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        let file = try Descriptor.open(source.path + "/f", O_CREAT | O_RDWR, mode: 0o600)
        try file.writeAll([UInt8](repeating: 1, count: 3_000_000))
        try file.setTimes(
            accessed: FileTime(seconds: 1, nanoseconds: 0),
            modified: FileTime(seconds: 1, nanoseconds: 0))
        let stream = try TestPipe()
        let answers = try TestPipe()
        let path = source.path + "/f"
        let sender = Background {
            defer { close(stream.writing) }
            return send([path], output: stream.writing, answers: answers.reading)
        }
        #expect(try Descriptor.isReadable(stream.reading, milliseconds: -1))
        try file.writeAll([UInt8](repeating: 2, count: 10))
        var receiver = TreeReceiver(into: try target.open(), options: TreeReceiver.Options())
        let result = receiver.receive(from: stream.reading)
        #expect(sender.wait()?.text.contains("changed while it was read") == true)
        #expect(result.code == TransferResult.brokenOff)
        #expect(target.contents == [])
        close(answers.writing)
    }

    @Test(.enabled(if: geteuid() == 0, "only root may mount a small disk"))
    func survivesAFullDisk() throws {
        let disk = try TemporaryDirectory()
        try #require(mount("none", disk.path, "tmpfs", 0, "size=1m") == 0)
        defer { umount2(disk.path, Int32(MNT_DETACH)) }
        let target = try TemporaryDirectory(below: disk.path)
        let source = try TemporaryDirectory()
        try source.write("small", "x")
        try source.write("large", (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0) })
        let done = try transfer([source.path + "/small", source.path + "/large"], to: target)
        #expect(done.result.code == UInt32(ENOSPC))
        #expect(done.result.lastName == Array("large".utf8))
        #expect(done.failure?.text.contains("\"large\": the other qube's disk is full") == true)
        #expect(target.contents == ["small"])
    }

    // MARK: Receivers that lie

    /// Sends a file to somebody who reads everything and answers with these bytes.
    private func answer(_ bytes: [UInt8]) throws -> SendFailure? {
        let source = try TemporaryDirectory()
        try source.write("f", "x")
        let stream = try TestPipe()
        let answers = try TestPipe()
        let path = source.path + "/f"
        let sender = Background {
            defer { close(stream.writing) }
            return send([path], output: stream.writing, answers: answers.reading)
        }
        var buffer = [UInt8](repeating: 0, count: 65536)
        var got = 0
        while got < 32 + 2 + 1 + 32 {
            got += try Descriptor.read(stream.reading, into: &buffer, at: got, count: 1000)
        }
        try Descriptor.writeAll(answers.writing, bytes.span)
        close(answers.writing)
        return sender.wait()
    }

    @Test func doesNotTrustAWrongChecksum() throws {
        let lie = TransferResult(code: 0, checksum: 1, lastName: nil)
        guard case .wrongChecksum = try answer(lie.encoded) else {
            Issue.record("believed")
            return
        }
    }

    @Test(arguments: [0, 1, 15])
    func takesNoAnswerOrAPartOfOneForAFailure(length: Int) throws {
        let whole = TransferResult(code: 0, checksum: 1, lastName: nil).encoded
        #expect(try answer(Array(whole[..<length])) == .noAnswer)
    }

    @Test func takesAnErrorWithoutAName() throws {
        let result = TransferResult(code: 28, checksum: 1, lastName: nil)
        #expect(try answer(result.encoded) == .refused(result))
    }

    @Test func readsNoMoreOfANameThanANameHas() throws {
        var bytes = TransferResult(code: 28, checksum: 1, lastName: [97]).encoded
        bytes.replaceSubrange(16..<20, with: [255, 255, 255, 255])
        bytes += [UInt8](repeating: 98, count: 40_000)
        guard case .refused(let result) = try answer(bytes) else {
            Issue.record("not refused")
            return
        }
        #expect(result.lastName?.count == 16384)
    }

    @Test func takesSuccessBeforeTheEndForAFailure() throws {
        let source = try TemporaryDirectory()
        try source.write("f", [UInt8](repeating: 1, count: 3_000_000))
        let stream = try TestPipe()
        let answers = try TestPipe()
        let early = TransferResult(code: 0, checksum: 0, lastName: nil)
        try Descriptor.writeAll(answers.writing, early.encoded.span)
        let failure = send(
            [source.path + "/f"], output: stream.writing, answers: answers.reading)
        #expect(failure == .answeredTooEarly)
        close(stream.writing)
        close(answers.writing)
    }

    @Test func learnsEarlyWhyTheReceiverGaveUp() throws {
        let source = try TemporaryDirectory()
        let target = try TemporaryDirectory()
        try source.write("a", [UInt8](repeating: 1, count: 3_000_000))
        try target.write("a", "mine")
        let done = try transfer([source.path + "/a"], to: target)
        #expect(done.result.code == UInt32(EEXIST))
        #expect(done.failure == .refused(done.result))
    }
}

import Foundation
import LinuxSystem
import Testing

@testable import QubesServices

/// `qfile-agent` and `qfile-unpacker` as another implementation meets them: processes, and the bytes
/// of the specification (15).
@Suite
struct WireTests {
    /// A program with pipes as standard streams.
    private final class Peer {
        let process = Process()
        let input = Pipe()
        let output = Pipe()
        let error = Pipe()

        init(
            _ scene: Scene, _ tool: String, _ arguments: [String], _ environment: [String: String]
        ) throws {
            process.executableURL = URL(fileURLWithPath: scene.here.path + "/bin/" + tool)
            process.arguments = arguments
            process.currentDirectoryURL = URL(fileURLWithPath: scene.here.path + "/work")
            process.environment = ["HOME": scene.there.path].merging(environment) { $1 }
            process.standardInput = input
            process.standardOutput = output
            process.standardError = error
            CurrentProcess.ignoreBrokenPipes()
            try process.run()
        }

        func send(_ bytes: [UInt8]) { try? input.fileHandleForWriting.write(contentsOf: bytes) }

        /// The next bytes of its output, fewer only at the end.
        func take(_ count: Int) -> [UInt8] {
            var bytes: [UInt8] = []
            while bytes.count < count {
                let part = output.fileHandleForReading.readData(ofLength: count - bytes.count)
                if part.isEmpty { break }
                bytes += part
            }
            return bytes
        }

        /// Closes its input and waits for its end.
        func end() -> (status: Int32, rest: [UInt8], error: String) {
            try? input.fileHandleForWriting.close()
            let rest = [UInt8](output.fileHandleForReading.readDataToEndOfFile())
            let text = error.fileHandleForReading.readDataToEndOfFile()
            process.waitUntilExit()
            return (process.terminationStatus, rest, String(decoding: text, as: UTF8.self))
        }
    }

    /// CRC-32 bit by bit, as its definition has it.
    private func checksum(_ bytes: [UInt8]) -> UInt32 {
        var value: UInt32 = 0xFFFF_FFFF
        for byte in bytes {
            value ^= UInt32(byte)
            for _ in 0..<8 { value = value & 1 == 1 ? value >> 1 ^ 0xEDB8_8320 : value >> 1 }
        }
        return ~value
    }

    private func answer(_ code: UInt32, _ checksum: UInt32, name: [UInt8]? = nil) -> [UInt8] {
        var bytes = HandmadeStream()
        bytes.number32(code)
        bytes.number32(0)
        bytes.number64(UInt64(checksum))
        if let name {
            bytes.number32(UInt32(name.count))
            bytes.bytes += name
        }
        return bytes.bytes
    }

    private func agent(
        _ scene: Scene, _ arguments: [String], _ environment: [String: String] = [:]
    ) throws -> Peer {
        try Peer(scene, "qfile-agent", arguments, environment)
    }

    // MARK: Sender

    /// What a sender must send of an entry, put together from its status.
    private func header(_ scene: Scene, _ name: String, size: UInt64) throws -> [UInt8] {
        let status = try scene.here.status("work/" + name)
        var stream = HandmadeStream()
        stream.number32(UInt32(name.utf8.count + 1))
        stream.number32(status.mode)
        stream.number64(size)
        for time in [status.accessed, status.modified] {
            stream.number32(UInt32(time.seconds))
            stream.number32(time.nanoseconds)
        }
        return stream.bytes + Array(name.utf8) + [0]
    }

    @Test func sendsEveryByteAsSpecified() throws {
        let scene = try Scene()
        try scene.here.write("work/d/file", "contents")
        chmod(scene.here.path + "/work/d/file", 0o4640)
        try FileManager.default.createSymbolicLink(
            atPath: scene.here.path + "/work/d/link", withDestinationPath: "fi/../le")
        try scene.here.write("work/--x", "dash")
        // The first read after a change sets the time of access; the sender's is to be the second.
        usleep(20_000)
        _ = try shell(scene, "{ ls d; cat d/file ./--x; readlink d/link; } > /dev/null")
        let first = try agent(scene, ["--", "d", "--x"])
        let directory = try header(scene, "d", size: 0)
        let file = try header(scene, "d/file", size: 8) + Array("contents".utf8)
        let link = try header(scene, "d/link", size: 8) + Array("fi/../le".utf8)
        let dash = try header(scene, "--x", size: 4) + Array("dash".utf8)
        let length = 2 * directory.count + file.count + link.count + dash.count + 32
        let sent = first.take(length)
        first.send(answer(0, checksum(sent)))
        let end = first.end()
        #expect(end.status == 0, "\(end.error)")
        #expect(end.rest == [])
        // A directory lists its entries in any order.
        let tail = directory + dash + [UInt8](repeating: 0, count: 32)
        #expect(sent == directory + file + link + tail || sent == directory + link + file + tail)
    }

    @Test func sendsEverythingToOneWhoGivesNoAnswer() throws {
        let scene = try Scene()
        try scene.here.write("work/f", "contents")
        let sent = try shell(scene, "qfile-agent f < /dev/null > stream")
        #expect(sent.status == 1)
        #expect(sent.error.contains("without an answer"))
        let stream = [UInt8](
            try Data(contentsOf: URL(fileURLWithPath: scene.here.path + "/work/stream")))
        #expect(stream.count == 32 + 2 + 8 + 32)
        #expect(stream.suffix(40) == Array("contents".utf8) + [UInt8](repeating: 0, count: 32))
    }

    @Test(arguments: [["--ignore-symlinks"], ["--ignore-symlinks", "--no-ignore-symlinks"]])
    func leavesOutLinksOnlyWhenTold(options: [String]) throws {
        let scene = try Scene()
        try FileManager.default.createSymbolicLink(
            atPath: scene.here.path + "/work/l", withDestinationPath: "x")
        usleep(20_000)
        _ = try shell(scene, "readlink l > /dev/null")
        let peer = try agent(scene, options + ["--", "l"])
        let link = options.count == 1 ? [] : try header(scene, "l", size: 1) + [120]
        let sent = peer.take(link.count + 32)
        #expect(sent == link + [UInt8](repeating: 0, count: 32))
        peer.send(answer(0, checksum(sent)))
        #expect(peer.end().status == 0)
    }

    /// What a receiver may answer, and what the person reads then.
    struct Answer: Sendable, CustomTestStringConvertible {
        var bytes: [UInt8]
        var says: String
        var testDescription: String { says }
    }

    private static func bytes(_ code: UInt32, _ name: String? = nil, length: UInt32? = nil)
        -> [UInt8]
    {
        var stream = HandmadeStream()
        for value in [code, 0, 0, 0] { stream.number32(value) }
        guard let name else { return stream.bytes }
        stream.number32(length ?? UInt32(name.utf8.count))
        return stream.bytes + Array(name.utf8)
    }

    static let answers = [
        Answer(bytes: [], says: "without an answer"),
        Answer(bytes: [UInt8](repeating: 0, count: 15), says: "without an answer"),
        Answer(bytes: bytes(0), says: "checksums differ"),
        Answer(bytes: bytes(17, "f"), says: "\"f\": exists already"),
        Answer(bytes: bytes(17), says: "exists already"),
        Answer(bytes: bytes(28, "f\u{1B}[31m\"\n"), says: "\"f_[31m__\": the other qube's disk"),
        Answer(bytes: bytes(31_415_926, "f"), says: "break off"),
        Answer(bytes: bytes(0 &- 84, "dir"), says: "\"dir\": the other qube refuses this name"),
        Answer(bytes: bytes(13, "f", length: .max), says: "\"f\": the other qube says: Permission"),
        Answer(bytes: bytes(99_999, "f"), says: "unknown error 99999"),
    ]

    @Test(arguments: answers)
    func succeedsOnlyWithTheRightAnswer(answer: Answer) throws {
        let scene = try Scene()
        try scene.here.write("work/f", "x")
        let peer = try agent(scene, ["f"])
        _ = peer.take(32 + 2 + 1 + 32)
        peer.send(answer.bytes)
        let end = peer.end()
        #expect(end.status == 1)
        #expect(end.error.contains(answer.says), "\(end.error)")
    }

    @Test func stopsSendingWhenItIsToldSo() throws {
        let scene = try Scene()
        try scene.here.write("work/f", "")
        #expect(truncate(scene.here.path + "/work/f", 1 << 40) == 0)
        let peer = try agent(scene, ["f"])
        _ = peer.take(100_000)
        peer.send(answer(28, 0, name: Array("f".utf8)))
        let end = peer.end()
        #expect(end.status == 1)
        #expect(end.error.contains("disk is full"))
        #expect(end.rest.count < 64 << 20)
    }

    @Test func tellsADesktopItsProgress() throws {
        let scene = try Scene()
        try scene.here.write("work/f", [UInt8](repeating: 1, count: 300_000))
        let peer = try agent(
            scene, ["f"],
            ["PROGRESS_TYPE": "gui", "SAVED_FD_1": "2", "FILECOPY_TOTAL_BYTES": "300000"])
        let sent = peer.take(300_000 + 34 + 32)
        peer.send(answer(0, checksum(sent)))
        let numbers = peer.end().error.split(separator: "\n").map { Int($0) }
        #expect(numbers.first == 0)
        #expect(numbers.last == 300_000)
        #expect(!numbers.contains(nil))
    }

    // MARK: Receiver

    private func unpacker(
        _ scene: Scene, _ arguments: [String], tool: String = "qfile-unpacker",
        _ environment: [String: String] = [:]
    ) throws -> Peer {
        try Peer(
            scene, tool, arguments,
            ["QREXEC_REMOTE_DOMAIN": "work"].merging(environment) { $1 })
    }

    private var honest: HandmadeStream {
        var stream = HandmadeStream()
        stream.directory("d")
        stream.file("d/f", "contents", mode: 0o102755)
        stream.link("d/l", "f")
        stream.directory("d")
        stream.file("g", "")
        stream.end()
        return stream
    }

    @Test(arguments: [1, 7, 1 << 20])
    func takesAnHonestStreamInAnyPieces(piece: Int) throws {
        let scene = try Scene()
        let peer = try unpacker(scene, [])
        let bytes = honest.bytes
        for start in stride(from: 0, to: bytes.count, by: piece) {
            peer.send(Array(bytes[start..<min(start + piece, bytes.count)]))
        }
        let answered = peer.take(21)
        #expect(answered == answer(0, checksum(bytes), name: Array("g".utf8)))
        #expect(peer.end().status == 0)
        #expect(scene.arrived == ["d", "d/f", "d/l", "g"])
        #expect(try scene.there.status("QubesIncoming/work/d/f").mode == 0o102755)
        #expect(try scene.there.status("QubesIncoming/work/d").mode == 0o040750)
        let times = try scene.there.status("QubesIncoming/work/d/f")
        #expect(times.modified == FileTime(seconds: 1_100_000_000, nanoseconds: 5))
        #expect(times.accessed == FileTime(seconds: 1_000_000_000, nanoseconds: 5))
    }

    @Test func endsWithAnErrorWhereverTheStreamBreaksOff() throws {
        let scene = try Scene()
        var stream = HandmadeStream()
        stream.file("a", "1234")
        for length in 0..<stream.bytes.count {
            let peer = try unpacker(scene, [])
            peer.send(Array(stream.bytes[..<length]))
            let end = peer.end()
            // Before an entry is announced there is no end marker; then the sender broke off.
            let code: UInt32 = length < 32 ? 121 : 31_415_926
            #expect(end.rest.prefix(4) == answer(code, 0).prefix(4), "\(length)")
            #expect(end.status == Int32(code & 0xFF))
            #expect(scene.arrived == [], "\(length)")
        }
        let peer = try unpacker(scene, [])
        peer.send(stream.bytes)
        #expect(peer.end().rest == answer(121, checksum(stream.bytes), name: [97]))
        #expect(scene.arrived == ["a"])
    }

    @Test func receivesIntoAGivenDirectory() throws {
        let scene = try Scene()
        let place = scene.there.path + "/place"
        for arguments in [["\(getuid())", place], ["-v", "--", "\(getuid())", place + "2"]] {
            let peer = try unpacker(scene, arguments)
            peer.send(honest.bytes)
            let end = peer.end()
            #expect(end.status == 0, "\(end.error)")
            #expect(
                scene.there.text(arguments.count == 2 ? "place/d/f" : "place2/d/f") == "contents")
        }
    }

    @Test(arguments: [
        ("", UInt32(0)), ("UPDATES_MAX_FILES=2", 122), ("UPDATES_MAX_BYTES=7", 122),
        ("UPDATES_MAX_BYTES=8", 0), ("UPDATES_MAX_FILES=0", 0), ("--only-regular-files", 22),
    ])
    func limitsWhatComesToDom0(limit: String, code: UInt32) throws {
        let scene = try Scene()
        var stream = HandmadeStream()
        if limit == "--only-regular-files" { stream.directory("d") }
        for name in ["1", "2", "3"] { stream.file(name, name == "1" ? "12345678" : "") }
        stream.end()
        let parts = limit.split(separator: "=").map(String.init)
        let peer = try unpacker(
            scene,
            [NSUserName(), scene.there.path + "/updates"] + (parts.count == 1 ? parts : []),
            tool: "qfile-dom0-unpacker", parts.count == 2 ? [parts[0]: parts[1]] : [:])
        peer.send(stream.bytes)
        let end = peer.end()
        #expect(end.rest.prefix(4) == answer(code, 0).prefix(4), "\(end.error)")
        #expect(end.status == Int32(code))
    }

    @Test(arguments: [
        [], ["root"], ["no-such-user-here", "/tmp/x"], ["root", "/tmp/x", "--what"],
    ])
    func explainsAWrongCommandLineInDom0(arguments: [String]) throws {
        let scene = try Scene()
        let end = try unpacker(scene, arguments, tool: "qfile-dom0-unpacker").end()
        #expect(end.status == 1)
        #expect(end.rest == [])
    }

    // MARK: tar2qfile

    private func shell(_ scene: Scene, _ script: String) throws -> (status: Int32, error: String) {
        let process = Process()
        let error = Pipe()
        process.executableURL = URL(fileURLWithPath: "/bin/bash")
        process.arguments = ["-c", "set -e -o pipefail\n" + script]
        process.currentDirectoryURL = URL(fileURLWithPath: scene.here.path + "/work")
        process.environment = [
            "PATH": scene.here.path + "/bin:/usr/bin:/bin", "HOME": scene.there.path,
            "QREXEC_REMOTE_DOMAIN": "work", "LC_ALL": "C.UTF-8",
        ]
        process.standardError = error
        try process.run()
        let text = error.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: text, as: UTF8.self))
    }

    @Test(arguments: ["gnu", "ustar", "pax", "oldgnu"])
    func turnsAnArchiveIntoAStream(format: String) throws {
        let scene = try Scene()
        let long = format == "ustar" ? "long" : String(repeating: "long-", count: 40)
        let outcome = try shell(
            scene,
            """
            mkdir -p t/sub/\(long) t/none; echo a > t/sub/a; head -c 300000 /dev/urandom > t/big
            echo x > t/sub/\(long)/ünïcödé; ln -s sub/a t/l; chmod 640 t/sub/a; chmod 750 t/sub
            touch -d '2001-02-03 04:05:06' t/sub/a; find . -type d -exec touch -d 2011-12-13 {} +
            tar --format=\(format) -cf - ./t | tar2qfile | qfile-unpacker > /dev/null
            cd t; find . -printf '%P %y %m %Ts %l\\n' | sort > ~/sent
            cd ~/QubesIncoming/work/t; find . -printf '%P %y %m %Ts %l\\n' | sort > ~/arrived
            diff ~/sent ~/arrived >&2; diff -r . "$OLDPWD" >&2
            """)
        #expect(outcome.status == 0, "\(outcome.error)")
    }

    @Test func takesOnlyTheNamesThatAreGiven() throws {
        let scene = try Scene()
        let outcome = try shell(
            scene,
            """
            mkdir -p a/b c; touch a/b/1 a/2 c/3; tar -cf ../t.tar a c; mkfifo ../answers
            tar2qfile ../t.tar a/b c/3 < ../answers | qfile-unpacker > ../answers
            """)
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(scene.arrived == ["a", "a/b", "a/b/1", "c", "c/3"])
    }

    @Test(arguments: [
        ("head -c 2000 | tar2qfile", "ends in the middle"),
        ("tr a b | tar2qfile", "checksum is wrong"),
        ("cat > /dev/null; head -c 512 /dev/urandom | tar2qfile", "no tar archive"),
        ("cat > /dev/null; ln f g; tar -cf - f g | tar2qfile", "is a hard link"),
        ("cat > /dev/null; tar2qfile /none", "/none: No such file"),
    ])
    func saysWhatIsWrongWithAnArchive(command: String, says: String) throws {
        let scene = try Scene()
        let outcome = try shell(
            scene, "head -c 5000 /dev/zero > f; tar -cf - f | { \(command); } > /dev/null")
        #expect(outcome.status == 1)
        #expect(outcome.error.contains(says), "\(outcome.error)")
    }
}

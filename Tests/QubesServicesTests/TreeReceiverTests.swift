import Foundation
import LinuxSystem
import Testing

@testable import QubesServices

@Suite struct TreeReceiverTests {
    private func checksum(_ bytes: [UInt8]) -> UInt32 {
        var sum = CRC32()
        sum.updateByTable(bytes.span)
        return sum.value
    }

    @Test func createsWhatAHandmadeStreamSays() throws {
        let place = try TemporaryDirectory()
        var stream = HandmadeStream()
        stream.directory("d", mode: 0o040750)
        stream.file("d/f", "contents", mode: 0o100640)
        stream.file("d/set-uid", "x", mode: 0o104711)
        stream.file("d/empty", "", mode: 0o100400)
        stream.link("d/l", "f")
        stream.directory("d", mode: 0o040750)
        stream.file("top", "also")
        stream.end()
        let result = try receive(stream, into: place)
        #expect(
            result
                == TransferResult(
                    code: 0, checksum: checksum(stream.bytes), lastName: Array("top".utf8)))
        #expect(place.contents == ["d", "d/empty", "d/f", "d/l", "d/set-uid", "top"])
        #expect(place.text("d/f") == "contents")
        #expect(place.text("d/l") == "contents")
        #expect(try place.status("d").mode == 0o040750)
        #expect(try place.status("d/f").mode == 0o100640)
        #expect(try place.status("d/set-uid").mode == 0o104711)
        #expect(try place.status("d/empty").mode == 0o100400)
        for name in ["d", "d/f", "d/empty", "d/l"] {
            let status = try place.status(name)
            #expect(status.modified == FileTime(seconds: 1_100_000_000, nanoseconds: 5))
            #expect(
                name == "d/l" || status.accessed == FileTime(seconds: 1_000_000_000, nanoseconds: 5)
                    || name != "d/empty")
        }
    }

    @Test func countsOnlyBytesOfTheStreamInTheChecksum() throws {
        let place = try TemporaryDirectory()
        var stream = HandmadeStream()
        stream.file("f", "x")
        stream.end()
        let sum = checksum(stream.bytes)
        stream.bytes += Array("behind the end".utf8)
        #expect(try receive(stream, into: place).checksum == sum)
    }

    /// A stream that must be refused, the answer, and what is there afterwards.
    struct Hostile: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let code: Int32
        var remains: [String] = []
        let stream: HandmadeStream

        init(
            _ text: String, _ code: Int32, remains: [String] = [],
            _ build: (inout HandmadeStream) -> Void
        ) {
            testDescription = text
            self.code = code
            self.remains = remains
            var stream = HandmadeStream()
            build(&stream)
            self.stream = stream
        }
    }

    static let hostile = [
        Hostile("nothing at all", EREMOTEIO) { _ in },
        Hostile("no end marker", EREMOTEIO, remains: ["f"]) { $0.file("f", "x") },
        Hostile("cut in the header", EREMOTEIO) { $0.bytes = [UInt8](repeating: 1, count: 31) },
        Hostile("cut in the name", 31_415_926) {
            $0.entry([97, 98], mode: 0o100644, size: 0)
            $0.bytes.removeLast(2)
        },
        Hostile("cut in the contents", 31_415_926) {
            $0.entry([97], mode: 0o100644, size: 1000)
            $0.bytes += [1, 2, 3]
        },
        Hostile("name too long", ENAMETOOLONG) {
            $0.entry([97], mode: 0o100644, size: 0, nameLength: 16384)
        },
        Hostile("component too long", ENAMETOOLONG) {
            $0.file(String(repeating: "a", count: 256), "x")
            $0.end()
        },
        Hostile("name of many gigabytes", ENAMETOOLONG) {
            $0.entry([97], mode: 0o100644, size: 0, nameLength: .max)
        },
        Hostile("NUL inside the name", EINVAL) { $0.entry([97, 0, 97], mode: 0o100644, size: 0) },
        Hostile("empty name", EILSEQ) { $0.file("", "x") },
        Hostile("absolute", EILSEQ) { $0.file("/tmp/x", "x") },
        Hostile("parent", EILSEQ) { $0.file("../x", "x") },
        Hostile("parent inside", EILSEQ, remains: ["d"]) {
            $0.directory("d")
            $0.file("d/../../x", "x")
        },
        Hostile("control character", EILSEQ) { $0.file("a\u{1B}[2J", "x") },
        Hostile("not UTF-8", EILSEQ) { $0.entry([0xFF], mode: 0o100644, size: 0) },
        Hostile("device", EINVAL) { $0.entry([97], mode: 0o060666, size: 0) },
        Hostile("pipe", EINVAL) { $0.entry([97], mode: 0o010666, size: 0) },
        Hostile("nanoseconds", EINVAL) {
            $0.entry([97], mode: 0o100644, size: 0, nanoseconds: 1_000_000_000)
        },
        Hostile("size above the largest", EDQUOT) { $0.entry([97], mode: 0o100644, size: .max) },
        Hostile("directory with contents", EINVAL) { $0.entry([97], mode: 0o040755, size: 9) },
        Hostile("no such parent", ENOENT) { $0.file("d/f", "x") },
        Hostile("file as parent", ENOTDIR, remains: ["f"]) {
            $0.file("f", "x")
            $0.file("f/g", "x")
        },
        Hostile("link as parent", ELOOP, remains: ["d", "d/e", "d/l"]) {
            $0.directory("d")
            $0.directory("d/e")
            $0.directory("d/e")
            $0.link("d/l", "e")
            $0.file("d/l/f", "x")
        },
        Hostile("directory over a link", EEXIST, remains: ["d", "d/l"]) {
            $0.directory("d")
            $0.link("d/l", "e")
            $0.directory("d/l")
            $0.end()
        },
        Hostile("file over a link", EEXIST, remains: ["d", "d/l"]) {
            $0.directory("d")
            $0.link("d/l", "e")
            $0.file("d/l", "x")
            $0.end()
        },
        Hostile("file twice", EEXIST, remains: ["f"]) {
            $0.file("f", "x")
            $0.file("f", "y")
            $0.end()
        },
        Hostile("link at the top", ENOLINK) { $0.link("l", "f") },
        Hostile("absolute target", ENOLINK, remains: ["d"]) {
            $0.directory("d")
            $0.link("d/l", "/etc/passwd")
        },
        Hostile("empty target", ENOENT, remains: ["d"]) {
            $0.directory("d")
            $0.link("d/l", "")
        },
        Hostile("target outside", ENOLINK, remains: ["d"]) {
            $0.directory("d")
            $0.link("d/l", "../x")
        },
        Hostile("target with a control character", EILSEQ, remains: ["d"]) {
            $0.directory("d")
            $0.link("d/l", "a\u{7}")
        },
        Hostile("target with NUL", EILSEQ, remains: ["d"]) {
            $0.directory("d")
            $0.link("d/l", "a\u{0}b")
        },
        Hostile("target too long", ENAMETOOLONG, remains: ["d"]) {
            $0.directory("d")
            $0.link("d/l", String(repeating: "a", count: 16384))
        },
    ]

    @Test(arguments: hostile)
    func refuses(_ hostile: Hostile) throws {
        let outer = try TemporaryDirectory()
        try FileManager.default.createDirectory(
            atPath: outer.path + "/in", withIntermediateDirectories: false)
        let place = try TemporaryDirectory(below: outer.path + "/in")
        var rest = hostile.stream
        // What follows must not be looked at any more.
        if hostile.code != EREMOTEIO && hostile.code != 31_415_926 {
            rest.file("after", "x")
            rest.end()
        }
        let result = try receive(rest, into: place)
        #expect(result.code == UInt32(hostile.code))
        #expect(place.contents == hostile.remains)
        #expect(outer.contents.count == 2 + hostile.remains.count)
    }

    @Test func namesTheFileThatWasRefused() throws {
        let place = try TemporaryDirectory()
        var stream = HandmadeStream()
        stream.file("good", "x")
        stream.file("bad\n", "x")
        #expect(try receive(stream, into: place).lastName == Array("bad\n".utf8))
        #expect(try receive(HandmadeStream(), into: place).lastName == nil)
    }

    @Test(arguments: [
        (UInt32(0o010644), UInt64(0), UInt32(0)), (0o100644, .max, 0), (0o120777, 16384, 0),
        (0o040755, 1, 0), (0o100644, 0, 1_000_000_000),
    ])
    func namesTheFileWhoseHeaderWasRefused(
        mode: UInt32, size: UInt64, nanoseconds: UInt32
    ) throws {
        let place = try TemporaryDirectory()
        var stream = HandmadeStream()
        stream.file("good", "x")
        stream.entry(Array("bad".utf8), mode: mode, size: size, nanoseconds: nanoseconds)
        let result = try receive(stream, into: place)
        #expect(result.lastName == Array("bad".utf8))
        // Up to the end of the name: header, name and NUL of both, and one byte of contents.
        #expect(result.checksum == checksum(Array(stream.bytes[..<(32 + 5 + 1 + 32 + 4)])))
        #expect(place.contents == ["good"])
    }

    @Test func namesTheEntryBeforeAHeaderThatNamesNone() throws {
        let place = try TemporaryDirectory()
        var stream = HandmadeStream()
        stream.file("good", "x")
        stream.entry([97], mode: 0o100644, size: 0, nameLength: .max)
        #expect(try receive(stream, into: place).lastName == Array("good".utf8))
    }

    @Test func neverOverwrites() throws {
        let place = try TemporaryDirectory()
        for size in [3, 1_000_000] {
            try place.write("f", "mine")
            var stream = HandmadeStream()
            stream.file("f", String(repeating: "x", count: size))
            stream.end()
            #expect(try receive(stream, into: place).code == UInt32(EEXIST))
            #expect(place.text("f") == "mine")
            #expect(place.contents == ["f"])
        }
    }

    @Test func givesAnotherNameWhereTheQubeWantsThat() throws {
        let place = try TemporaryDirectory()
        var options = TreeReceiver.Options()
        options.existing = .rename
        for name in ["note.txt", "plain", ".hidden", "d/in.tar.gz"] {
            for text in ["one", "two", "three"] {
                var stream = HandmadeStream()
                if name.hasPrefix("d/") { stream.directory("d") }
                stream.file(name, text)
                stream.end()
                #expect(try receive(stream, into: place, options).code == 0)
            }
        }
        #expect(
            place.contents == [
                ".hidden", ".hidden (1)", ".hidden (2)", "d", "d/in.tar (1).gz", "d/in.tar (2).gz",
                "d/in.tar.gz", "note (1).txt", "note (2).txt", "note.txt", "plain", "plain (1)",
                "plain (2)",
            ])
        #expect(place.text("note.txt") == "one")
        #expect(place.text("note (2).txt") == "three")
    }

    @Test func mergesDirectories() throws {
        let place = try TemporaryDirectory()
        try place.write("d/mine", "mine")
        var stream = HandmadeStream()
        // Not writable: still merged into, and set like this only afterwards.
        stream.directory("d", mode: 0o040555)
        stream.file("d/theirs", "theirs")
        stream.directory("d", mode: 0o040555)
        stream.end()
        #expect(try receive(stream, into: place).code == 0)
        #expect(place.contents == ["d", "d/mine", "d/theirs"])
        #expect(try place.status("d").mode == 0o040555)
    }

    @Test func takesTheSecondHeadersOfDirectoriesAtTheEnd() throws {
        let place = try TemporaryDirectory()
        var stream = HandmadeStream()
        stream.directory("a", mode: 0o040500)
        stream.file("a/f", "x")
        stream.directory("b", mode: 0o040710)
        stream.file("b/f", "x")
        stream.directory("b", mode: 0o040710)
        stream.directory("a", mode: 0o040500)
        stream.end()
        #expect(try receive(stream, into: place).code == 0)
        #expect(try place.status("a").mode == 0o040500)
        #expect(try place.status("b").mode == 0o040710)
    }

    @Test func countsBytesAndFiles() throws {
        let place = try TemporaryDirectory()
        var stream = HandmadeStream()
        stream.file("a", "12345")
        stream.file("b", "12345")
        stream.end()
        var options = TreeReceiver.Options()
        options.maximumBytes = 9
        #expect(try receive(stream, into: place, options).code == UInt32(EDQUOT))
        #expect(place.contents == ["a"])
        options = TreeReceiver.Options()
        options.maximumFiles = 1
        #expect(try receive(stream, into: try TemporaryDirectory(), options).code == UInt32(EDQUOT))
        options.maximumFiles = 2
        options.maximumBytes = 10
        #expect(try receive(stream, into: try TemporaryDirectory(), options).code == 0)
    }

    @Test func takesOnlyRegularFilesWhenToldSo() throws {
        var options = TreeReceiver.Options()
        options.onlyRegularFiles = true
        var stream = HandmadeStream()
        stream.directory("d")
        #expect(
            try receive(stream, into: try TemporaryDirectory(), options).code == UInt32(EINVAL))
    }

    @Test func followsNoLinkThatAppearsWhileItReceives() throws {
        let place = try TemporaryDirectory()
        let outside = try TemporaryDirectory()
        let pipe = try TestPipe()
        let receiver = Background {
            var receiver = TreeReceiver(
                into: try! place.open(), options: TreeReceiver.Options())
            return receiver.receive(from: pipe.reading)
        }
        var stream = HandmadeStream()
        stream.directory("d")
        stream.directory("d/e")
        stream.file("top", "x")
        try Descriptor.writeAll(pipe.writing, stream.bytes.span)
        while place.text("top") == nil { usleep(1000) }
        // Somebody swaps a directory for a link to another place.
        try FileManager.default.removeItem(atPath: place.path + "/d/e")
        try FileManager.default.createSymbolicLink(
            atPath: place.path + "/d/e", withDestinationPath: outside.path)
        stream = HandmadeStream()
        stream.file("d/e/f", "x")
        stream.end()
        try Descriptor.writeAll(pipe.writing, stream.bytes.span)
        close(pipe.writing)
        #expect(receiver.wait().code == UInt32(ELOOP))
        #expect(outside.contents == [])
    }

    @Test func makesHolesOfLongRunsOfZeros() throws {
        let place = try TemporaryDirectory()
        var stream = HandmadeStream()
        let size = 3_000_000
        stream.entry(Array("sparse".utf8), mode: 0o100644, size: UInt64(size))
        var contents = [UInt8](repeating: 0, count: size)
        for offset in [0, 5000, 1_000_000, 1_700_123] { contents[offset] = 7 }
        stream.bytes += contents
        stream.end()
        #expect(try receive(stream, into: place).code == 0)
        let status = try place.status("sparse")
        #expect(status.size == UInt64(size))
        #expect(status.allocated < UInt64(size) / 4)
        #expect(FileManager.default.contents(atPath: place.path + "/sparse") == Data(contents))
    }
}

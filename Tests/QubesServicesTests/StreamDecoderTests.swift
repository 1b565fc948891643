import LinuxSystem
import Testing

@testable import QubesServices

@Suite struct StreamDecoderTests {
    /// Everything that a stream means, contents joined.
    private enum Meaning: Equatable {
        case entry(EntryHeader, String)
        case contents([UInt8])
        case entryEnd
        case end
    }

    private func decode(
        _ bytes: [UInt8], pieces: Int
    ) throws(StreamDecoder.Failure) -> [Meaning] {
        var decoder = StreamDecoder()
        var result: [Meaning] = []
        var start = 0
        while start < bytes.count {
            let piece = Array(bytes[start..<min(start + pieces, bytes.count)])
            start += pieces
            var position = 0
            loop: while true {
                switch try decoder.next(piece.span, position: &position) {
                case .needMore: break loop
                case .entry:
                    let name = String(decoding: decoder.name.dropLast(), as: UTF8.self)
                    result.append(.entry(decoder.header, name))
                case .contents(let range):
                    if case .contents(let before)? = result.last {
                        result[result.count - 1] = .contents(before + piece[range])
                    } else {
                        result.append(.contents(Array(piece[range])))
                    }
                case .entryEnd: result.append(.entryEnd)
                case .end:
                    result.append(.end)
                    return result
                }
            }
        }
        return result
    }

    private var sample: HandmadeStream {
        var stream = HandmadeStream()
        stream.directory("d")
        stream.file("d/f", "contents of f")
        stream.file("d/empty", "")
        stream.link("d/l", "f")
        stream.directory("d")
        stream.end()
        return stream
    }

    @Test(arguments: 1...80)
    func meansTheSameWhateverPiecesItComesIn(pieces: Int) throws {
        let whole = try decode(sample.bytes, pieces: 1 << 20)
        #expect(whole.count == 2 + 3 + 2 + 3 + 2 + 1)
        #expect(try decode(sample.bytes, pieces: pieces) == whole)
    }

    @Test func readsEveryFieldOfAHeader() throws {
        var stream = HandmadeStream()
        stream.file("f", "x", mode: 0o104751)
        let first = try decode(stream.bytes, pieces: 100).first
        let header = EntryHeader(
            nameLength: 2, mode: 0o104751, size: 1,
            accessed: FileTime(seconds: 1_000_000_000, nanoseconds: 5),
            modified: FileTime(seconds: 1_100_000_000, nanoseconds: 5))
        #expect(first == .entry(header, "f"))
        #expect(header.encoded == Array(stream.bytes[..<32]))
    }

    @Test func takesTimesUntil2106() throws {
        var header = EntryHeader.end
        header.modified.seconds = Int64(UInt32.max)
        #expect(EntryHeader(header.encoded.span) == header)
        header.modified.seconds = -1
        #expect(EntryHeader(header.encoded.span).modified.seconds == 0)
    }

    /// An entry that no stream may have, and why.
    struct BadEntry: Sendable, CustomTestStringConvertible {
        var name: [UInt8] = [97]
        var mode: UInt32 = 0o100644
        var size: UInt64 = 0
        var nanoseconds: UInt32 = 0
        var nameLength: UInt32?
        let failure: StreamDecoder.Failure

        var testDescription: String { "\(failure)" }
    }

    @Test(arguments: [
        BadEntry(nameLength: 16384, failure: .nameTooLong(16384)),
        BadEntry(nameLength: .max, failure: .nameTooLong(.max)),
        BadEntry(name: [97, 0, 98], failure: .nameNotTerminated),
        BadEntry(name: [97, 98], nameLength: 2, failure: .nameNotTerminated),
        BadEntry(size: 1 << 63, failure: .tooLarge(1 << 63)),
        BadEntry(mode: 0o120777, size: 16384, failure: .linkTargetTooLong(16384)),
        BadEntry(mode: 0o040755, size: 1, failure: .directoryWithContents(1)),
        BadEntry(mode: 0o020666, failure: .unknownType(mode: 0o020666)),
        BadEntry(mode: 0o140666, failure: .unknownType(mode: 0o140666)),
        BadEntry(mode: 0o644, failure: .unknownType(mode: 0o644)),
        BadEntry(nanoseconds: 1_000_000_000, failure: .nanoseconds(1_000_000_000)),
    ])
    func refuses(entry: BadEntry) {
        var stream = HandmadeStream()
        stream.entry(
            entry.name, mode: entry.mode, size: entry.size, nanoseconds: entry.nanoseconds,
            nameLength: entry.nameLength)
        let bytes = stream.bytes
        #expect(throws: entry.failure) { try decode(bytes, pieces: 1000) }
        #expect(throws: entry.failure) { try decode(bytes, pieces: 1) }
    }

    @Test func knowsWhetherAStreamBrokeOffInsideAnEntry() throws {
        var stream = HandmadeStream()
        stream.file("f", "contents")
        for cut in 0...stream.bytes.count {
            var decoder = StreamDecoder()
            var position = 0
            let piece = Array(stream.bytes[..<cut])
            while try decoder.next(piece.span, position: &position) != .needMore {}
            // A part of a header announces no entry.
            #expect(decoder.isBetweenEntries == (cut < 32 || cut == stream.bytes.count))
        }
    }
}

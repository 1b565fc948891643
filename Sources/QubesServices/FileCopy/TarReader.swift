import Glibc
import LinuxSystem
import SystemPackage

/// Reads a tar archive entry by entry: the old format, ustar, and the long names of GNU and pax.
struct TarReader: ~Copyable {
    enum Kind: Equatable {
        case file
        case directory
        case symbolicLink
        /// Nothing that a file copy has: a hard link, a device.
        case other(UInt8)
    }

    struct Entry: Equatable {
        /// Without `./` or `/` in front and `/` behind, without NUL.
        var name: [UInt8]
        var kind: Kind
        /// Permission bits.
        var mode: UInt32
        var size: UInt64
        var modified: FileTime
        /// Where a link points.
        var target: [UInt8]
    }

    enum Failure: Error, Equatable {
        case read(Errno)
        case endsEarly
        case checksum
        /// A field that is no number, or a record that breaks its own format.
        case field(String)
        case tooLong

        var text: String {
            switch self {
            case .read(let error): error.message
            case .endsEarly: "the archive ends in the middle of an entry"
            case .checksum: "no tar archive, or a damaged one: a header's checksum is wrong"
            case .field(let name): "the archive is damaged: \(name)"
            case .tooLong: "a name in the archive is too long to be sent"
            }
        }
    }

    /// What extended headers say of the next entry.
    private struct Extension {
        var name: [UInt8]?
        var target: [UInt8]?
        var size: UInt64?
        var modified: FileTime?
    }

    private let input: Int32
    /// Bytes of the last entry's contents and padding that were not read.
    private var left: UInt64 = 0
    private var padding: UInt64 = 0

    private static let block = 512
    private static let longestExtension: UInt64 = 64 * 1024

    /// - Parameter input: a blocking descriptor.
    init(_ input: Int32) { self.input = input }

    /// The next entry; nil at the end of the archive.
    mutating func next() throws(Failure) -> Entry? {
        var known = Extension()
        while true {
            try skip(left + padding)
            (left, padding) = (0, 0)
            guard let header = try readHeader() else { return nil }
            let type = header[156]
            let size = try Self.number(header[124..<136], "size")
            setSize(size)
            switch type {
            case UInt8(ascii: "L"): known.name = try readExtension().prefixBeforeNUL
            case UInt8(ascii: "K"): known.target = try readExtension().prefixBeforeNUL
            case UInt8(ascii: "x"): try Self.take(try readExtension(), &known)
            case UInt8(ascii: "g"): continue
            default:
                if let size = known.size { setSize(size) }
                return try entry(header, type, known)
            }
        }
    }

    private mutating func setSize(_ size: UInt64) {
        left = size
        padding = (512 - size % 512) % 512
    }

    /// Reads contents of the entry into a buffer; 0 when all of them were read.
    mutating func read(into buffer: inout [UInt8]) throws(Failure) -> Int {
        let count = Int(min(UInt64(buffer.count), left))
        if count == 0 { return 0 }
        let got = try fill(&buffer, count)
        if got < count { throw .endsEarly }
        left -= UInt64(got)
        return got
    }

    // MARK: Headers

    private mutating func readHeader() throws(Failure) -> [UInt8]? {
        var header = [UInt8](repeating: 0, count: Self.block)
        let got = try fill(&header, Self.block)
        // An archive ends with blocks of zeros; some end without.
        if got == 0 || header.allSatisfy({ $0 == 0 }) { return nil }
        if got < Self.block { throw .endsEarly }
        guard let expected = try? Self.number(header[148..<156], "checksum") else {
            throw .checksum
        }
        var sum: UInt64 = 0
        for i in 0..<Self.block { sum += (148..<156).contains(i) ? 32 : UInt64(header[i]) }
        if sum != expected { throw .checksum }
        return header
    }

    private func entry(
        _ header: [UInt8], _ type: UInt8, _ known: Extension
    ) throws(Failure) -> Entry {
        var name = Array(header[0..<100]).prefixBeforeNUL
        let prefix = Array(header[345..<500]).prefixBeforeNUL
        let isPOSIX = header[257..<263].elementsEqual(Array("ustar".utf8) + [0])
        if isPOSIX && !prefix.isEmpty { name = prefix + [slash] + name }
        name = known.name ?? name
        let kind: Kind
        switch type {
        case UInt8(ascii: "0"), UInt8(ascii: "7"), 0: kind = name.last == slash ? .directory : .file
        case UInt8(ascii: "5"): kind = .directory
        case UInt8(ascii: "2"): kind = .symbolicLink
        default: kind = .other(type)
        }
        let seconds = try Self.number(header[136..<148], "modification time")
        return Entry(
            name: Self.relative(name), kind: kind,
            mode: UInt32(truncatingIfNeeded: try Self.number(header[100..<108], "mode")) & 0o7777,
            size: left,
            modified: known.modified
                ?? FileTime(seconds: Int64(clamping: seconds), nanoseconds: 0),
            target: known.target ?? Array(header[157..<257]).prefixBeforeNUL)
    }

    /// Without `/` and `./` at the beginning and `/` at the end.
    private static func relative(_ name: [UInt8]) -> [UInt8] {
        var rest = name[...]
        while rest.first == slash || rest.starts(with: [dot, slash]) {
            rest = rest.dropFirst(rest.first == slash ? 1 : 2)
        }
        while rest.last == slash { rest.removeLast() }
        return rest.elementsEqual([dot]) ? [] : Array(rest)
    }

    /// Octal digits, or a big number in base 256.
    private static func number(
        _ field: ArraySlice<UInt8>, _ name: String
    ) throws(Failure) -> UInt64 {
        var value: UInt64 = 0
        if let first = field.first, first & 0x80 != 0 {
            // Negative numbers: times before 1970.
            if first & 0x40 != 0 { return 0 }
            for byte in [first & 0x3F] + field.dropFirst() {
                if value >> 56 != 0 { throw .field(name) }
                value = value << 8 | UInt64(byte)
            }
            return value
        }
        for byte in field.drop(while: { $0 == 32 }).prefix(while: { $0 != 32 && $0 != 0 }) {
            guard (0x30...0x37).contains(byte) else { throw .field(name) }
            value = value << 3 | UInt64(byte - 0x30)
        }
        return value
    }

    // MARK: Extended headers

    private mutating func readExtension() throws(Failure) -> [UInt8] {
        if left > Self.longestExtension { throw .tooLong }
        var bytes = [UInt8](repeating: 0, count: Int(left))
        _ = try read(into: &bytes)
        return bytes
    }

    /// Records `LENGTH KEYWORD=VALUE\n` of pax.
    private static func take(_ bytes: [UInt8], _ known: inout Extension) throws(Failure) {
        var rest = bytes[...]
        while !rest.isEmpty {
            guard let space = rest.firstIndex(of: 32),
                let length = Int(String(decoding: rest[..<space], as: UTF8.self)),
                length > space - rest.startIndex + 1, length <= rest.count,
                rest[rest.startIndex + length - 1] == 10,
                let equals = rest[space...].firstIndex(of: UInt8(ascii: "=")),
                equals < rest.startIndex + length
            else { throw .field("extended header") }
            let value = Array(rest[(equals + 1)..<(rest.startIndex + length - 1)])
            switch String(decoding: rest[(space + 1)..<equals], as: UTF8.self) {
            case "path": known.name = value.prefixBeforeNUL
            case "linkpath": known.target = value.prefixBeforeNUL
            case "size":
                known.size = UInt64(String(decoding: value, as: UTF8.self))
                if known.size == nil { throw .field("size") }
            case "mtime": known.modified = time(value)
            default: break
            }
            rest = rest.dropFirst(length)
        }
    }

    /// Seconds with a fraction; nil for times before 1970, which the entry's own field has too.
    private static func time(_ text: [UInt8]) -> FileTime? {
        let parts = text.split(separator: dot, maxSplits: 1, omittingEmptySubsequences: false)
        guard let seconds = parts.first.flatMap({ Int64(String(decoding: $0, as: UTF8.self)) }),
            seconds >= 0
        else { return nil }
        let digits = parts.count < 2 ? [] : parts[1].prefix(9).map { UInt32($0 &- 0x30) }
        if digits.contains(where: { $0 > 9 }) { return nil }
        var nanoseconds: UInt32 = 0
        for i in 0..<9 { nanoseconds = nanoseconds * 10 + (i < digits.count ? digits[i] : 0) }
        return FileTime(seconds: seconds, nanoseconds: nanoseconds)
    }

    // MARK: Bytes

    private func fill(_ buffer: inout [UInt8], _ count: Int) throws(Failure) -> Int {
        var filled = 0
        do throws(Errno) {
            while filled < count {
                let got = try Descriptor.read(
                    input, into: &buffer, at: filled, count: count - filled)
                if got == 0 { break }
                filled += got
            }
        } catch {
            throw .read(error)
        }
        return filled
    }

    private func skip(_ count: UInt64) throws(Failure) {
        var buffer = [UInt8](repeating: 0, count: Int(min(count, 64 * 1024)))
        var rest = count
        while rest > 0 {
            let now = Int(min(rest, UInt64(buffer.count)))
            if try fill(&buffer, now) < now { throw .endsEarly }
            rest -= UInt64(now)
        }
    }
}

extension [UInt8] {
    /// What precedes the first NUL.
    fileprivate var prefixBeforeNUL: [UInt8] { Array(prefix { $0 != 0 }) }
}

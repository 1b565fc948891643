import Glibc
import LinuxSystem
import SystemPackage

/// What a sender has sent, entry by entry, in a file that `qvm-move` opened: it tells afterwards
/// what may be deleted. The last entry is the confirmation of the receiver; without it the record
/// says nothing.
///
/// Each entry: u32 argument, u32 bytes of the path, u64 device, u64 inode, u64 size, i64 seconds
/// and u32 nanoseconds of the last change of contents, u32 mode, path without NUL. The confirmation
/// is an entry with argument 0xFFFFFFFF and no path.
struct SentRecord: ~Copyable {
    private let file: Descriptor
    private var buffer: [UInt8] = []

    static let confirmation = UInt32.max
    static let fixedLength = 48
    private static let flushAt = 32 * 1024

    init(_ file: consuming Descriptor) { self.file = file }

    /// Adds an entry that was sent: a directory only after its contents.
    ///
    /// - Parameter path: with its NUL.
    mutating func add(
        argument: UInt32, path: [UInt8], _ attributes: FileAttributes
    ) throws(Errno) {
        put(argument, 4)
        put(UInt32(path.count - 1), 4)
        put(attributes.device, 8)
        put(attributes.inode, 8)
        put(attributes.size, 8)
        put(UInt64(bitPattern: attributes.modified.seconds), 8)
        put(attributes.modified.nanoseconds, 4)
        put(attributes.mode, 4)
        buffer += path.dropLast()
        if buffer.count >= Self.flushAt { try flush() }
    }

    /// Notes that the receiver has confirmed everything.
    mutating func confirm() throws(Errno) {
        put(Self.confirmation, 4)
        buffer += [UInt8](repeating: 0, count: Self.fixedLength - 4)
        try flush()
    }

    private mutating func flush() throws(Errno) {
        try file.writeAll(buffer)
        buffer.removeAll(keepingCapacity: true)
    }

    private mutating func put(_ value: some FixedWidthInteger, _ bytes: Int) {
        for i in 0..<bytes { buffer.append(UInt8(truncatingIfNeeded: value >> (8 * i))) }
    }
}

/// Reads a record from its beginning.
struct SentRecordReader: ~Copyable {
    struct Entry: Equatable {
        var argument: UInt32
        /// Without NUL.
        var path: [UInt8]
        var device: UInt64
        var inode: UInt64
        var size: UInt64
        var modified: FileTime
        var mode: UInt32

        /// Whether this is still what was sent.
        func matches(_ now: FileAttributes) -> Bool {
            now.device == device && now.inode == inode && now.kind == FileKind(mode: mode)
                && (now.kind == .directory || (now.size == size && now.modified == modified))
        }
    }

    private let file: Descriptor
    private var buffer = [UInt8](repeating: 0, count: 64 * 1024)
    private var filled = 0
    private var position = 0

    init(_ file: consuming Descriptor) throws(Errno) {
        try file.seek(0, .start)
        self.file = file
    }

    /// Starts again at the first entry.
    mutating func rewind() throws(Errno) {
        try file.seek(0, .start)
        filled = 0
        position = 0
    }

    /// The next entry, the confirmation too; nil at the end or where the record breaks off.
    mutating func next() throws(Errno) -> Entry? {
        guard try need(SentRecord.fixedLength) else { return nil }
        var (entry, length) = Self.fixedPart(buffer.span.extracting(position...))
        position += SentRecord.fixedLength
        guard length <= NameRules.maximumLength, try need(length) else { return nil }
        entry.path = Array(buffer[position..<(position + length)])
        position += length
        return entry
    }

    private static func fixedPart(_ bytes: Span<UInt8>) -> (entry: Entry, pathLength: Int) {
        func number(_ offset: Int) -> UInt64 {
            UInt64(bytes.littleEndian32(at: offset))
                | UInt64(bytes.littleEndian32(at: offset + 4)) << 32
        }
        let entry = Entry(
            argument: bytes.littleEndian32(at: 0), path: [], device: number(8), inode: number(16),
            size: number(24),
            modified: FileTime(
                seconds: Int64(bitPattern: number(32)), nanoseconds: bytes.littleEndian32(at: 40)),
            mode: bytes.littleEndian32(at: 44))
        return (entry, Int(bytes.littleEndian32(at: 4)))
    }

    private mutating func need(_ count: Int) throws(Errno) -> Bool {
        while filled - position < count {
            if position > 0 {
                buffer.replaceSubrange(0..<(filled - position), with: buffer[position..<filled])
                filled -= position
                position = 0
            }
            let got = try file.read(into: &buffer, at: filled, count: buffer.count - filled)
            if got == 0 { return false }
            filled += got
        }
        return true
    }
}

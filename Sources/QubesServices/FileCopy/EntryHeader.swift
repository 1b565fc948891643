public import LinuxSystem

/// What precedes each entry of the stream (specification 15.1): 32 bytes, then the name.
public struct EntryHeader: Equatable, Sendable {
    /// Bytes of the name with its NUL; 0 is the end of the stream.
    public var nameLength: UInt32
    /// `st_mode`: type and permission bits.
    public var mode: UInt32
    /// Bytes that follow the name: contents of a file, target of a link.
    public var size: UInt64
    public var accessed: FileTime
    public var modified: FileTime

    /// Bytes of a header.
    public static let length = 32

    public init(
        nameLength: UInt32, mode: UInt32, size: UInt64, accessed: FileTime, modified: FileTime
    ) {
        self.nameLength = nameLength
        self.mode = mode
        self.size = size
        self.accessed = accessed
        self.modified = modified
    }

    /// The header after the last entry.
    public static let end = EntryHeader(
        nameLength: 0, mode: 0, size: 0, accessed: FileTime(seconds: 0, nanoseconds: 0),
        modified: FileTime(seconds: 0, nanoseconds: 0))

    /// Reads a header; any 32 bytes are one, its fields are still to be judged.
    init(_ bytes: Span<UInt8>) {
        nameLength = bytes.littleEndian32(at: 0)
        mode = bytes.littleEndian32(at: 4)
        size = UInt64(bytes.littleEndian32(at: 8)) | UInt64(bytes.littleEndian32(at: 12)) << 32
        accessed = FileTime(
            seconds: Int64(bytes.littleEndian32(at: 16)), nanoseconds: bytes.littleEndian32(at: 20))
        modified = FileTime(
            seconds: Int64(bytes.littleEndian32(at: 24)), nanoseconds: bytes.littleEndian32(at: 28))
    }

    /// The 32 bytes. Times have 32 bits on this wire: earlier ones become 1970, later ones 2106.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.length)
        encode { bytes.append($0) }
        return bytes
    }

    func encode(_ emit: (UInt8) -> Void) {
        func put(_ value: UInt32) {
            for shift: UInt32 in [0, 8, 16, 24] { emit(UInt8(truncatingIfNeeded: value >> shift)) }
        }
        put(nameLength)
        put(mode)
        put(UInt32(truncatingIfNeeded: size))
        put(UInt32(truncatingIfNeeded: size >> 32))
        put(UInt32(clamping: accessed.seconds))
        put(accessed.nanoseconds)
        put(UInt32(clamping: modified.seconds))
        put(modified.nanoseconds)
    }
}

extension Span<UInt8> {
    /// The 32-bit number at an offset that lies inside.
    func littleEndian32(at offset: Int) -> UInt32 {
        UInt32(self[offset]) | UInt32(self[offset + 1]) << 8 | UInt32(self[offset + 2]) << 16
            | UInt32(self[offset + 3]) << 24
    }
}

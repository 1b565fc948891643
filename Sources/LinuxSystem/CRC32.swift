import CLinuxSystem

/// CRC-32 as in zip and zlib, with the processor's carry-less multiplication where it has one.
public struct CRC32: Sendable, Equatable {
    /// The checksum of everything so far.
    public private(set) var value: UInt32 = 0

    public init() {}

    /// Adds bytes.
    public mutating func update(_ bytes: Span<UInt8>) {
        // SAFETY: the C side reads `count` bytes of a span that outlives the call.
        value = unsafe bytes.withUnsafeBufferPointer {
            unsafe cs_crc32(value, $0.baseAddress, $0.count)
        }
    }

    /// Adds bytes without the processor's instructions: what `update` does on processors that have
    /// none. Both give the same value.
    public mutating func updateByTable(_ bytes: Span<UInt8>) {
        // SAFETY: as above.
        value = unsafe bytes.withUnsafeBufferPointer {
            unsafe cs_crc32_table(value, $0.baseAddress, $0.count)
        }
    }

    /// Whether this processor has the instructions that `update` uses.
    public static var usesInstructions: Bool { cs_crc32_has_instructions() == 1 }
}

/// Reads little-endian integers and fields from bytes that a peer sent; every read is bounded.
struct ByteReader {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    var remaining: Int { rest.count }

    /// The caller has checked the length.
    mutating func uint32() -> UInt32 {
        precondition(rest.count >= 4)
        var value: UInt32 = 0
        for (index, byte) in rest.prefix(4).enumerated() { value |= UInt32(byte) << (8 * index) }
        rest.removeFirst(4)
        return value
    }

    mutating func take(_ count: Int) -> ArraySlice<UInt8> {
        precondition(rest.count >= count)
        let taken = rest.prefix(count)
        rest.removeFirst(count)
        return taken
    }

    mutating func takeAll() -> ArraySlice<UInt8> { take(rest.count) }
}

extension [UInt8] {
    mutating func append(little value: UInt32) {
        append(UInt8(truncatingIfNeeded: value))
        append(UInt8(truncatingIfNeeded: value >> 8))
        append(UInt8(truncatingIfNeeded: value >> 16))
        append(UInt8(truncatingIfNeeded: value >> 24))
    }

    /// Text in a fixed field, NUL-filled; what does not fit with its NUL is cut.
    mutating func append(_ text: String, field: Int) {
        let bytes = Array(text.utf8.prefix(field - 1))
        append(contentsOf: bytes)
        append(contentsOf: repeatElement(0, count: field - bytes.count))
    }
}

/// Text of a field up to its first NUL, which must be there, with nothing but NULs behind it.
func fieldText(
    _ bytes: ArraySlice<UInt8>, _ field: String
) throws(ProtocolError) -> String {
    guard let end = bytes.firstIndex(of: 0) else {
        throw .badText(field: field, reason: "has no terminating NUL")
    }
    guard bytes[end...].allSatisfy({ $0 == 0 }) else {
        throw .badText(field: field, reason: "has bytes behind its NUL")
    }
    return asciiText(bytes[..<end])
}

/// Bytes as text; one that is not ASCII becomes DEL, which no name allows, so that each byte of the
/// peer's stays one character.
func asciiText(_ bytes: ArraySlice<UInt8>) -> String {
    String(decoding: bytes.lazy.map { $0 < 0x80 ? $0 : 0x7F }, as: UTF8.self)
}

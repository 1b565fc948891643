import Glibc

/// What the receiver answers, once (specification 15.2).
public struct TransferResult: Equatable, Sendable {
    /// An error number of Linux, 0 for success, or one of the codes below.
    public var code: UInt32
    /// Checksum of every byte of the stream that was received.
    public var checksum: UInt32
    /// The entry that was received last, without NUL; nil when none was or the receiver is old.
    public var lastName: [UInt8]?

    /// The stream ended inside an entry: the sender broke off and shows its own error.
    public static let brokenOff: UInt32 = 31_415_926

    /// Bytes without the name, and those before the name when there is one.
    static let shortLength = 16
    static let lengthBeforeName = 20
    /// Bytes of a name that a sender reads at most.
    static let maximumName = 16384

    public init(code: UInt32, checksum: UInt32, lastName: [UInt8]?) {
        self.code = code
        self.checksum = checksum
        self.lastName = lastName
    }

    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        func put(_ value: UInt32) {
            for shift: UInt32 in [0, 8, 16, 24] {
                bytes.append(UInt8(truncatingIfNeeded: value >> shift))
            }
        }
        put(code)
        put(0)
        put(checksum)
        put(0)
        if let lastName {
            put(UInt32(lastName.count))
            bytes += lastName
        }
        return bytes
    }

    /// Reads an answer from everything that came: nil when it is shorter than 16 bytes. A name that
    /// was cut off is taken as far as it came.
    public init?(_ bytes: Span<UInt8>) {
        if bytes.count < Self.shortLength { return nil }
        code = bytes.littleEndian32(at: 0)
        // Some receivers send the negated number for bad directory names.
        if code >= 0xFFFF_F000 { code = 0 &- code }
        checksum = bytes.littleEndian32(at: 8)
        if bytes.count <= Self.lengthBeforeName { return }
        let length = min(
            Int(bytes.littleEndian32(at: 16)), bytes.count - Self.lengthBeforeName, Self.maximumName
        )
        lastName = (0..<length).map { bytes[Self.lengthBeforeName + $0] }
    }

    /// The exit status that goes with the code: its low 8 bits, but never 0 for an error.
    public var exitStatus: Int32 {
        let low = Int32(code & 0xFF)
        return code != 0 && low == 0 ? 1 : low
    }
}

/// A name of another qube as it may be shown: printable ASCII, the rest and `"` as `_`.
public func displayable(_ name: some Sequence<UInt8>) -> String {
    String(
        decoding: name.map {
            (0x20...0x7E).contains($0) && $0 != UInt8(ascii: "\"") ? $0 : UInt8(ascii: "_")
        }, as: UTF8.self)
}

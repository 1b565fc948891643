import LinuxSystem

/// The number of a domain (a qube) as the hypervisor knows it: 0 to 0x7FEF (protocol 3).
public struct DomainID: Hashable, Sendable, Comparable, CustomStringConvertible {
    public let rawValue: UInt16

    /// Nil above 0x7FEF: the numbers from there on have special meanings to Xen.
    public init?(_ value: UInt32) {
        guard value <= 0x7FEF else { return nil }
        rawValue = UInt16(value)
    }

    private init(known value: UInt16) { rawValue = value }

    /// The administrative domain.
    public static let dom0 = DomainID(known: 0)

    public static func < (left: DomainID, right: DomainID) -> Bool {
        left.rawValue < right.rawValue
    }

    public var description: String { decimalText(UInt64(rawValue)) }
}

/// The number of a vchan between two domains: 0 to 2^31 - 1 (protocol 3).
public struct Port: Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32

    /// Nil above 2^31 - 1.
    public init?(_ value: UInt32) {
        guard value <= UInt32(Int32.max) else { return nil }
        rawValue = value
    }

    public var description: String { decimalText(UInt64(rawValue)) }
}

/// The size of one ring: a power of two from 1 KiB to 1 MiB (protocol 1.2).
public struct RingSize: Hashable, Sendable, CustomStringConvertible {
    public let bytes: Int

    /// The smallest ring that holds so many bytes; nil above 1 MiB or below 0.
    public init?(atLeast minimum: Int) {
        guard 0...(1 << 20) ~= minimum else { return nil }
        var bytes = 1024
        while bytes < minimum { bytes *= 2 }
        self.bytes = bytes
    }

    public var description: String { "\(bytes) bytes" }
}

/// A decimal number as it stands in the store: digits only, no sign, no space, in range.
func parseDecimal(_ text: Substring, maximum: UInt32) -> UInt32? {
    guard !text.isEmpty, text.utf8.count <= 10 else { return nil }
    var value: UInt64 = 0
    for digit in text.utf8 {
        guard UInt8(ascii: "0")...UInt8(ascii: "9") ~= digit else { return nil }
        value = value * 10 + UInt64(digit - UInt8(ascii: "0"))
    }
    return value <= UInt64(maximum) ? UInt32(value) : nil
}

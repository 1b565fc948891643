/// What the caller of `qubes.OpenInVM` says first: 256 bytes with the file's name (specification
/// 16.1).
struct OpenRequest: Equatable {
    /// The file's own name, without directories.
    var name: [UInt8]
    /// Whether the file is only to be looked at: nothing comes back.
    var isViewOnly: Bool

    /// Bytes of the field; the last one is NUL.
    static let length = 256
    private static let prefix = Array("view-only-".utf8)

    init(name: [UInt8], isViewOnly: Bool) {
        self.name = name
        self.isViewOnly = isViewOnly
    }

    /// Reads the field.
    ///
    /// - Returns: nil when it has no name, or one with a `/`.
    init?(_ field: [UInt8]) {
        guard field.count == Self.length, field[Self.length - 1] == 0 else { return nil }
        var name = field.prefix { $0 != 0 }
        isViewOnly = name.starts(with: Self.prefix)
        if isViewOnly { name = name.dropFirst(Self.prefix.count) }
        if name.isEmpty || name.contains(slash) { return nil }
        self.name = Array(name)
    }

    /// The field. A name that is too long keeps its end, which says what kind of file it is.
    var encoded: [UInt8] {
        let prefix = isViewOnly ? Self.prefix : []
        var field = prefix + name.suffix(Self.length - 1 - prefix.count)
        field += [UInt8](repeating: 0, count: Self.length - field.count)
        return field
    }

    /// The name as a file of this qube may have it: characters outside `0-9A-Za-z._+@-` become `_`,
    /// and so does a `-` or `.` at the beginning, which programs would take for something else.
    var safeName: String {
        let safe = name.map { byte -> UInt8 in
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: byte
            case UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "+"), UInt8(ascii: "@"),
                UInt8(ascii: "-"):
                byte
            default: UInt8(ascii: "_")
            }
        }
        let text = String(decoding: safe, as: UTF8.self)
        return text.hasPrefix("-") || text.hasPrefix(".") ? "_" + text.dropFirst() : text
    }
}

/// Addresses that `qubes.OpenURL` takes (specification 16.2).
enum OpenURLRequest {
    /// Bytes of the line at most.
    static let maximumLength = 16 * 1024

    /// Whether an address is one that may be handed to an opener: http, https or ftp, without
    /// spaces or control characters.
    static func accepts(_ address: [UInt8]) -> Bool {
        let schemes = ["http://", "https://", "ftp://"]
        guard address.count <= maximumLength,
            schemes.contains(where: { address.starts(with: $0.utf8) })
        else { return false }
        return address.allSatisfy { $0 > 0x20 && $0 != 0x7F }
    }
}

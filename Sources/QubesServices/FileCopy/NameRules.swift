/// What a qube may call the files and links that it sends (specification 15.3).
public struct NameRules: Sendable {
    /// Whether any byte but NUL and `/` may be in a name. The rules about the shape of paths stay.
    public var allowAllNames: Bool
    /// Whether a link may point anywhere and lie directly in the incoming directory: only ever a
    /// local choice, never the sender's.
    public var allowUnsafeLinks: Bool

    /// Longest name and longest link target, in bytes without NUL.
    public static let maximumLength = 16383

    public init(allowAllNames: Bool = false, allowUnsafeLinks: Bool = false) {
        self.allowAllNames = allowAllNames
        self.allowUnsafeLinks = allowUnsafeLinks
    }

    /// A rule that was broken.
    public enum Violation: Error, Equatable, Sendable {
        /// A character that is not in the list, or bytes that are not UTF-8.
        case character
        /// A path that is empty, absolute, ends with `/`, or has an empty, `.` or `..` component.
        case path
        /// A link directly in the incoming directory.
        case linkAtTop
        /// A link whose target is absolute, or has `..` too often or not at its beginning.
        case linkTarget
    }

    /// Checks the name of a file, directory or link.
    ///
    /// - Parameter name: a path relative to the incoming directory, without NUL.
    public func check(name: Span<UInt8>) throws(Violation) {
        _ = try Self.depth(name)
        if !allowAllNames && !Self.hasAllowedCharacters(name) { throw .character }
    }

    /// Checks a link: its name, and where it points.
    ///
    /// - Parameter target: without NUL, at most `maximumLength` bytes.
    public func check(link name: Span<UInt8>, target: Span<UInt8>) throws(Violation) {
        try check(name: name)
        if allowUnsafeLinks { return }
        let depth = try Self.depth(name)
        if depth < 2 { throw .linkAtTop }
        try Self.checkShape(target: target, maximumUp: depth - 2)
        if !allowAllNames && !Self.hasAllowedCharacters(target) { throw .character }
    }

    /// The number of components of a path of good shape.
    static func depth(_ path: Span<UInt8>) throws(Violation) -> Int {
        if path.isEmpty { throw .path }
        var depth = 0
        var start = 0
        for i in 0...path.count where i == path.count || path[i] == slash {
            switch i - start {
            case 0: throw .path
            case 1 where path[start] == dot: throw .path
            case 2 where path[start] == dot && path[start + 1] == dot: throw .path
            default: break
            }
            depth += 1
            start = i + 1
        }
        return depth
    }

    /// `..` only at the beginning and at most `maximumUp` times, so that the link stays beneath the
    /// first component of its own name. Empty and `.` components do not count.
    private static func checkShape(
        target: Span<UInt8>, maximumUp: Int
    ) throws(Violation) {
        // An empty one leads nowhere; the system says so.
        if !target.isEmpty && target[0] == slash { throw .linkTarget }
        var up = 0
        var wentDown = false
        var start = 0
        for i in 0...target.count where i == target.count || target[i] == slash {
            switch i - start {
            case 0: break
            case 1 where target[start] == dot: break
            case 2 where target[start] == dot && target[start + 1] == dot:
                up += 1
                if wentDown || up > maximumUp { throw .linkTarget }
            default: wentDown = true
            }
            start = i + 1
        }
    }

    /// Whether the bytes are UTF-8 and each character is in the list of appendix A.
    static func hasAllowedCharacters(_ bytes: Span<UInt8>) -> Bool {
        var i = 0
        while i < bytes.count {
            let first = bytes[i]
            if first < 0x80 {
                if first < 0x20 || first > 0x7E { return false }
                i += 1
                continue
            }
            guard let (scalar, length) = decode(bytes, at: i), AllowedCharacters.contains(scalar)
            else { return false }
            i += length
        }
        return true
    }

    /// One character of more than one byte: no overlong form, no surrogate, at most 10FFFF.
    private static func decode(_ bytes: Span<UInt8>, at i: Int) -> (scalar: UInt32, length: Int)? {
        let first = UInt32(bytes[i])
        let (length, smallest): (Int, UInt32)
        switch first {
        case 0xC2...0xDF: (length, smallest) = (2, 0x80)
        case 0xE0...0xEF: (length, smallest) = (3, 0x800)
        case 0xF0...0xF4: (length, smallest) = (4, 0x10000)
        default: return nil
        }
        if bytes.count - i < length { return nil }
        var scalar = first & (0x7F >> UInt32(length))
        for j in (i + 1)..<(i + length) {
            if bytes[j] & 0xC0 != 0x80 { return nil }
            scalar = scalar << 6 | UInt32(bytes[j] & 0x3F)
        }
        let surrogate = (0xD800...0xDFFF).contains(scalar)
        return scalar < smallest || scalar > 0x10FFFF || surrogate ? nil : (scalar, length)
    }
}

let slash = UInt8(ascii: "/")
let dot = UInt8(ascii: ".")

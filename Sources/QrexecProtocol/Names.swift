/// Which characters names on the wire may have (5.7).
public enum Names {
    /// `A-Za-z0-9_.-+`: services and arguments.
    public static func isServiceCharacter(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x5F, 0x2E, 0x2D, 0x2B: true
        default: false
        }
    }

    /// Those, `@` and `:`: targets and sources.
    public static func isTargetCharacter(_ byte: UInt8) -> Bool {
        isServiceCharacter(byte) || byte == 0x40 || byte == 0x3A
    }

    /// Each character that is not allowed becomes `_`.
    public static func sanitised(_ text: String, _ allowed: (UInt8) -> Bool) -> String {
        if text.utf8.allSatisfy(allowed) { return text }
        var result = ""
        for byte in text.utf8 {
            result.unicodeScalars.append(Unicode.Scalar(allowed(byte) ? byte : 0x5F))
        }
        return result
    }

    /// A domain's name: 1 to 31 characters, first a letter, then `A-Za-z0-9_.-` (appendix A).
    public static func isDomainName(_ text: String) -> Bool {
        guard let first = text.utf8.first, text.utf8.count <= 31 else { return false }
        let isLetter = (0x41...0x5A).contains(first) || (0x61...0x7A).contains(first)
        guard isLetter, text.utf8.allSatisfy({ isServiceCharacter($0) && $0 != 0x2B }) else {
            return false
        }
        return text != "none" && text != "default" && text != "Domain-0" && !text.hasSuffix("-dm")
    }
}

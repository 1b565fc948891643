/// Command lines as arguments of `qubes.VMExec` and its relatives (specification 16.2): the words
/// joined by `+`, each byte outside `A-Za-z0-9._` as `-HH`, a `-` as `--`.
enum ArgumentCoding {
    /// Why a text is no command line.
    struct Invalid: Error, Equatable { let reason: String }

    static func encode(_ command: [[UInt8]]) -> String {
        command.map(encode).joined(separator: "+")
    }

    private static func encode(_ word: [UInt8]) -> String {
        var result = ""
        for byte in word {
            if byte == dash {
                result += "--"
            } else if isPlain(byte) {
                result.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                result += "-"
                for digit in [byte >> 4, byte & 0xF] {
                    result.unicodeScalars.append(Unicode.Scalar(digits[Int(digit)]))
                }
            }
        }
        return result
    }

    /// The words of a command line: at least a program's name, and no NUL, which no program could
    /// be given.
    static func decode(_ text: String) throws(Invalid) -> [[UInt8]] {
        var words: [[UInt8]] = [[]]
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "+"): words.append([])
            case dash: words[words.count - 1].append(try decodeEscape(&rest))
            case _ where isPlain(byte): words[words.count - 1].append(byte)
            default:
                throw Invalid(reason: "byte \(byte) must be written as '-' and two digits")
            }
        }
        if words[0].isEmpty { throw Invalid(reason: "no program is named") }
        return words
    }

    private static func decodeEscape(_ rest: inout ArraySlice<UInt8>) throws(Invalid) -> UInt8 {
        guard let first = rest.popFirst() else { throw Invalid(reason: "it ends after '-'") }
        if first == dash { return dash }
        guard let second = rest.popFirst(), let high = digits.firstIndex(of: first),
            let low = digits.firstIndex(of: second)
        else {
            throw Invalid(
                reason: "'-' must be followed by '-' or two upper-case hexadecimal digits")
        }
        let byte = UInt8(high << 4 | low)
        if byte == 0 { throw Invalid(reason: "a NUL byte cannot be passed to a program") }
        return byte
    }

    private static let dash = UInt8(ascii: "-")
    private static let digits = Array("0123456789ABCDEF".utf8)

    private static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "."), UInt8(ascii: "_"): true
        default: false
        }
    }
}

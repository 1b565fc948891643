/// An xl configuration file (xl.cfg) as far as the manager needs it: settings in their order, with
/// strings, numbers and lists of strings.
struct XLConfiguration: Equatable {
    indirect enum Value: Equatable {
        /// A string or a number.
        case text(String)
        case list([Value])
    }

    struct Setting: Equatable {
        let name: String
        let value: Value
        let line: Int
    }

    /// Where the file cannot be read.
    struct Invalid: Error, Equatable {
        let line: Int
        let reason: String
    }

    let settings: [Setting]

    init(_ text: String) throws(Invalid) {
        var reader = Reader(text)
        settings = try reader.settings()
    }

    /// The last of equal names counts, as for xl.
    subscript(name: String) -> Value? { settings.last { $0.name == name }?.value }

    /// A list of strings, which a file may give one alone without brackets.
    func strings(_ name: String) -> [String] {
        switch self[name] {
        case .text(let text): [text]
        case .list(let values):
            values.compactMap { if case .text(let text) = $0 { text } else { nil } }
        case nil: []
        }
    }

    /// A string as xl reads it back; nil when it cannot be written, because it has both quotes.
    static func quoted(_ text: String) -> String? {
        guard !text.utf8.contains(where: { $0 < 0x20 }) else { return nil }
        if !text.contains("\"") { return "\"\(text)\"" }
        return text.contains("'") ? nil : "'\(text)'"
    }

    private struct Reader {
        /// Deeper lists than xl has.
        private static let maximumDepth = 8
        private let bytes: [UInt8]
        private var position = 0
        private var line = 1

        init(_ text: String) { bytes = Array(text.utf8) }

        private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

        private func invalid(_ reason: String) -> Invalid { Invalid(line: line, reason: reason) }

        private mutating func advance() {
            if next == 0x0A { line += 1 }
            position += 1
        }

        /// Passes blanks and comments, and ends of lines if these mean nothing here.
        private mutating func skip(lines: Bool) {
            while let byte = next {
                switch byte {
                case 0x20, 0x09, 0x0D: advance()
                case 0x0A, 0x3B:
                    if !lines { return }
                    advance()
                case UInt8(ascii: "#"): while let byte = next, byte != 0x0A { advance() }
                default: return
                }
            }
        }

        mutating func settings() throws(Invalid) -> [Setting] {
            var settings: [Setting] = []
            while true {
                skip(lines: true)
                if next == nil { return settings }
                let start = line
                let name = word()
                guard !name.isEmpty else { throw invalid("a setting begins with its name") }
                skip(lines: false)
                if next == UInt8(ascii: "+") { advance() }
                guard next == UInt8(ascii: "=") else { throw invalid("no '=' behind '\(name)'") }
                advance()
                skip(lines: false)
                let value = try value(depth: 0)
                settings.append(Setting(name: name, value: value, line: start))
                skip(lines: false)
                guard next == nil || next == 0x0A || next == 0x3B else {
                    throw invalid("something follows the value of '\(name)' on its line")
                }
            }
        }

        private mutating func word() -> String {
            let start = position
            while let byte = next, isWord(byte) { advance() }
            return String(decoding: bytes[start..<position], as: UTF8.self)
        }

        private func isWord(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte)
                || (0x61...0x7A).contains(byte) || byte == 0x5F || byte == 0x2D || byte == 0x2E
        }

        private mutating func value(depth: Int) throws(Invalid) -> Value {
            switch next {
            case UInt8(ascii: "\""), UInt8(ascii: "'"): return .text(try string())
            case UInt8(ascii: "["):
                guard depth < Self.maximumDepth else { throw invalid("lists too deep") }
                return try list(depth: depth)
            default:
                let text = word()
                guard !text.isEmpty else {
                    throw invalid("a value must be a string, number or list")
                }
                return .text(text)
            }
        }

        private mutating func string() throws(Invalid) -> String {
            let quote = bytes[position]
            advance()
            let start = position
            while let byte = next, byte != quote {
                guard byte != 0x0A else { throw invalid("a string ends on its line") }
                advance()
            }
            guard next == quote else { throw invalid("a string without its end") }
            defer { advance() }
            return String(decoding: bytes[start..<position], as: UTF8.self)
        }

        private mutating func list(depth: Int) throws(Invalid) -> Value {
            advance()
            var values: [Value] = []
            while true {
                skip(lines: true)
                if next == UInt8(ascii: "]") {
                    advance()
                    return .list(values)
                }
                values.append(try value(depth: depth + 1))
                skip(lines: true)
                if next == UInt8(ascii: ",") {
                    advance()
                } else if next != UInt8(ascii: "]") {
                    throw invalid("a list has its values between ',' and ends with ']'")
                }
            }
        }
    }
}

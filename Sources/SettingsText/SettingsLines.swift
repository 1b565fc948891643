/// Finds the line of a key in TOML text that is known to be valid: the parser's values do not carry
/// where they came from.
public struct SettingsLines: Sendable {
    private let text: [Substring]

    public init(_ text: String) {
        self.text = text.split(separator: "\n", omittingEmptySubsequences: false)
    }

    /// 1-based; of the nearest table around the key when it is written in a way not looked for, and
    /// 0 when there is not even that.
    public func line(of key: [String]) -> Int {
        for length in stride(from: key.count, to: 0, by: -1) {
            if let line = exactLine(of: Array(key[..<length])) { return line }
        }
        return 0
    }

    /// Keys of a table in the order of the file.
    ///
    /// - Parameter table: the names of the tables around them, the outermost first.
    public func inOrder(_ keys: [String], below table: [String]) -> [String] {
        keys.sorted { (line(of: table + [$0]), $0) < (line(of: table + [$1]), $1) }
    }

    private func exactLine(of key: [String]) -> Int? {
        var table: [String] = []
        for (index, line) in text.enumerated() {
            let line = Self.trimmed(line)
            if line.hasPrefix("[") {
                let name = line.drop { $0 == "[" }.prefix { $0 != "]" }
                table = Self.path(name)
                if table.starts(with: key) { return index + 1 }
            } else if let equals = line.firstIndex(of: "=") {
                let name = table + Self.path(line[..<equals])
                if name.starts(with: key) { return index + 1 }
            }
        }
        return nil
    }

    private static func path(_ text: Substring) -> [String] {
        text.split(separator: ".").map {
            String(trimmed($0)).filter { $0 != "\"" && $0 != "'" }
        }
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text.drop { $0 == " " || $0 == "\t" }
        while let last = text.last, last == " " || last == "\t" || last == "\r" {
            text.removeLast()
        }
        return text
    }
}

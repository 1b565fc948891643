/// What a desktop file says about starting its application (Desktop Entry Specification 1.5).
struct DesktopEntry: Equatable {
    /// The program and its arguments; no file or address is given to it.
    var command: [String]
    /// Where it starts; nil for the home directory.
    var directory: String?
    /// Whether it needs a terminal.
    var needsTerminal = false

    /// Why a file starts nothing.
    struct Invalid: Error, Equatable { let reason: String }

    /// - Parameter path: the file's own, which `%k` stands for.
    init(_ text: String, path: String) throws(Invalid) {
        let keys = Self.group("[Desktop Entry]", of: text)
        if let type = keys["Type"], type != "Application" {
            throw Invalid(reason: "it is a \(type), not an application")
        }
        if keys["Hidden"] == "true" { throw Invalid(reason: "the application is not installed") }
        guard let line = keys["Exec"] else { throw Invalid(reason: "it names no program (Exec)") }
        let words = try Self.words(Self.unescaped(line))
        command = []
        for word in words {
            command += try Self.expanded(word, keys, path: path)
        }
        guard let program = command.first, !program.isEmpty else {
            throw Invalid(reason: "it names no program (Exec)")
        }
        directory = keys["Path"].flatMap { $0.isEmpty ? nil : Self.unescaped($0) }
        needsTerminal = keys["Terminal"] == "true"
    }

    /// The keys of a group, without translations.
    private static func group(_ name: String, of text: String) -> [String: String] {
        var keys: [String: String] = [:]
        var isInside = false
        for line in text.split(whereSeparator: \.isNewline) {
            if line.hasPrefix("[") {
                isInside = line == name
            } else if isInside, !line.hasPrefix("#"), let equals = line.firstIndex(of: "=") {
                let key = trimmed(line[..<equals])
                let value = trimmed(line[line.index(after: equals)...])
                if keys[key] == nil { keys[key] = value }
            }
        }
        return keys
    }

    private static func trimmed(_ text: Substring) -> String {
        var text = text
        while text.last == " " || text.last == "\t" { text.removeLast() }
        return String(text.drop { $0 == " " || $0 == "\t" })
    }

    /// The escapes of every text value.
    private static func unescaped(_ text: String) -> String {
        var result = ""
        var rest = text[...]
        while let character = rest.popFirst() {
            guard character == "\\", let next = rest.popFirst() else {
                result.append(character)
                continue
            }
            switch next {
            case "s": result.append(" ")
            case "n": result.append("\n")
            case "t": result.append("\t")
            case "r": result.append("\r")
            case "\\": result.append("\\")
            default:
                // Those of the quoting in Exec, which come next.
                result.append("\\")
                result.append(next)
            }
        }
        return result
    }

    /// The words of an Exec line; whether a word was quoted decides about field codes.
    private static func words(_ line: String) throws(Invalid) -> [(text: String, isQuoted: Bool)] {
        var words: [(text: String, isQuoted: Bool)] = []
        var rest = line[...]
        while true {
            rest = rest.drop { $0 == " " || $0 == "\t" }
            guard let first = rest.first else { return words }
            if first == "\"" {
                rest.removeFirst()
                words.append((try quoted(&rest), true))
            } else {
                let word = rest.prefix { $0 != " " && $0 != "\t" }
                rest = rest.dropFirst(word.count)
                words.append((String(word), false))
            }
        }
    }

    private static func quoted(_ rest: inout Substring) throws(Invalid) -> String {
        var word = ""
        while let character = rest.popFirst() {
            if character == "\"" { return word }
            if character == "\\", let next = rest.first, "\"`$\\".contains(next) {
                word.append(next)
                rest.removeFirst()
            } else {
                word.append(character)
            }
        }
        throw Invalid(reason: "a quotation mark of its Exec line is not closed")
    }

    private static func expanded(
        _ word: (text: String, isQuoted: Bool), _ keys: [String: String], path: String
    ) throws(Invalid) -> [String] {
        if word.isQuoted { return [word.text] }
        if word.text == "%i" {
            return keys["Icon"].map { ["--icon", unescaped($0)] } ?? []
        }
        var result = ""
        var rest = word.text[...]
        var hadCode = false
        while let character = rest.popFirst() {
            guard character == "%" else {
                result.append(character)
                continue
            }
            guard let code = rest.popFirst() else { throw Invalid(reason: "Exec ends with '%'") }
            hadCode = true
            switch code {
            case "%": result.append("%")
            case "c": result += unescaped(keys["Name"] ?? "")
            case "k": result += path
            // Files and addresses, of which there are none, and what is out of use.
            case "f", "F", "u", "U", "i", "d", "D", "n", "N", "v", "m": break
            default: throw Invalid(reason: "Exec has the unknown field code %\(code)")
            }
        }
        return result.isEmpty && hadCode ? [] : [result]
    }
}

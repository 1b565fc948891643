import SystemPackage

/// Reads policy files into rules, following includes, and collects every error.
struct PolicyParser {
    let files: any PolicyFiles
    let directories: PolicyDirectories
    private(set) var diagnostics: [PolicyDiagnostic] = []
    var policy = Policy()

    /// What the lines of a file are read with.
    struct Context {
        /// Relative includes are resolved against the directory of the outermost file.
        let base: String
        /// Service and argument of all rules of a file in the old format, with three fields a line.
        var oldFormat: (service: Int32, argument: Int32)?
        /// Whether `!compat-4.0` led here.
        var isLegacy = false
    }

    private var stack: [String] = []
    private var filesRead = 0
    private var isFull = false
    private var hasTooManyFiles = false
    /// Files that were read: one that is included for each of many services is read once.
    private var known: [PolicyFile: (number: Int32, bytes: [UInt8])] = [:]
    private var knownSize = 0
    /// The fields of the line at hand: offsets in the line. Kept to save allocations.
    var fields: [Range<Int>] = []

    init(files: any PolicyFiles, directories: PolicyDirectories) {
        self.files = files
        self.directories = directories
    }

    // MARK: Reports

    mutating func report(
        _ file: PolicyFile, _ line: Int, _ column: Int, found: String, expected: String,
        suggestion: String? = nil, severity: PolicyDiagnostic.Severity = .error
    ) {
        if diagnostics.count >= PolicyLimits.diagnostics {
            // Room for errors is made by warnings, so that an error is never the one left out.
            if severity == .warning { return }
            guard let warning = diagnostics.lastIndex(where: { $0.severity == .warning }) else {
                return
            }
            diagnostics.remove(at: warning)
        }
        diagnostics.append(
            PolicyDiagnostic(
                severity: severity, file: file, line: line, column: column, found: found,
                expected: expected, suggestion: suggestion))
    }

    func displayPath(_ path: String, base: String) -> String {
        path.hasPrefix(base + "/") ? String(path.dropFirst(base.count + 1)) : path
    }

    func number(of file: PolicyFile) -> Int32 {
        Int32(policy.files.lastIndex(of: file) ?? 0)
    }

    mutating func add(_ rule: Rule) {
        if policy.rules.count >= PolicyLimits.rules {
            if !isFull {
                isFull = true
                report(
                    policy.files[Int(rule.file)], Int(rule.line), 0, found: "one rule more",
                    expected: "at most \(PolicyLimits.rules) rules in all")
            }
            return
        }
        policy.rules.append(rule)
    }

    // MARK: Files

    /// Reads one file with all that it includes.
    ///
    /// - Parameter origin: the line that includes it, where a missing file is an error.
    mutating func parse(
        _ file: PolicyFile, _ context: Context, from origin: (PolicyFile, Int, Int)?
    ) {
        let place = origin ?? (file, 0, 0)
        if hasTooManyFiles || isFull { return }
        if stack.contains(file.path) {
            report(
                place.0, place.1, place.2,
                found: "an include of '\(file.display)', which includes this file",
                expected: "includes that come to an end")
            return
        }
        if stack.count >= PolicyLimits.includeDepth {
            report(
                place.0, place.1, place.2, found: "one include more",
                expected: "at most \(PolicyLimits.includeDepth) files inside each other")
            return
        }
        filesRead += 1
        if filesRead > PolicyLimits.files {
            hasTooManyFiles = true
            report(
                place.0, place.1, place.2, found: "one file more",
                expected: "at most \(PolicyLimits.files) files in all")
            return
        }
        guard let (number, bytes) = read(file, place) else { return }
        stack.append(file.path)
        parseLines(bytes, LineContext(file: file, number: number, context: context))
        stack.removeLast()
    }

    /// The number and the bytes of a file; nil, reported, when it cannot be read.
    private mutating func read(
        _ file: PolicyFile, _ place: (PolicyFile, Int, Int)
    ) -> (Int32, [UInt8])? {
        if let entry = known[file] { return (entry.number, entry.bytes) }
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try files.read(file.path, limit: PolicyLimits.fileSize)
        } catch {
            report(
                place.0, place.1, place.2, found: "'\(file.path)': \(error)",
                expected: error == .fileTooLarge
                    ? "a file of at most \(PolicyLimits.fileSize) bytes"
                    : "a file that can be read")
            return nil
        }
        let number = Int32(policy.files.count)
        policy.files.append(file)
        let directory = parentPath(file.path)
        if !policy.directories.contains(directory) { policy.directories.append(directory) }
        knownSize += bytes.count
        if knownSize <= PolicyLimits.fileSize { known[file] = (number, bytes) }
        return (number, bytes)
    }

    /// A file with the context its lines are read in.
    struct LineContext {
        let file: PolicyFile
        let number: Int32
        let context: Context
        var line = 0
    }

    private mutating func parseLines(_ bytes: [UInt8], _ context: LineContext) {
        var context = context
        var start = 0
        while start < bytes.count {
            var end = start
            var isASCII = true
            while end < bytes.count, bytes[end] != 0x0a {
                if bytes[end] >= 0x80 { isASCII = false }
                end += 1
            }
            context.line += 1
            parseLine(bytes, start..<end, isASCII: isASCII, context)
            start = end + 1
        }
    }

    private mutating func parseLine(
        _ bytes: [UInt8], _ whole: Range<Int>, isASCII: Bool, _ context: LineContext
    ) {
        if !isASCII, let column = invalidUTF8(bytes[whole]) {
            report(
                context.file, context.line, column, found: "bytes that are not UTF-8",
                expected: "text in UTF-8")
            return
        }
        var start = whole.lowerBound
        var end = whole.upperBound
        while start < end, isBlank(bytes[start]) { start += 1 }
        while end > start, isBlank(bytes[end - 1]) { end -= 1 }
        if start == end || bytes[start] == UInt8(ascii: "#") { return }
        if end - start > PolicyLimits.lineLength {
            report(
                context.file, context.line, 0, found: "a line of \(end - start) bytes",
                expected: "at most \(PolicyLimits.lineLength)")
            return
        }
        let line = LineText(
            bytes: context.context.oldFormat == nil
                ? Array(bytes[start..<end]) : modernized(bytes[start..<end]),
            indent: start - whole.lowerBound)
        if let column = line.bytes.firstIndex(where: { $0 < 0x20 && $0 != 0x09 || $0 == 0x7f }) {
            report(
                context.file, context.line, line.indent + column + 1,
                found: "the control character \(hexadecimal(line.bytes[column]))",
                expected: "text")
            return
        }
        split(line.bytes)
        if line.bytes[0] == UInt8(ascii: "!") || isOldInclude(line, context) {
            parseDirective(line, context)
        } else {
            parseRule(line, context)
        }
    }

    /// A line of the old format in the words of the new one: `$` is `@`, `,` is a blank.
    private func modernized(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        bytes.map { byte in
            switch byte {
            case UInt8(ascii: "$"): UInt8(ascii: "@")
            case UInt8(ascii: ","): UInt8(ascii: " ")
            default: byte
            }
        }
    }

    private func isOldInclude(_ line: LineText, _ context: LineContext) -> Bool {
        context.context.oldFormat != nil && line.bytes.span.starts(with: "@include:")
    }

    private mutating func split(_ line: [UInt8]) {
        fields.removeAll(keepingCapacity: true)
        var index = 0
        while index < line.count {
            while index < line.count, isBlank(line[index]) { index += 1 }
            let start = index
            while index < line.count, !isBlank(line[index]) { index += 1 }
            if index > start { fields.append(start..<index) }
        }
    }
}

/// A line without the blanks around it.
struct LineText {
    let bytes: [UInt8]
    /// Blanks before it, to count columns as the file has them.
    let indent: Int

    func text(_ field: Range<Int>) -> String { String(decoding: bytes[field], as: UTF8.self) }
    func column(_ field: Range<Int>) -> Int { indent + field.lowerBound + 1 }
    var end: Int { indent + bytes.count + 1 }
}

private func isBlank(_ byte: UInt8) -> Bool {
    byte == 0x20 || byte == 0x09 || byte == 0x0d || byte == 0x0b || byte == 0x0c
}

private func hexadecimal(_ byte: UInt8) -> String {
    (byte < 16 ? "0x0" : "0x") + String(byte, radix: 16)
}

/// The first byte, counted from 1, that no UTF-8 text has there.
private func invalidUTF8(_ bytes: ArraySlice<UInt8>) -> Int? {
    if String(validating: bytes, as: UTF8.self) != nil { return nil }
    var valid = 0
    var decoder = UTF8()
    var iterator = bytes.makeIterator()
    while case .scalarValue(let scalar) = decoder.decode(&iterator) {
        valid += UTF8.width(scalar)
    }
    return valid + 1
}

/// `A-Z a-z 0-9 - . _`
func isServiceByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."),
        UInt8(ascii: "_"):
        true
    default: false
    }
}

/// The characters of a service, and `+`.
func isArgumentByte(_ byte: UInt8) -> Bool { isServiceByte(byte) || byte == UInt8(ascii: "+") }

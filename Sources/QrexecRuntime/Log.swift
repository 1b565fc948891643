import LinuxSystem

/// A program's log: one line a fact, `key=value` fields after the text, to standard error or a
/// file. swift-log is not used here because these programs start once a call and log from the
/// path of a call; one line is one `write`, so lines of several processes never mix.
public struct Log: Sendable {
    public enum Level: Int, Sendable, Comparable {
        case debug, info, warning, error

        public static func < (left: Level, right: Level) -> Bool { left.rawValue < right.rawValue }

        var label: String {
            switch self {
            case .debug: "debug"
            case .info: "info"
            case .warning: "warning"
            case .error: "error"
            }
        }
    }

    /// The name in front of each line.
    public let program: String
    /// Lines below are dropped.
    public var threshold: Level = .info
    /// Where lines go; the program keeps it open as long as the log is used.
    public var descriptor: Int32 = 2
    /// Whether each line begins with the time (files and terminals; the journal adds its own).
    public var stampsTime = true

    /// Begins every line: program and process.
    private let origin: String
    /// Ends every line: what all of them are about.
    private var context = ""

    public init(program: String) {
        self.program = program
        origin = program + "[" + decimalText(UInt64(CurrentProcess.id)) + "]: "
    }

    /// The same log for one call, which every line names.
    public func about(domain: UInt32, port: UInt32) -> Log {
        var log = self
        log.context = " domain=\(domain) port=\(port)"
        return log
    }

    public func debug(_ text: String, _ fields: KeyValuePairs<String, String> = [:]) {
        write(.debug, text, fields)
    }
    public func info(_ text: String, _ fields: KeyValuePairs<String, String> = [:]) {
        write(.info, text, fields)
    }
    public func warning(_ text: String, _ fields: KeyValuePairs<String, String> = [:]) {
        write(.warning, text, fields)
    }
    public func error(_ text: String, _ fields: KeyValuePairs<String, String> = [:]) {
        write(.error, text, fields)
    }

    private func write(_ level: Level, _ text: String, _ fields: KeyValuePairs<String, String>) {
        if level < threshold { return }
        var line: [UInt8] = []
        line.reserveCapacity(320)
        if stampsTime {
            Timestamp.append(to: &line)
            line.append(0x20)
        }
        line += origin.utf8
        line += level.label.utf8
        line += ": ".utf8
        line += LogText.line(text).utf8
        for (key, value) in fields {
            line.append(0x20)
            line += key.utf8
            line.append(0x3D)
            line += LogText.value(value).utf8
        }
        line += context.utf8
        line.append(0x0A)
        // A log that cannot be written must not stop the program.
        try? Descriptor.writeAll(line, to: descriptor)
    }
}

/// Makes text that came from a qube harmless in a log: printable ASCII on one line.
public enum LogText {
    /// The longest value a line carries; what is longer is cut and marked.
    public static let maximumLength = 512

    /// Free text: control characters and non-ASCII become `_`.
    public static func line(_ text: String) -> String {
        if text.utf8.count <= maximumLength, text.utf8.allSatisfy(isPrintable) { return text }
        var result = ""
        var count = 0
        for byte in text.utf8 {
            count += 1
            if count > maximumLength * 2 { return result + "..." }
            result.unicodeScalars.append(
                (0x20...0x7E).contains(byte) ? Unicode.Scalar(byte) : Unicode.Scalar(0x5F))
        }
        return result
    }

    private static func isPrintable(_ byte: UInt8) -> Bool { (0x20...0x7E).contains(byte) }

    /// The whole text with control characters and non-ASCII as `_`.
    public static func printable(_ text: String) -> String {
        if text.utf8.allSatisfy(isPrintable) { return text }
        let bytes = text.utf8.map { isPrintable($0) ? $0 : 0x5F }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A field's value: quoted when it is empty or holds a blank, `"`, `=` or a backslash.
    public static func value(_ text: String) -> String {
        if isPlain(text) { return text }
        var body = ""
        var needsQuotes = text.isEmpty
        var count = 0
        for byte in text.utf8 {
            count += 1
            if count > maximumLength {
                body += "..."
                break
            }
            switch byte {
            case 0x22, 0x5C:
                needsQuotes = true
                body += "\\"
                body.unicodeScalars.append(Unicode.Scalar(byte))
            case 0x20, 0x3D:
                needsQuotes = true
                body.unicodeScalars.append(Unicode.Scalar(byte))
            case 0x21...0x7E:
                body.unicodeScalars.append(Unicode.Scalar(byte))
            default:
                body += "_"
            }
        }
        return needsQuotes ? "\"\(body)\"" : body
    }
}

extension LogText {
    /// Whether a value is shown as it is, as nearly all are.
    private static func isPlain(_ text: String) -> Bool {
        (1...maximumLength).contains(text.utf8.count)
            && text.utf8.allSatisfy {
                (0x21...0x7E).contains($0) && $0 != 0x22 && $0 != 0x3D && $0 != 0x5C
            }
    }
}

/// Wall-clock time as text.
public enum Timestamp {
    /// UTC in ISO 8601 with microseconds.
    public static var now: String {
        var bytes: [UInt8] = []
        append(to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Appends what `now` is.
    static func append(to bytes: inout [UInt8]) {
        let clock = CurrentProcess.wallClock
        append(seconds: clock.seconds, nanoseconds: clock.nanoseconds, to: &bytes)
    }

    static func text(seconds: Int, nanoseconds: Int) -> String {
        var bytes: [UInt8] = []
        append(seconds: seconds, nanoseconds: nanoseconds, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func append(seconds: Int, nanoseconds: Int, to bytes: inout [UInt8]) {
        let second = seconds % 86400
        let date = civil(daysSince1970: seconds / 86400)
        func append(_ value: Int, _ digits: Int, _ end: UInt8) {
            var unit = 1
            for _ in 1..<digits { unit *= 10 }
            while unit > 0 {
                bytes.append(UInt8(0x30 + value / unit % 10))
                unit /= 10
            }
            bytes.append(end)
        }
        append(date.year, 4, 0x2D)
        append(date.month, 2, 0x2D)
        append(date.day, 2, 0x54)
        append(second / 3600, 2, 0x3A)
        append(second / 60 % 60, 2, 0x3A)
        append(second % 60, 2, 0x2E)
        append(nanoseconds / 1000, 6, 0x5A)
    }

    /// What a line begins with, where that is such a time, as a number that orders times within a
    /// century.
    public static func microseconds(in line: [UInt8]) -> UInt64? {
        let form = Array("0000-00-00T00:00:00.000000Z".utf8)
        guard line.count >= form.count else { return nil }
        var value: UInt64 = 0
        for (index, expected) in form.enumerated() {
            let byte = line[index]
            if expected != 0x30 {
                guard byte == expected else { return nil }
                continue
            }
            guard (0x30...0x39).contains(byte) else { return nil }
            // The century would not fit.
            if index > 1 { value = value * 10 + UInt64(byte - 0x30) }
        }
        return value
    }

    /// The proleptic Gregorian date, counting eras of 400 years from 1 March.
    public static func civil(daysSince1970 days: Int) -> (year: Int, month: Int, day: Int) {
        let shifted = days + 719_468
        let era = shifted / 146_097
        let dayOfEra = shifted % 146_097
        let yearOfEra =
            (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day)
    }
}

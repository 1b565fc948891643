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

    /// Ends every line: what all of them are about.
    private var context = ""

    public init(program: String) { self.program = program }

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
        var line = stampsTime ? Timestamp.now + " " : ""
        line += "\(program)[\(CurrentProcess.id)]: \(level.label): \(LogText.line(text))"
        for (key, value) in fields { line += " \(key)=\(LogText.value(value))" }
        line += context + "\n"
        // A log that cannot be written must not stop the program.
        try? Descriptor.writeAll(Array(line.utf8), to: descriptor)
    }
}

/// Makes text that came from a qube harmless in a log: printable ASCII on one line.
public enum LogText {
    /// The longest value a line carries; what is longer is cut and marked.
    public static let maximumLength = 512

    /// Free text: control characters and non-ASCII become `_`.
    public static func line(_ text: String) -> String {
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

    /// The whole text with control characters and non-ASCII as `_`.
    public static func printable(_ text: String) -> String {
        if text.utf8.allSatisfy({ (0x20...0x7E).contains($0) }) { return text }
        let bytes = text.utf8.map { (0x20...0x7E).contains($0) ? $0 : 0x5F }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A field's value: quoted when it is empty or holds a blank, `"`, `=` or a backslash.
    public static func value(_ text: String) -> String {
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

/// Wall-clock time as text.
public enum Timestamp {
    /// UTC in ISO 8601 with milliseconds.
    public static var now: String {
        let clock = CurrentProcess.wallClock
        return text(seconds: clock.seconds, nanoseconds: clock.nanoseconds)
    }

    static func text(seconds: Int, nanoseconds: Int) -> String {
        let days = seconds / 86400
        let second = seconds % 86400
        let date = civil(daysSince1970: days)
        return "\(date.year)-\(two(date.month))-\(two(date.day))T\(two(second / 3600)):"
            + "\(two(second / 60 % 60)):\(two(second % 60)).\(three(nanoseconds / 1_000_000))Z"
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

    private static func two(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
    private static func three(_ value: Int) -> String {
        value < 100 ? "0" + two(value) : "\(value)"
    }
}

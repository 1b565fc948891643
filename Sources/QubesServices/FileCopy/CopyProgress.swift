import Glibc
import LinuxSystem

/// Tells a person or a desktop how far a copy is (PROGRESS_TYPE, specification 15.4).
struct CopyProgress {
    enum Style: Equatable {
        case none
        /// A line on a terminal that is written over, or now and then a line on anything else.
        case console(isTerminal: Bool)
        /// The number of bytes so far, one a line, to this descriptor.
        case machine(Int32)
    }

    private let style: Style
    /// Bytes in all; nil when nobody counted.
    private let total: UInt64?
    private var done: UInt64 = 0
    private let start: UInt64
    private var shown: UInt64

    private static let second: UInt64 = 1_000_000_000

    init(style: Style, total: UInt64?, now: UInt64 = CurrentProcess.now) {
        self.style = style
        self.total = total
        start = now
        shown = now
        if case .machine(let fd) = style { Self.emit("0\n", to: fd) }
    }

    /// What the environment asks for: PROGRESS_TYPE, SAVED_FD_1, FILECOPY_TOTAL_BYTES.
    static func fromEnvironment() -> CopyProgress {
        let total = CurrentProcess.variable("FILECOPY_TOTAL_BYTES").flatMap(UInt64.init)
        return CopyProgress(style: style(wanted: nil), total: total)
    }

    /// - Parameter wanted: what the command line says; nil leaves it to the environment.
    static func style(wanted: Bool?) -> Style {
        let isTerminal = isatty(2) == 1
        if let wanted { return wanted ? .console(isTerminal: isTerminal) : .none }
        switch CurrentProcess.variable("PROGRESS_TYPE") {
        case "gui":
            // Without another program in between, standard output is still the original one.
            let saved = CurrentProcess.variable("SAVED_FD_1").flatMap(Int32.init)
            return .machine(saved ?? 1)
        case "console": return .console(isTerminal: isTerminal)
        case nil: return isTerminal ? .console(isTerminal: true) : .none
        default: return .none
        }
    }

    mutating func add(_ bytes: UInt64) { done += bytes }
    mutating func takeBack(_ bytes: UInt64) { done -= bytes }

    /// Shows where the copy is, if that was some time ago.
    mutating func update() {
        if style == .none { return }
        let now = CurrentProcess.now
        let pause =
            style == .console(isTerminal: false) ? 10 * Self.second : Self.second / 5
        if now - shown < pause { return }
        shown = now
        show(now, isLast: false)
    }

    /// Shows the end of the copy.
    mutating func finish() {
        if style != .none { show(CurrentProcess.now, isLast: true) }
    }

    /// Ends the line that is written over, before something else is written.
    func clear() {
        if style == .console(isTerminal: true) { Self.emit("\r\u{1B}[K", to: 2) }
    }

    private func show(_ now: UInt64, isLast: Bool) {
        switch style {
        case .none: break
        case .machine(let fd): Self.emit("\(done)\n", to: fd)
        case .console(let isTerminal):
            let line = text(nanoseconds: now - start, isLast: isLast)
            let text = isTerminal ? "\r\u{1B}[K" + line + (isLast ? "\n" : "") : line + "\n"
            Self.emit(text, to: 2)
        }
    }

    private static func emit(_ text: String, to descriptor: Int32) {
        try? Descriptor.writeAll(Array(text.utf8), to: descriptor)
    }

    /// The line for a person: bytes, share, rate, time left.
    func text(nanoseconds: UInt64, isLast: Bool) -> String {
        let seconds = max(Double(nanoseconds) / Double(Self.second), 0.001)
        let rate = Double(done) / seconds
        var text = "sent " + Self.size(done)
        if let total, total > 0, !isLast {
            let share = min(100, done * 100 / total)
            text += " of \(Self.size(total)) (\(share) %)"
        }
        text += ", \(Self.size(UInt64(rate)))/s"
        if isLast { return text + ", \(Self.duration(UInt64(seconds.rounded())))" }
        if let total, total > done, rate > 0, seconds > 1 {
            text += ", \(Self.duration(UInt64(Double(total - done) / rate) + 1)) left"
        }
        return text
    }

    /// Bytes with a unit and one decimal.
    static func size(_ bytes: UInt64) -> String {
        if bytes < 1024 { return "\(bytes) B" }
        var value = bytes
        var unit = 0
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        while value >= 1024 * 1024 && unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return "\(value / 1024).\(value % 1024 * 10 / 1024) \(units[unit])"
    }

    static func duration(_ seconds: UInt64) -> String {
        func two(_ value: UInt64) -> String { value < 10 ? "0\(value)" : "\(value)" }
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60)
        let tail = two(seconds % 60)
        return hours > 0 ? "\(hours):\(two(minutes)):\(tail)" : "\(minutes):\(tail)"
    }
}

import Foundation
import LinuxSystem

/// What tools print: plain text, with colour only on a terminal.
enum Console {
    static func write(_ text: String) {
        try? Descriptor.writeAll(Array(text.utf8), to: 1)
    }

    static func line(_ text: String = "") { write(text + "\n") }

    static func error(_ text: String) {
        try? Descriptor.writeAll(Array((text + "\n").utf8), to: 2)
    }

    enum Colour: String {
        case green = "32"
        case red = "31"
        case yellow = "33"
        case bold = "1"
        case faint = "2"
    }

    private static let isColoured =
        isatty(1) == 1 && CurrentProcess.variable("NO_COLOR") == nil
        && CurrentProcess.variable("TERM") != "dumb"

    static func colour(_ text: String, _ colour: Colour) -> String {
        isColoured ? "\u{1b}[\(colour.rawValue)m\(text)\u{1b}[0m" : text
    }

    /// The word of an outcome in its colour.
    static func outcome(_ word: String) -> String {
        switch word {
        case "allow": colour(word, .green)
        case "deny": colour(word, .red)
        default: colour(word, .yellow)
        }
    }

    /// Reads one line; nil at the end of the input.
    static func readLine() -> String? { Swift.readLine() }
}

enum CurrentDirectory {
    static var path: String { FileManager.default.currentDirectoryPath }
}

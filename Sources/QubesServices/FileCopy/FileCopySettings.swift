import Glibc
import LinuxSystem
import SystemPackage

/// What the receiving qube decides about file copies: lines `key = value` in
/// `/etc/qubes/filecopy.conf`, then in `~/.config/qubes/filecopy.conf`, which wins.
///
/// * `existing = refuse` (default) or `rename`.
struct FileCopySettings: Equatable {
    var existing = ExistingFile.refuse

    private static let maximumSize = 64 * 1024

    /// Reads both files. One that cannot be used is reported and otherwise as if it was empty: the
    /// defaults are the cautious choice.
    static func load(home: String) -> FileCopySettings {
        var settings = FileCopySettings()
        for path in ["/etc/qubes/filecopy.conf", home + "/.config/qubes/filecopy.conf"] {
            do throws(Errno) {
                let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
                let text = String(decoding: try file.readAll(limit: maximumSize), as: UTF8.self)
                for problem in settings.apply(text) { complain(path, problem) }
            } catch .noSuchFileOrDirectory {
            } catch .notDirectory {
            } catch {
                complain(path, error.message)
            }
        }
        return settings
    }

    /// Takes the lines of one file and returns what is wrong with them, with line numbers.
    mutating func apply(_ text: String) -> [String] {
        var problems: [String] = []
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            let content = line.split(
                separator: "#", maxSplits: 1, omittingEmptySubsequences: false)[0]
            let fields = content.split(separator: "=", maxSplits: 1).map(trimmed)
            if fields.isEmpty || fields == [""] { continue }
            if fields.count == 2, fields[0] == "existing",
                let choice = ExistingFile(rawValue: fields[1])
            {
                existing = choice
            } else {
                problems.append(
                    "line \(index + 1): expected existing = refuse or existing = rename")
            }
        }
        return problems
    }

    private func trimmed(_ field: Substring) -> String {
        var result = field
        let isBlank: (Character) -> Bool = { $0 == " " || $0 == "\t" || $0 == "\"" || $0 == "\r" }
        while let last = result.last, isBlank(last) { result.removeLast() }
        while let first = result.first, isBlank(first) { result.removeFirst() }
        return String(result)
    }
}

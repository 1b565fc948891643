import Glibc
import LinuxSystem
import SystemPackage

/// Choices of the qube that offers a service: lines `key = value` with comments after `#`, in a file
/// of `/etc/qubes`, then in one of `~/.config/qubes`, which wins.
struct Settings: Equatable {
    /// Keys that mean something.
    private let keys: [String]
    private(set) var values: [String: String] = [:]

    private static let maximumSize = 64 * 1024

    init(keys: [String]) { self.keys = keys }

    /// Reads both files. What cannot be used is reported and otherwise as if it was not there.
    mutating func load(file: String, home: String) {
        for path in ["/etc/qubes/\(file)", "\(home)/.config/qubes/\(file)"] {
            do throws(Errno) {
                let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
                let bytes = try file.readAll(limit: Self.maximumSize)
                for problem in apply(String(decoding: bytes, as: UTF8.self)) {
                    complain(path, problem)
                }
            } catch .noSuchFileOrDirectory {
            } catch .notDirectory {
            } catch {
                complain(path, error.message)
            }
        }
    }

    /// Takes the lines of one file and returns what is wrong with them, with line numbers.
    mutating func apply(_ text: String) -> [String] {
        var problems: [String] = []
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            let content = line.prefix { $0 != "#" }
            let fields = content.split(separator: "=", maxSplits: 1).map(Self.trimmed)
            if fields.isEmpty || fields == [""] { continue }
            if fields.count == 2, keys.contains(fields[0]) {
                values[fields[0]] = fields[1]
            } else {
                let known = keys.map { "\($0) = …" }.joined(separator: " or ")
                problems.append("line \(index + 1): expected \(known)")
            }
        }
        return problems
    }

    private static func trimmed(_ field: Substring) -> String {
        var result = field
        let isBlank: (Character) -> Bool = { $0 == " " || $0 == "\t" || $0 == "\"" || $0 == "\r" }
        while let last = result.last, isBlank(last) { result.removeLast() }
        while let first = result.first, isBlank(first) { result.removeFirst() }
        return String(result)
    }
}

import TOMLKit

/// A mistake in a configuration file; line 0 when it belongs to none.
public struct SettingsMistake: Error, Sendable, Equatable, CustomStringConvertible {
    public let path: String
    public let line: Int
    public let reason: String

    public init(path: String, line: Int, reason: String) {
        self.path = path
        self.line = line
        self.reason = reason
    }

    public var description: String {
        line > 0 ? "\(path):\(line): \(reason)" : "\(path): \(reason)"
    }
}

/// A table of a configuration file in TOML: values of the kinds that the files of labs and hosts
/// have, and mistakes with the line that they are on.
public struct SettingsTable {
    public typealias Mistake = SettingsMistake

    /// Far above any real file; bounds the memory.
    public static let maximumSize = 1 << 20

    private let path: String
    private let lines: SettingsLines
    private let table: TOMLTable
    private let place: [String]

    /// A whole file.
    ///
    /// - Parameter path: for messages only.
    public init(_ text: String, path: String) throws(Mistake) {
        do {
            table = try TOMLTable(string: text)
        } catch let error as TOMLParseError {
            let line = error.source.begin.line
            throw Mistake(path: path, line: line, reason: error.description)
        } catch {
            throw Mistake(path: path, line: 0, reason: "\(error)")
        }
        self.path = path
        lines = SettingsLines(text)
        place = []
    }

    private init(_ table: TOMLTable, _ name: String, in outer: SettingsTable) {
        path = outer.path
        lines = outer.lines
        self.table = table
        place = outer.place + [name]
    }

    public var keys: [String] { table.keys }

    /// The keys in the order of the file.
    public var keysInOrder: [String] { lines.inOrder(keys, below: place) }

    /// A mistake of one key, or of the file.
    public func mistake(_ key: String?, _ reason: String) -> Mistake {
        guard let key else { return Mistake(path: path, line: 0, reason: reason) }
        return mistake(at: place + [key], reason)
    }

    /// A mistake at a place of the file, as keys from the outermost table on.
    public func mistake(at place: [String], _ reason: String) -> Mistake {
        Mistake(path: path, line: lines.line(of: place), reason: reason)
    }

    /// A table in this one; nil when there is none.
    ///
    /// - Parameter advice: what to write, to whoever wrote something else.
    public func table(_ key: String, _ advice: String) throws(Mistake) -> SettingsTable? {
        guard let value = table[key] else { return nil }
        guard let found = value.table else { throw mistake(key, advice) }
        return SettingsTable(found, key, in: self)
    }

    /// A string without a NUL.
    public func string(_ key: String) throws(Mistake) -> String {
        guard let text = table[key]?.string, !text.utf8.contains(0) else {
            throw mistake(key, "\(key) must be a string")
        }
        return text
    }

    public func bool(_ key: String) throws(Mistake) -> Bool {
        guard let value = table[key]?.bool else {
            throw mistake(key, "\(key) must be true or false")
        }
        return value
    }

    /// nil for what is no number.
    public func number(_ key: String) -> Int? { table[key]?.int }

    public func strings(_ key: String) throws(Mistake) -> [String] {
        guard let array = table[key]?.array else {
            throw mistake(key, "\(key) must be a list of strings")
        }
        var result: [String] = []
        for element in array {
            guard let text = element.string else {
                throw mistake(key, "\(key) must be a list of strings")
            }
            result.append(text)
        }
        return result
    }

    /// A qube's label.
    ///
    /// - Parameter known: those that there are.
    public func label(_ key: String, of known: [String]) throws(Mistake) -> String {
        let label = try string(key)
        guard known.contains(label) else {
            throw mistake(key, "no label '\(label)'; there are \(known.joined(separator: ", "))")
        }
        return label
    }

    /// Tags of a qube.
    public func tags(_ key: String) throws(Mistake) -> [String] {
        let tags = try strings(key)
        let others = Array("_-.:@".utf8)
        for tag in tags {
            guard !tag.isEmpty,
                tag.utf8.allSatisfy({ others.contains($0) || Self.isAlphanumeric($0) })
            else { throw mistake(key, "a tag has letters, digits, '_', '-', '.', ':' and '@'") }
        }
        return tags
    }

    /// Features of a qube: a table of strings.
    public func features(_ key: String) throws(Mistake) -> [String: String] {
        let advice = "\(key) must be a table of strings"
        guard let values = try table(key, advice) else { throw mistake(key, advice) }
        var features: [String: String] = [:]
        for name in values.keys {
            guard let value = values.table[name]?.string else {
                throw values.mistake(name, "feature \(name) must be a string")
            }
            features[name] = value
        }
        return features
    }

    /// The named disposable template of a qube is there, and is one.
    ///
    /// - Parameter isTemplate: nil when there is no qube of that name.
    public func checkTemplate(
        _ name: String, of qube: String, isTemplate: Bool?
    ) throws(Mistake) {
        let place = ["qubes", qube, "default_dispvm"]
        guard let isTemplate else { throw mistake(at: place, "no qube '\(name)'") }
        guard isTemplate else {
            throw mistake(at: place, "qube '\(name)' is not template_for_dispvms")
        }
    }

    public static func isAlphanumeric(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte)
            || (0x61...0x7A).contains(byte)
    }
}

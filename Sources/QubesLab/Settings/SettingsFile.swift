import QrexecDom0
import SettingsText
import TOMLKit

/// Reads lab.toml.
///
/// ```toml
/// default_qubes = true          # false: only the qubes of this file
/// [qubes.work]
/// label = "blue"
/// home_size = "64M"
/// ```
struct SettingsFile {
    /// A mistake in the file; line 0 when it belongs to none.
    struct Invalid: Error, Equatable, CustomStringConvertible {
        let path: String
        let line: Int
        let reason: String

        var description: String {
            line > 0 ? "\(path):\(line): \(reason)" : "\(path): \(reason)"
        }
    }

    /// Far above any real file; bounds the memory.
    static let maximumSize = 1 << 20

    private let path: String
    private let lines: SettingsLines

    /// - Parameter path: for messages only.
    static func parse(_ text: String, path: String) throws(Invalid) -> LabSettings {
        let table: TOMLTable
        do {
            table = try TOMLTable(string: text)
        } catch let error as TOMLParseError {
            let line = error.source.begin.line
            throw Invalid(path: path, line: line, reason: error.description)
        } catch {
            throw Invalid(path: path, line: 0, reason: "\(error)")
        }
        return try SettingsFile(path: path, lines: SettingsLines(text)).settings(table)
    }

    private func invalid(_ key: [String], _ reason: String) -> Invalid {
        Invalid(path: path, line: lines.line(of: key), reason: reason)
    }

    private func settings(_ table: TOMLTable) throws(Invalid) -> LabSettings {
        var settings = LabSettings.standard
        for key in table.keys where key != "qubes" && key != "default_qubes" {
            throw invalid([key], "unknown key '\(key)'; known are default_qubes and [qubes.NAME]")
        }
        if let value = table["default_qubes"] {
            guard let keep = value.bool else {
                throw invalid(["default_qubes"], "default_qubes must be true or false")
            }
            if !keep { settings.qubes.removeAll { !$0.isDom0 } }
        }
        if let value = table["qubes"] {
            guard let qubes = value.table else {
                throw invalid(["qubes"], "write each qube as a table [qubes.NAME]")
            }
            for name in lines.inOrder(qubes.keys, below: "qubes") {
                try addQube(name, qubes, &settings)
            }
        }
        try check(settings)
        return settings
    }

    private func addQube(
        _ name: String, _ qubes: TOMLTable, _ settings: inout LabSettings
    ) throws(Invalid) {
        if let problem = QubeSettings.problem(ofName: name) {
            throw invalid(["qubes", name], "qube name '\(name)' \(problem)")
        }
        guard let table = qubes[name]?.table else {
            throw invalid(["qubes", name], "write the qube as a table [qubes.\(name)]")
        }
        let index = settings.qubes.firstIndex { $0.name == name }
        var qube = index.map { settings.qubes[$0] } ?? QubeSettings(name: name)
        for key in table.keys {
            try apply(key, table, to: &qube)
        }
        if let index { settings.qubes[index] = qube } else { settings.qubes.append(qube) }
    }

    private func apply(
        _ key: String, _ table: TOMLTable, to qube: inout QubeSettings
    ) throws(Invalid) {
        let place = ["qubes", qube.name, key]
        let string = { () throws(Invalid) -> String in
            guard let text = table[key]?.string else {
                throw invalid(place, "\(key) must be a string")
            }
            return text
        }
        let bool = { () throws(Invalid) -> Bool in
            guard let value = table[key]?.bool else {
                throw invalid(place, "\(key) must be true or false")
            }
            return value
        }
        switch key {
        case "type":
            qube.type = try string()
            try checkType(qube, place)
        case "label":
            qube.label = try string()
            guard QubeSettings.labels.contains(qube.label) else {
                let known = QubeSettings.labels.joined(separator: ", ")
                throw invalid(place, "no label '\(qube.label)'; there are \(known)")
            }
        case "tags": qube.tags = try tags(table, place)
        case "features": qube.features = try features(table, place)
        case "template_for_dispvms": qube.isTemplateForDisposables = try bool()
        case "default_dispvm": qube.defaultDisposable = try string()
        case "autostart": qube.autostart = try bool()
        case "home_size":
            guard let size = Self.bytes(try string()) else {
                throw invalid(place, "home_size must be a number with K, M or G, such as \"64M\"")
            }
            qube.homeSize = size
        default:
            throw invalid(
                place,
                "unknown key '\(key)'; known are type, label, tags, features, "
                    + "template_for_dispvms, default_dispvm, autostart and home_size")
        }
    }

    private func checkType(_ qube: QubeSettings, _ place: [String]) throws(Invalid) {
        let types = ["AppVM", "TemplateVM", "StandaloneVM"]
        guard qube.isDom0 ? qube.type == "AdminVM" : types.contains(qube.type) else {
            let known = qube.isDom0 ? "AdminVM" : types.joined(separator: ", ")
            throw invalid(place, "type '\(qube.type)' cannot be had here; there is \(known)")
        }
    }

    private func tags(_ table: TOMLTable, _ place: [String]) throws(Invalid) -> [String] {
        guard let array = table["tags"]?.array else {
            throw invalid(place, "tags must be a list of strings")
        }
        var tags: [String] = []
        for element in array {
            let allowed = Array("_-.:@".utf8)
            guard let tag = element.string, !tag.isEmpty,
                tag.utf8.allSatisfy({ allowed.contains($0) || isAlphanumeric($0) })
            else { throw invalid(place, "a tag has letters, digits, '_', '-', '.', ':' and '@'") }
            tags.append(tag)
        }
        return tags
    }

    private func features(
        _ table: TOMLTable, _ place: [String]
    ) throws(Invalid) -> [String: String] {
        guard let values = table["features"]?.table else {
            throw invalid(place, "features must be a table of strings")
        }
        var features: [String: String] = [:]
        for name in values.keys {
            guard let value = values[name]?.string else {
                throw invalid(place + [name], "feature \(name) must be a string")
            }
            features[name] = value
        }
        return features
    }

    private func check(_ settings: LabSettings) throws(Invalid) {
        guard settings.qubes.count <= LabSettings.maximumDomains / 2 else {
            throw Invalid(
                path: path, line: 0,
                reason: "more than \(LabSettings.maximumDomains / 2) qubes; a lab has numbers for "
                    + "\(LabSettings.maximumDomains) domains, and needs some for disposables")
        }
        for qube in settings.qubes where !qube.defaultDisposable.isEmpty {
            let name = qube.defaultDisposable
            if name == "default-dvm", settings[name] == nil { continue }
            let place = ["qubes", qube.name, "default_dispvm"]
            guard let template = settings[name] else { throw invalid(place, "no qube '\(name)'") }
            guard template.isTemplateForDisposables else {
                throw invalid(place, "qube '\(name)' is not template_for_dispvms")
            }
        }
    }

    private func isAlphanumeric(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
    }

    /// `64M` in bytes; nil when it is no size from 64 KiB to 1 TiB.
    static func bytes(_ text: String) -> Int? {
        let units: [Character: Int] = ["K": 1 << 10, "M": 1 << 20, "G": 1 << 30]
        var digits = text[...]
        var unit = 1
        if let last = text.last, let known = units[last] {
            unit = known
            digits = text.dropLast()
        }
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            let number = Int(digits)
        else { return nil }
        let (size, overflow) = number.multipliedReportingOverflow(by: unit)
        return overflow || !((1 << 16)...(1 << 40)).contains(size) ? nil : size
    }
}

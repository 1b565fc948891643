import QrexecDom0
import QrexecProtocol
import SettingsText
import TOMLKit

/// Reads xl.toml.
///
/// ```toml
/// [host]
/// shutdown_timeout = 30
///
/// [qubes.work]
/// label = "blue"
/// xl = "/etc/xen/work.cfg"
/// ```
struct HostSettingsFile {
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
    private let machine: String

    /// - Parameters:
    ///   - path: for messages only.
    ///   - machine: what UUIDs are derived from.
    static func parse(
        _ text: String, path: String, machine: String = HostUUID.machine
    ) throws(Invalid) -> HostSettings {
        let table: TOMLTable
        do {
            table = try TOMLTable(string: text)
        } catch let error as TOMLParseError {
            let line = error.source.begin.line
            throw Invalid(path: path, line: line, reason: error.description)
        } catch {
            throw Invalid(path: path, line: 0, reason: "\(error)")
        }
        let file = HostSettingsFile(path: path, lines: SettingsLines(text), machine: machine)
        return try file.settings(table)
    }

    private func invalid(_ key: [String], _ reason: String) -> Invalid {
        Invalid(path: path, line: lines.line(of: key), reason: reason)
    }

    private func settings(_ table: TOMLTable) throws(Invalid) -> HostSettings {
        var settings = HostSettings()
        for key in table.keys where key != "qubes" && key != "host" {
            throw invalid([key], "unknown key '\(key)'; known are [host] and [qubes.NAME]")
        }
        if let value = table["host"] {
            guard let host = value.table else { throw invalid(["host"], "write [host]") }
            for key in host.keys { try apply(key, host, to: &settings) }
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

    // MARK: The host

    private func apply(
        _ key: String, _ table: TOMLTable, to settings: inout HostSettings
    ) throws(Invalid) {
        let place = ["host", key]
        switch key {
        case "xl": settings.xl = try absolutePath(key, table, place)
        case "state": settings.stateDirectory = try absolutePath(key, table, place)
        case "create_timeout": settings.createPatience = try time(key, table, place)
        case "start_timeout": settings.startPatience = try time(key, table, place)
        case "shutdown_timeout": settings.shutdownPatience = try time(key, table, place)
        default:
            throw invalid(
                place,
                "unknown key '\(key)'; known are xl, state, create_timeout, start_timeout and "
                    + "shutdown_timeout")
        }
    }

    private func time(
        _ key: String, _ table: TOMLTable, _ place: [String]
    ) throws(Invalid) -> UInt64 {
        guard let value = table[key]?.int, (1...86400).contains(value) else {
            throw invalid(place, "\(key) must be a number of seconds, from 1 to 86400")
        }
        return UInt64(value)
    }

    // MARK: Qubes

    private func addQube(
        _ name: String, _ qubes: TOMLTable, _ settings: inout HostSettings
    ) throws(Invalid) {
        let place = ["qubes", name]
        guard Names.isDomainName(name) else {
            throw invalid(
                place,
                "'\(name)' is no qube's name: 1 to 31 letters, digits, '_', '.' and '-', first a "
                    + "letter; not none, default, Domain-0, nor ending in -dm")
        }
        guard let table = qubes[name]?.table else {
            throw invalid(place, "write the qube as a table [qubes.\(name)]")
        }
        let index = settings.qubes.firstIndex { $0.name == name }
        var qube = index.map { settings.qubes[$0] } ?? HostQubeSettings(name: name)
        for key in table.keys { try apply(key, table, to: &qube) }
        if qube.uuid.isEmpty { qube.uuid = HostUUID.derived(from: name, machine: machine) }
        if let index { settings.qubes[index] = qube } else { settings.qubes.append(qube) }
    }

    private func apply(
        _ key: String, _ table: TOMLTable, to qube: inout HostQubeSettings
    ) throws(Invalid) {
        let place = ["qubes", qube.name, key]
        let forDom0 = ["label", "tags", "features", "default_dispvm", "guivm"]
        guard !qube.isDom0 || forDom0.contains(key) else {
            let known = forDom0.joined(separator: ", ")
            throw invalid(place, "dom0 has no '\(key)'; known are \(known)")
        }
        switch key {
        case "type": qube.type = try type(table, place)
        case "label":
            qube.label = try string(key, table, place)
            guard HostQubeSettings.labels.contains(qube.label) else {
                let known = HostQubeSettings.labels.joined(separator: ", ")
                throw invalid(place, "no label '\(qube.label)'; there are \(known)")
            }
        case "tags": qube.tags = try tags(table, place)
        case "features": qube.features = try features(table, place)
        case "template_for_dispvms": qube.isTemplateForDisposables = try bool(key, table, place)
        case "default_dispvm": qube.defaultDisposable = try string(key, table, place)
        case "autostart": qube.autostart = try bool(key, table, place)
        case "default_user": qube.defaultUser = try user(table, place)
        case "qrexec": qube.hasAgent = try bool(key, table, place)
        case "guivm": qube.guiQube = try string(key, table, place)
        case "xl": qube.configuration = try absolutePath(key, table, place)
        case "xl_settings": qube.additions = try additions(table, place)
        case "uuid":
            guard let uuid = HostUUID.parsed(try string(key, table, place)), uuid != HostUUID.zero
            else { throw invalid(place, "uuid must be 8-4-4-4-12 hexadecimal digits, not all 0") }
            qube.uuid = uuid
        default:
            throw invalid(
                place,
                "unknown key '\(key)'; known are type, label, tags, features, xl, xl_settings, "
                    + "template_for_dispvms, default_dispvm, autostart, default_user, qrexec, "
                    + "guivm and uuid")
        }
    }

    private func string(
        _ key: String, _ table: TOMLTable, _ place: [String]
    ) throws(Invalid) -> String {
        guard let text = table[key]?.string, !text.utf8.contains(0) else {
            throw invalid(place, "\(key) must be a string")
        }
        return text
    }

    private func bool(
        _ key: String, _ table: TOMLTable, _ place: [String]
    ) throws(Invalid) -> Bool {
        guard let value = table[key]?.bool else {
            throw invalid(place, "\(key) must be true or false")
        }
        return value
    }

    private func absolutePath(
        _ key: String, _ table: TOMLTable, _ place: [String]
    ) throws(Invalid) -> String {
        let text = try string(key, table, place)
        guard text.hasPrefix("/") else { throw invalid(place, "\(key) must be a path from /") }
        return text
    }

    private func type(
        _ table: TOMLTable, _ place: [String]
    ) throws(Invalid) -> QubeRecord.Class {
        let known: [QubeRecord.Class] = [.app, .template, .standalone]
        let text = try string("type", table, place)
        guard let type = known.first(where: { $0.rawValue == text }) else {
            let names = known.map(\.rawValue).joined(separator: ", ")
            throw invalid(place, "type '\(text)' cannot be had here; there are \(names)")
        }
        return type
    }

    private func user(_ table: TOMLTable, _ place: [String]) throws(Invalid) -> String {
        let text = try string("default_user", table, place)
        let allowed = Array("_.-".utf8)
        guard !text.isEmpty, text.first != "-",
            text.utf8.allSatisfy({ allowed.contains($0) || isAlphanumeric($0) })
        else { throw invalid(place, "'\(text)' is no user's name") }
        return text
    }

    private func strings(
        _ key: String, _ table: TOMLTable, _ place: [String]
    ) throws(Invalid) -> [String] {
        guard let array = table[key]?.array else {
            throw invalid(place, "\(key) must be a list of strings")
        }
        var result: [String] = []
        for element in array {
            guard let text = element.string else {
                throw invalid(place, "\(key) must be a list of strings")
            }
            result.append(text)
        }
        return result
    }

    private func tags(_ table: TOMLTable, _ place: [String]) throws(Invalid) -> [String] {
        let tags = try strings("tags", table, place)
        let allowed = Array("_-.:@".utf8)
        for tag in tags {
            guard !tag.isEmpty, tag.utf8.allSatisfy({ allowed.contains($0) || isAlphanumeric($0) })
            else { throw invalid(place, "a tag has letters, digits, '_', '-', '.', ':' and '@'") }
        }
        return tags
    }

    /// Settings that the manager makes itself are not for the file.
    private func additions(_ table: TOMLTable, _ place: [String]) throws(Invalid) -> [String] {
        let additions = try strings("xl_settings", table, place)
        for text in additions {
            let key: String?
            do throws(XLConfiguration.Invalid) {
                key = try XLConfiguration(text).settings.first?.name
            } catch {
                throw invalid(place, "'\(text)' is no setting of xl: \(error.reason)")
            }
            guard let key else { throw invalid(place, "'\(text)' is no setting of xl") }
            if ["name", "uuid", "disk"].contains(key) {
                throw invalid(place, "'\(key)' is set by the manager; disks are set in the xl file")
            }
        }
        return additions
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

    // MARK: All together

    private func check(_ settings: HostSettings) throws(Invalid) {
        guard settings.qubes.count <= HostSettings.maximumQubes else {
            throw Invalid(
                path: path, line: 0, reason: "more than \(HostSettings.maximumQubes) qubes")
        }
        var seen: [String: String] = [:]
        for qube in settings.qubes {
            if let other = seen.updateValue(qube.name, forKey: qube.uuid) {
                throw invalid(["qubes", qube.name, "uuid"], "'\(other)' has the same uuid")
            }
            if let name = qube.defaultDisposable, !name.isEmpty {
                let place = ["qubes", qube.name, "default_dispvm"]
                guard let template = settings[name] else {
                    throw invalid(place, "no qube '\(name)'")
                }
                guard template.isTemplateForDisposables else {
                    throw invalid(place, "qube '\(name)' is not template_for_dispvms")
                }
            }
            if !qube.guiQube.isEmpty, settings[qube.guiQube] == nil {
                throw invalid(["qubes", qube.name, "guivm"], "no qube '\(qube.guiQube)'")
            }
        }
    }

    private func isAlphanumeric(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
    }
}

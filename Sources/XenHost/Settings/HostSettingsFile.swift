import QrexecDom0
import QrexecProtocol
import SettingsText

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
    typealias Invalid = SettingsMistake

    private let root: SettingsTable
    private let machine: String

    /// - Parameters:
    ///   - path: for messages only.
    ///   - machine: what UUIDs are derived from.
    static func parse(
        _ text: String, path: String, machine: String = HostUUID.machine
    ) throws(Invalid) -> HostSettings {
        let root = try SettingsTable(text, path: path)
        return try HostSettingsFile(root: root, machine: machine).settings()
    }

    private func settings() throws(Invalid) -> HostSettings {
        var settings = HostSettings()
        for key in root.keys where key != "qubes" && key != "host" {
            throw root.mistake(key, "unknown key '\(key)'; known are [host] and [qubes.NAME]")
        }
        if let host = try root.table("host", "write [host]") {
            for key in host.keys { try apply(key, host, to: &settings) }
        }
        if let qubes = try root.table("qubes", "write each qube as a table [qubes.NAME]") {
            for name in qubes.keysInOrder { try addQube(name, qubes, &settings) }
        }
        try check(settings)
        return settings
    }

    // MARK: The host

    private func apply(
        _ key: String, _ table: SettingsTable, to settings: inout HostSettings
    ) throws(Invalid) {
        switch key {
        case "xl": settings.xl = try absolutePath(key, table)
        case "state": settings.stateDirectory = try absolutePath(key, table)
        case "create_timeout": settings.createPatience = try time(key, table)
        case "start_timeout": settings.startPatience = try time(key, table)
        case "shutdown_timeout": settings.shutdownPatience = try time(key, table)
        default:
            throw table.mistake(
                key,
                "unknown key '\(key)'; known are xl, state, create_timeout, start_timeout and "
                    + "shutdown_timeout")
        }
    }

    private func time(_ key: String, _ table: SettingsTable) throws(Invalid) -> UInt64 {
        guard let value = table.number(key), (1...86400).contains(value) else {
            throw table.mistake(key, "\(key) must be a number of seconds, from 1 to 86400")
        }
        return UInt64(value)
    }

    // MARK: Qubes

    private func addQube(
        _ name: String, _ qubes: SettingsTable, _ settings: inout HostSettings
    ) throws(Invalid) {
        guard Names.isDomainName(name) else {
            throw qubes.mistake(
                name,
                "'\(name)' is no qube's name: 1 to 31 letters, digits, '_', '.' and '-', first a "
                    + "letter; not none, default, Domain-0, nor ending in -dm")
        }
        guard let table = try qubes.table(name, "write the qube as a table [qubes.\(name)]") else {
            return
        }
        let index = settings.qubes.firstIndex { $0.name == name }
        var qube = index.map { settings.qubes[$0] } ?? HostQubeSettings(name: name)
        for key in table.keys { try apply(key, table, to: &qube) }
        if qube.uuid.isEmpty { qube.uuid = HostUUID.derived(from: name, machine: machine) }
        if let index { settings.qubes[index] = qube } else { settings.qubes.append(qube) }
    }

    private func apply(
        _ key: String, _ table: SettingsTable, to qube: inout HostQubeSettings
    ) throws(Invalid) {
        let forDom0 = ["label", "tags", "features", "default_dispvm", "guivm"]
        guard !qube.isDom0 || forDom0.contains(key) else {
            let known = forDom0.joined(separator: ", ")
            throw table.mistake(key, "dom0 has no '\(key)'; known are \(known)")
        }
        switch key {
        case "type": qube.type = try type(table)
        case "label": qube.label = try table.label(key, of: QubeRecord.labels)
        case "tags": qube.tags = try table.tags(key)
        case "features": qube.features = try table.features(key)
        case "template_for_dispvms": qube.isTemplateForDisposables = try table.bool(key)
        case "default_dispvm": qube.defaultDisposable = try table.string(key)
        case "autostart": qube.autostart = try table.bool(key)
        case "default_user": qube.defaultUser = try user(table)
        case "qrexec": qube.hasAgent = try table.bool(key)
        case "guivm": qube.guiQube = try table.string(key)
        case "xl": qube.configuration = try absolutePath(key, table)
        case "xl_settings": qube.additions = try additions(table)
        case "uuid":
            guard let uuid = HostUUID.parsed(try table.string(key)), uuid != HostUUID.zero else {
                throw table.mistake(key, "uuid must be 8-4-4-4-12 hexadecimal digits, not all 0")
            }
            qube.uuid = uuid
        default:
            throw table.mistake(
                key,
                "unknown key '\(key)'; known are type, label, tags, features, xl, xl_settings, "
                    + "template_for_dispvms, default_dispvm, autostart, default_user, qrexec, "
                    + "guivm and uuid")
        }
    }

    private func absolutePath(
        _ key: String, _ table: SettingsTable
    ) throws(Invalid) -> String {
        let text = try table.string(key)
        guard text.hasPrefix("/") else { throw table.mistake(key, "\(key) must be a path from /") }
        return text
    }

    private func type(_ table: SettingsTable) throws(Invalid) -> QubeRecord.Class {
        let known: [QubeRecord.Class] = [.app, .template, .standalone]
        let text = try table.string("type")
        guard let type = known.first(where: { $0.rawValue == text }) else {
            let names = known.map(\.rawValue).joined(separator: ", ")
            throw table.mistake(
                "type", "type '\(text)' cannot be had here; there are \(names)")
        }
        return type
    }

    private func user(_ table: SettingsTable) throws(Invalid) -> String {
        let text = try table.string("default_user")
        let others = Array("_.-".utf8)
        guard !text.isEmpty, text.first != "-",
            text.utf8.allSatisfy({ others.contains($0) || SettingsTable.isAlphanumeric($0) })
        else { throw table.mistake("default_user", "'\(text)' is no user's name") }
        return text
    }

    /// Settings that the manager makes itself are not for the file.
    private func additions(_ table: SettingsTable) throws(Invalid) -> [String] {
        let key = "xl_settings"
        let additions = try table.strings(key)
        for text in additions {
            let name: String?
            do throws(XLConfiguration.Invalid) {
                name = try XLConfiguration(text).settings.first?.name
            } catch {
                throw table.mistake(key, "'\(text)' is no setting of xl: \(error.reason)")
            }
            guard let name else { throw table.mistake(key, "'\(text)' is no setting of xl") }
            if ["name", "uuid", "disk"].contains(name) {
                throw table.mistake(
                    key, "'\(name)' is set by the manager; disks are set in the xl file")
            }
        }
        return additions
    }

    // MARK: All together

    private func check(_ settings: HostSettings) throws(Invalid) {
        guard settings.qubes.count <= HostSettings.maximumQubes else {
            throw root.mistake(nil, "more than \(HostSettings.maximumQubes) qubes")
        }
        var seen: [String: String] = [:]
        for qube in settings.qubes {
            let place = ["qubes", qube.name]
            if let other = seen.updateValue(qube.name, forKey: qube.uuid) {
                throw root.mistake(at: place + ["uuid"], "'\(other)' has the same uuid")
            }
            if let name = qube.defaultDisposable, !name.isEmpty {
                try root.checkTemplate(
                    name, of: qube.name, isTemplate: settings[name]?.isTemplateForDisposables)
            }
            if !qube.guiQube.isEmpty, settings[qube.guiQube] == nil {
                throw root.mistake(at: place + ["guivm"], "no qube '\(qube.guiQube)'")
            }
        }
    }
}

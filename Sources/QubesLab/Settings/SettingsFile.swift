import QrexecDom0
import SettingsText

/// Reads lab.toml.
///
/// ```toml
/// default_qubes = true          # false: only the qubes of this file
/// [qubes.work]
/// label = "blue"
/// home_size = "64M"
/// ```
struct SettingsFile {
    typealias Invalid = SettingsMistake

    private let root: SettingsTable

    /// - Parameter path: for messages only.
    static func parse(_ text: String, path: String) throws(Invalid) -> LabSettings {
        try SettingsFile(root: SettingsTable(text, path: path)).settings()
    }

    private func settings() throws(Invalid) -> LabSettings {
        var settings = LabSettings.standard
        for key in root.keys where key != "qubes" && key != "default_qubes" {
            throw root.mistake(
                key, "unknown key '\(key)'; known are default_qubes and [qubes.NAME]")
        }
        if root.keys.contains("default_qubes"), try !root.bool("default_qubes") {
            settings.qubes.removeAll { !$0.isDom0 }
        }
        if let qubes = try root.table("qubes", "write each qube as a table [qubes.NAME]") {
            for name in qubes.keysInOrder { try addQube(name, qubes, &settings) }
        }
        try check(settings)
        return settings
    }

    private func addQube(
        _ name: String, _ qubes: SettingsTable, _ settings: inout LabSettings
    ) throws(Invalid) {
        if let problem = QubeSettings.problem(ofName: name) {
            throw qubes.mistake(name, "qube name '\(name)' \(problem)")
        }
        guard let table = try qubes.table(name, "write the qube as a table [qubes.\(name)]") else {
            return
        }
        let index = settings.qubes.firstIndex { $0.name == name }
        var qube = index.map { settings.qubes[$0] } ?? QubeSettings(name: name)
        for key in table.keys {
            try apply(key, table, to: &qube)
        }
        if let index { settings.qubes[index] = qube } else { settings.qubes.append(qube) }
    }

    private func apply(
        _ key: String, _ table: SettingsTable, to qube: inout QubeSettings
    ) throws(Invalid) {
        switch key {
        case "type":
            qube.type = try table.string(key)
            try checkType(qube, table)
        case "label": qube.label = try table.label(key, of: QubeRecord.labels)
        case "tags": qube.tags = try table.tags(key)
        case "features": qube.features = try table.features(key)
        case "template_for_dispvms": qube.isTemplateForDisposables = try table.bool(key)
        case "default_dispvm": qube.defaultDisposable = try table.string(key)
        case "autostart": qube.autostart = try table.bool(key)
        case "home_size":
            guard let size = Self.bytes(try table.string(key)) else {
                throw table.mistake(
                    key, "home_size must be a number with K, M or G, such as \"64M\"")
            }
            qube.homeSize = size
        default:
            throw table.mistake(
                key,
                "unknown key '\(key)'; known are type, label, tags, features, "
                    + "template_for_dispvms, default_dispvm, autostart and home_size")
        }
    }

    private func checkType(_ qube: QubeSettings, _ table: SettingsTable) throws(Invalid) {
        let types = ["AppVM", "TemplateVM", "StandaloneVM"]
        guard qube.isDom0 ? qube.type == "AdminVM" : types.contains(qube.type) else {
            let known = qube.isDom0 ? "AdminVM" : types.joined(separator: ", ")
            throw table.mistake(
                "type", "type '\(qube.type)' cannot be had here; there is \(known)")
        }
    }

    private func check(_ settings: LabSettings) throws(Invalid) {
        guard settings.qubes.count <= LabSettings.maximumDomains / 2 else {
            throw root.mistake(
                nil,
                "more than \(LabSettings.maximumDomains / 2) qubes; a lab has numbers for "
                    + "\(LabSettings.maximumDomains) domains, and needs some for disposables")
        }
        for qube in settings.qubes where !qube.defaultDisposable.isEmpty {
            let name = qube.defaultDisposable
            if name == "default-dvm", settings[name] == nil { continue }
            try root.checkTemplate(
                name, of: qube.name, isTemplate: settings[name]?.isTemplateForDisposables)
        }
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

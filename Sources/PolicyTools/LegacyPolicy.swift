import Foundation
import QrexecPolicy
import SystemPackage

/// Rules in the format of Qubes OS 4.0, rewritten as one file of the present format.
struct LegacyPolicy {
    /// Lines of the new file; none when there are no old rules.
    let lines: [String]
    let rules: Int
    /// What cannot be read.
    let errors: [PolicyDiagnostic]

    /// Where the converted rules go: right before the file that reads the old ones, so their order
    /// among all rules stays.
    static let fileName = "35-compat-converted"

    /// Reads a directory with a file for each service.
    init(_ directory: String) {
        let place = "/converted"
        let files = OverlayPolicyFiles(
            DiskPolicyFiles(),
            changes: ["\(place)/only.policy": Array("!compat-4.0\n".utf8)])
        let result = Policy.load(
            PolicyDirectories([place], legacy: directory),
            files: DirectoryOverlay(base: files, directory: place, names: ["only.policy"]))
        errors = result.errors
        rules = result.policy.ruleCount
        var lines: [String] = []
        var path = ""
        for number in 0..<result.policy.ruleCount {
            let rule = result.policy.description(of: number)
            if rule.location.file.path != path {
                path = rule.location.file.path
                lines += ["", "# from \(path)"]
            }
            lines.append(rule.text)
        }
        if !lines.isEmpty {
            lines.insert("# Rules of the old format, converted; they count where they did.", at: 0)
        }
        self.lines = lines
    }

    var contents: [UInt8] { Array(lines.map { $0 + "\n" }.joined().utf8) }
}

/// Policy files with a directory that does not exist on the disk.
private struct DirectoryOverlay: PolicyFiles {
    let base: OverlayPolicyFiles
    let directory: String
    let names: [String]

    func entries(of path: String) throws(Errno) -> [PolicyDirectoryEntry] {
        if path != directory { return try base.entries(of: path) }
        return names.map { PolicyDirectoryEntry(name: $0, isRegularFile: true) }
    }

    func read(_ path: String, limit: Int) throws(Errno) -> [UInt8] {
        try base.read(path, limit: limit)
    }
}

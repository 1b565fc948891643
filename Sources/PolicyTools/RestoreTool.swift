import ArgumentParser
import LinuxSystem
import QrexecDom0
import QrexecPolicy
import QrexecRuntime

/// `qrexec-policy-restore`: takes policy files over from a backup.
struct RestoreTool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "qrexec-policy-restore",
        abstract: "Restore policy files from a backup, converting rules of the old format.",
        discussion: """
            DIR is a copy of dom0's files (with etc/qubes/policy.d and etc/qubes-rpc/policy) or \
            of the policy directory itself. All files are taken over or none: the whole policy \
            must load with them. Earlier versions are kept. Exit status: 0 done, 1 refused, 64 \
            usage.
            """,
        version: Version.line("qrexec-policy-restore"))

    @Option(help: ArgumentHelp("The policy directory to restore to.", valueName: "DIR"))
    var dest: String?

    @Argument(help: ArgumentHelp("The backup.", valueName: "DIR"))
    var directory: String

    func run() throws {
        try reportingFailures {
            let admin = dest.map { PolicyAdmin(directory: absolutePath($0)) } ?? PolicyAdmin()
            var files = try currentFiles()
            if let old = firstDirectory(["etc/qubes-rpc/policy", "qubes-rpc/policy"]) {
                let converted = LegacyPolicy(old)
                if !converted.errors.isEmpty {
                    for error in converted.errors { Console.error(error.description) }
                    throw PolicyAccess.RemoteFailure(
                        "the old rules have errors; nothing was changed")
                }
                if converted.rules > 0 {
                    let file = try PolicyAdmin.File(LegacyPolicy.fileName, isInclude: false)
                    files.append((file, converted.contents))
                }
            }
            if files.isEmpty {
                throw PolicyAccess.RemoteFailure("\(directory) has no policy files")
            }
            var changes: [String: [UInt8]?] = [:]
            for (file, contents) in files { changes[admin.path(file)] = contents }
            try admin.checkChange(changes)
            // Included files first: no moment in which a file includes one that is not there.
            for (file, contents) in files.sorted(by: { $0.0.isInclude && !$1.0.isInclude }) {
                if (try? admin.get(file)) == contents { continue }
                try PolicyHistory(admin).keep(file)
                try admin.replace(file, with: contents, token: "any")
                Console.line("restored \(file.path)")
            }
        }
    }

    private func firstDirectory(_ names: [String]) -> String? {
        for name in names {
            let path = absolutePath(directory) + "/" + name
            if (try? FileStatus.kind(of: path)) == .directory { return path }
        }
        return nil
    }

    /// Files of the present format in the backup.
    private func currentFiles() throws -> [(PolicyAdmin.File, [UInt8])] {
        let root =
            firstDirectory(["etc/qubes/policy.d", "qubes/policy.d", "policy.d"])
            ?? absolutePath(directory)
        let disk = DiskPolicyFiles()
        var files: [(PolicyAdmin.File, [UInt8])] = []
        for folder in ["", "/include"] {
            guard let entries = try? disk.entries(of: root + folder) else { continue }
            for entry in entries where entry.isRegularFile && !entry.name.hasPrefix(".") {
                let isInclude = !folder.isEmpty
                if !isInclude && !entry.name.hasSuffix(".policy") { continue }
                let name = isInclude ? entry.name : String(entry.name.dropLast(7))
                let contents = try disk.read(
                    "\(root)\(folder)/\(entry.name)", limit: PolicyLimits.fileSize)
                files.append((try PolicyAdmin.File(name, isInclude: isInclude), contents))
            }
        }
        return files
    }
}

import ArgumentParser
import Foundation
import LinuxSystem
import QrexecDom0
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// `qubes-policy-editor`: edits a policy file, checks it, shows what changes, and commits.
struct EditorTool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "qubes-policy-editor",
        abstract: "Edit a policy file; it is checked before it comes into force.",
        discussion: """
            Starts $VISUAL, $EDITOR or vi. While the text has errors it can be edited again (e) \
            or given up (q). What the change does is shown before it is made, and every earlier \
            version is kept.

            Exit status: 0 done or nothing to do, 1 given up or refused, 64 usage.
            """,
        version: Version.line("qubes-policy-editor"))

    @Argument(help: ArgumentHelp("The file, without .policy.", valueName: "[include/]FILE"))
    var name = "30-user"

    @Flag(name: .shortAndLong, help: "Make the change without a question.") var yes = false
    @Flag(help: "List the earlier versions of the file.") var versions = false
    @Option(
        help: ArgumentHelp("Go back to an earlier version; 0 is the last one.", valueName: "N"))
    var back: Int?
    @OptionGroup var input: PolicyInput

    func run() throws {
        try reportingFailures {
            let reference = try PolicyFileReference(name)
            let access = try input.access()
            let history = access.local.map { PolicyHistory($0) }
            if versions { return listVersions(history, reference) }
            let lock = try access.local.map { try self.lock($0, reference) }
            defer { _ = lock }
            var (token, contents) = ("new", [UInt8]())
            do {
                (token, contents) = try access.get(reference)
            } catch let failure as PolicyAdmin.Failure where failure.kind == .notFound {
            } catch let failure as PolicyAccess.RemoteFailure where failure.isRefusedByService {
                // A file that is there is refused by its token later.
            }
            let edited =
                try back.map { try version($0, history, reference) }
                ?? edit(reference, contents, access)
            guard let edited, edited != contents else {
                Console.line("Nothing was changed.")
                return
            }
            try history?.keep(reference.file)
            try access.replace(reference, with: edited, token: token)
            Console.line("\(reference.file.path) is in force.")
        }
    }

    /// Holds the lock of one file's versions, so that two people do not edit it at once.
    private func lock(
        _ admin: PolicyAdmin, _ reference: PolicyFileReference
    ) throws -> EditLock {
        let directory = PolicyHistory(admin).directory(reference.file)
        do throws(Errno) {
            try FileChange.makeDirectories(directory, mode: 0o700)
            return EditLock(try FileLock(directory, wait: false))
        } catch {
            let reason =
                error == .resourceTemporarilyUnavailable
                ? "somebody else is editing this file" : "\(directory): \(error)"
            throw PolicyAccess.RemoteFailure(reason)
        }
    }

    /// Keeps a lock for as long as it lives.
    private final class EditLock {
        let lock: FileLock
        init(_ lock: consuming FileLock) { self.lock = lock }
    }

    // MARK: Versions

    private func listVersions(_ history: PolicyHistory?, _ reference: PolicyFileReference) {
        let versions = history?.versions(reference.file) ?? []
        if versions.isEmpty { Console.line("There is no earlier version of this file.") }
        let format = ISO8601DateFormatter()
        for version in versions {
            let size = history?.contents(version)?.count ?? 0
            Console.line(
                "\(version.number)  kept \(format.string(from: version.date))  \(size) bytes")
        }
    }

    private func version(
        _ number: Int, _ history: PolicyHistory?, _ reference: PolicyFileReference
    ) throws -> [UInt8]? {
        let versions = history?.versions(reference.file) ?? []
        let wanted = number == 0 ? versions.last : versions.first { $0.number == number }
        guard let wanted, let contents = history?.contents(wanted) else {
            throw PolicyAccess.RemoteFailure(
                number == 0
                    ? "there is no earlier version"
                    : "there is no version \(number); see --versions")
        }
        Console.line("Going back to version \(wanted.number).")
        return contents
    }

    // MARK: Editing

    /// - Returns: nil when it was given up without a change.
    private func edit(
        _ reference: PolicyFileReference, _ contents: [UInt8], _ access: PolicyAccess
    ) throws -> [UInt8]? {
        let directory = NSTemporaryDirectory() + "qubes-policy-" + UUID().uuidString
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let suffix = reference.file.isInclude ? "" : ".policy"
        let path = directory + "/" + reference.file.name + suffix
        try Data(contents).write(to: URL(fileURLWithPath: path))
        while true {
            try startEditor(path)
            guard let data = FileManager.default.contents(atPath: path) else { return nil }
            let edited = [UInt8](data)
            if edited == contents { return nil }
            let errors = errors(reference, edited, access)
            for error in errors { Console.error(error) }
            if errors.isEmpty {
                try showChange(reference, contents, edited, access)
                if yes || isatty(0) == 0 { return edited }
                switch ask("Make this change? (y)es, (e)dit again, (q)uit: ", "yeq") {
                case "y": return edited
                case "e": continue
                default: throw ExitCode(1)
                }
            }
            if ask("The file has errors: (e)dit again, (q)uit: ", "eq") != "e" { throw ExitCode(1) }
        }
    }

    private func startEditor(_ path: String) throws {
        let environment = ProcessInfo.processInfo.environment
        let editor =
            [environment["VISUAL"], environment["EDITOR"]]
            .compactMap { $0 }.first { !$0.isEmpty } ?? "vi"
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        // The variable may hold options; the path is an argument and never part of the command.
        process.arguments = ["-c", "exec \(editor) \"$1\"", "sh", path]
        try process.run()
        process.waitUntilExit()
        if process.terminationStatus != 0 {
            throw PolicyAccess.RemoteFailure(
                "the editor ended with status \(process.terminationStatus); nothing was changed")
        }
    }

    /// The first letter of the answer, out of those offered; the last of them at the end of input.
    private func ask(_ question: String, _ letters: String) -> Character {
        while true {
            Console.write(question)
            guard let line = Console.readLine() else { return letters.last! }
            if let letter = line.first, letters.contains(letter) { return letter }
        }
    }

    // MARK: Checking

    private func errors(
        _ reference: PolicyFileReference, _ contents: [UInt8], _ access: PolicyAccess
    ) -> [String] {
        if let admin = access.local {
            do {
                try admin.checkChange([admin.path(reference.file): contents])
                return []
            } catch {
                return error.message.split(separator: "\n").map(String.init)
            }
        }
        let directories = PolicyDirectories(["/policy"])
        let result = Policy.loadFile(
            "/policy/" + reference.file.path, contents: contents, directories: directories,
            files: MemoryPolicyFiles([:], directories: ["/policy"]))
        // Included files are in dom0, where the whole is checked.
        return result.errors.filter { !$0.found.contains("': ") }.map(\.description)
    }

    /// Shows the lines that differ and, where the qubes are known, the calls that change.
    private func showChange(
        _ reference: PolicyFileReference, _ before: [UInt8], _ after: [UInt8],
        _ access: PolicyAccess
    ) throws {
        let old = String(decoding: before, as: UTF8.self).split(separator: "\n")
        let new = String(decoding: after, as: UTF8.self).split(separator: "\n")
        for change in new.difference(from: old) {
            switch change {
            case .remove(_, let line, _): Console.line(Console.colour("- \(line)", .red))
            case .insert(_, let line, _): Console.line(Console.colour("+ \(line)", .green))
            }
        }
        guard let admin = access.local,
            let system = try? SystemInformationSource.load(input.systemInformation)
        else {
            Console.line("The qubes are not known here, so no calls are compared.")
            return
        }
        let files = OverlayPolicyFiles(
            DiskPolicyFiles(), changes: [admin.path(reference.file): after])
        let current = Policy.load(admin.directories)
        let changed = Policy.load(admin.directories, files: files)
        guard current.isUsable else {
            Console.line("The policy could not be loaded until now; with this change it can.")
            return
        }
        let comparison = PolicyComparison(
            PolicyEngine(current.policy, system), PolicyEngine(changed.policy, system))
        Console.write(comparison.text(comparison.changes()))
    }
}

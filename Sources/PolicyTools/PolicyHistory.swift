import Foundation
import LinuxSystem
import QrexecDom0
import QrexecPolicy
import SystemPackage

/// Every earlier version of the policy files that people change with our tools.
struct PolicyHistory {
    struct Version {
        /// Counted from 1, the oldest.
        let number: Int
        let path: String
        let date: Date
    }

    private let admin: PolicyAdmin
    private let root: String

    init(_ admin: PolicyAdmin) {
        self.admin = admin
        // A policy directory elsewhere has its versions beside it.
        root =
            CurrentProcess.variable("QREXEC_POLICY_HISTORY")
            ?? (admin.directory == "/etc/qubes/policy.d"
                ? "/var/lib/qubes/policy-versions" : admin.directory + ".versions")
    }

    func directory(_ file: PolicyAdmin.File) -> String {
        root + "/" + (file.isInclude ? "include/" : "") + file.name
    }

    /// Keeps the contents as they are now, if there are any that were not kept last.
    func keep(_ file: PolicyAdmin.File) throws {
        guard let contents = try? admin.get(file) else { return }
        let versions = versions(file)
        if let last = versions.last, self.contents(last) == contents { return }
        let directory = directory(file)
        let number = (versions.last?.number ?? 0) + 1
        do throws(Errno) {
            try FileChange.makeDirectories(directory, mode: 0o700)
            try FileChange.replace("\(directory)/\(number)", with: contents, mode: 0o600)
        } catch {
            throw PolicyAccess.RemoteFailure(
                "\(directory): \(error): the earlier version cannot be kept, so nothing was changed"
            )
        }
    }

    func versions(_ file: PolicyAdmin.File) -> [Version] {
        let directory = directory(file)
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        return names.compactMap { name in
            guard let number = Int(name) else { return nil }
            let path = directory + "/" + name
            let attributes = try? FileManager.default.attributesOfItem(atPath: path)
            let date = attributes?[.modificationDate] as? Date ?? .distantPast
            return Version(number: number, path: path, date: date)
        }.sorted { $0.number < $1.number }
    }

    func contents(_ version: Version) -> [UInt8]? {
        FileManager.default.contents(atPath: version.path).map { [UInt8]($0) }
    }
}

public import LinuxSystem
import Synchronization
import SystemPackage

/// A user of this machine, read from /etc/passwd and /etc/group: programs on the path of a call are
/// static and do not load NSS modules.
public struct UserAccount: Sendable, Equatable {
    public let name: String
    public let identity: UserIdentity
    public let home: String
    public let shell: String

    /// The account of a name; nil when there is none or the files cannot be read.
    public static func named(_ name: String) -> UserAccount? {
        let state = Known.Files.now
        return known.withLock { known in
            if known.files != state { known = Known(files: state) }
            if let account = known.accounts[name] { return account }
            guard let account = entry({ $0[0] == name }) else { return nil }
            if known.accounts.count < Known.maximum { known.accounts[name] = account }
            return account
        }
    }

    /// Accounts that were looked up, good until one of the files changes: two calls of the system
    /// instead of reading both files for each call of a service.
    private struct Known {
        struct Files: Equatable {
            let passwd: Int?
            let group: Int?

            static var now: Files {
                Files(
                    passwd: FileStatus.changeTime(of: passwdFile),
                    group: FileStatus.changeTime(of: groupFile))
            }
        }

        static let maximum = 64
        var files: Files?
        var accounts: [String: UserAccount] = [:]
    }

    private static let known = Mutex(Known())
    private static let passwdFile = "/etc/passwd"
    private static let groupFile = "/etc/group"

    /// The account of a user number.
    public static func numbered(_ uid: UInt32) -> UserAccount? {
        entry { UInt32($0[2]) == uid }
    }

    private static let maximumFileSize = 4 << 20

    private static func lines(of path: String) -> [[Substring]] {
        guard let bytes = try? Descriptor.open(path, 0).readAll(limit: maximumFileSize) else {
            return []
        }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map {
            $0.split(separator: ":", omittingEmptySubsequences: false)
        }
    }

    private static func entry(_ matches: ([Substring]) -> Bool) -> UserAccount? {
        for fields in lines(of: passwdFile) where fields.count >= 7 && matches(fields) {
            guard let uid = UInt32(fields[2]), let gid = UInt32(fields[3]) else { return nil }
            let name = String(fields[0])
            let shell = fields[6].isEmpty ? "/bin/sh" : String(fields[6])
            return UserAccount(
                name: name,
                identity: UserIdentity(uid: uid, gid: gid, groups: groups(of: name, primary: gid)),
                home: String(fields[5]), shell: shell)
        }
        return nil
    }

    private static func groups(of name: String, primary: UInt32) -> [UInt32] {
        var groups = [primary]
        for fields in lines(of: groupFile) where fields.count >= 4 {
            guard let gid = UInt32(fields[2]), gid != primary else { continue }
            if fields[3].split(separator: ",").contains(Substring(name)) { groups.append(gid) }
        }
        return groups
    }
}

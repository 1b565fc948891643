import LinuxSystem
import SystemPackage

/// Groups of this machine, read from /etc/group like the accounts of `UserAccount`.
public enum UserGroup {
    /// The number of a group; nil when there is none or the file cannot be read.
    public static func number(of name: String) -> UInt32? {
        guard let bytes = try? Descriptor.open("/etc/group", 0).readAll(limit: 4 << 20) else {
            return nil
        }
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: ":", omittingEmptySubsequences: false)
            if fields.count >= 3, fields[0] == name { return UInt32(fields[2]) }
        }
        return nil
    }
}

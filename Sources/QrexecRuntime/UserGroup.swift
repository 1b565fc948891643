import LinuxSystem
import SystemPackage

/// Groups of this machine, read from /etc/group like the accounts of `UserAccount`.
public enum UserGroup {
    /// The number of a group; nil when there is none or the file cannot be read.
    public static func number(of name: String) -> UInt32? {
        fields(of: name).flatMap { $0.count >= 3 ? UInt32($0[2]) : nil }
    }

    /// The user who is listed first as a member of a group; nil when there is none.
    public static func firstMember(of name: String) -> String? {
        fields(of: name).flatMap { $0.count >= 4 ? $0[3].split(separator: ",").first : nil }
            .map(String.init)
    }

    private static func fields(of name: String) -> [Substring]? {
        guard let bytes = try? Descriptor.open("/etc/group", 0).readAll(limit: 4 << 20) else {
            return nil
        }
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: ":", omittingEmptySubsequences: false)
            if fields[0] == name { return fields }
        }
        return nil
    }
}

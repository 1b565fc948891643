import QrexecDom0

/// What a lab consists of: the default, changed by a configuration file.
struct LabSettings: Codable, Equatable {
    /// Disposables a lab can have beside its qubes, and the limit of both: one byte of domain ids.
    static let maximumDomains = 64

    var qubes: [QubeSettings]

    /// dom0 and the qubes that a newcomer finds.
    static let standard = LabSettings(qubes: [
        QubeSettings(name: "dom0", type: "AdminVM", label: "black"),
        QubeSettings(name: "work", label: "blue"),
        QubeSettings(name: "personal", label: "yellow"),
        QubeSettings(name: "vault", label: "black"),
        QubeSettings(name: "untrusted", label: "red"),
        QubeSettings(
            name: "default-dvm", label: "red", isTemplateForDisposables: true, autostart: false),
    ])

    subscript(name: String) -> QubeSettings? { qubes.first { $0.name == name } }
}

/// One qube of a lab.
struct QubeSettings: Codable, Equatable {
    var name: String
    /// The class name that qubesd tells.
    var type = "AppVM"
    var label = "red"
    var tags: [String] = []
    var features: [String: String] = [:]
    var isTemplateForDisposables = false
    /// Name of a disposable template; empty for none.
    var defaultDisposable = "default-dvm"
    /// Whether `up` starts it; others are started by the first call.
    var autostart = true
    /// Bytes of the file system of /home/user; nil shares the state directory's.
    var homeSize: Int?

    var isDom0: Bool { name == "dom0" }

    /// A domain name as the specification has it (appendix A); nil when it is fine.
    static func problem(ofName name: String) -> String? {
        let bytes = Array(name.utf8)
        let isLetter = { (byte: UInt8) in
            (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
        }
        guard (1...31).contains(bytes.count) else { return "must have 1 to 31 characters" }
        guard isLetter(bytes[0]) else { return "must begin with a letter" }
        let others = Array("0123456789_.-".utf8)
        guard bytes.allSatisfy({ isLetter($0) || others.contains($0) }) else {
            return "may have letters, digits, '_', '.' and '-' only"
        }
        if ["none", "default", "Domain-0"].contains(name) || name.hasSuffix("-dm") {
            return "is a reserved name"
        }
        return nil
    }
}

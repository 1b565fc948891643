import LinuxSystem
import QrexecDom0
import QrexecPolicy

/// What the manager of a plain Xen host knows from its configuration file.
struct HostSettings: Equatable {
    static let standardPath = "/etc/qubes/xl.toml"

    /// Qubes and disposables together; every one costs memory of dom0 long before.
    static let maximumQubes = 1000

    /// `xl` itself.
    var xl = "/usr/sbin/xl"
    /// Disks of disposables are below.
    var stateDirectory = "/var/lib/qubes-xl"
    /// Seconds for `xl create`.
    var createPatience: UInt64 = 120
    /// Seconds for a qube's agent to connect, once its domain is there (section 6).
    var startPatience: UInt64 = 60
    /// Seconds for a qube to shut down by itself.
    var shutdownPatience: UInt64 = 60
    /// In the order of the file, dom0 first.
    var qubes = [HostQubeSettings(name: "dom0")]

    subscript(name: String) -> HostQubeSettings? { qubes.first { $0.name == name } }
}

/// One qube of the host.
struct HostQubeSettings: Equatable {
    var name: String
    var type = QubeRecord.Class.app
    var label = "red"
    var tags: [String] = []
    var features: [String: String] = [:]
    var isTemplateForDisposables = false
    /// Name of a disposable template; empty for none, nil for dom0's.
    var defaultDisposable: String?
    /// Started with the manager.
    var autostart = false
    /// Whom services run as when nobody says otherwise.
    var defaultUser = "user"
    /// Whether an agent runs in it: without, nobody waits for it.
    var hasAgent = true
    /// Who asks and tells its user; empty for nobody.
    var guiQube = "dom0"
    /// The configuration that `xl create` is given.
    var configuration: String
    /// Settings that are added to it, in its own syntax; `@NAME@` is the qube's name.
    var additions: [String] = []
    var uuid: String

    init(name: String) {
        self.name = name
        configuration = "/etc/xen/\(name).cfg"
        uuid = ""
        if name == "dom0" {
            type = .admin
            label = "black"
            uuid = HostUUID.zero
            defaultDisposable = ""
        }
    }

    var isDom0: Bool { name == "dom0" }
}

/// UUIDs of qubes.
enum HostUUID {
    /// dom0's.
    static let zero = "00000000-0000-0000-0000-000000000000"

    /// The same for the same name on the same machine, so that nobody has to write one down
    /// (RFC 9562, version 8).
    static func derived(from name: String, machine: String) -> String {
        let sum = SHA256.hexadecimal(Array("qube \(machine) \(name)".utf8))
        var digits = Array(sum.utf8.prefix(32))
        digits[12] = UInt8(ascii: "8")
        digits[16] = UInt8(ascii: "a")
        return grouped(digits)
    }

    /// A random one (version 4).
    static func random() -> String {
        var digits = (0..<32).map { _ in "0123456789abcdef".utf8.randomElement()! }
        digits[12] = UInt8(ascii: "4")
        digits[16] = UInt8(ascii: "a")
        return grouped(digits)
    }

    private static func grouped(_ digits: [UInt8]) -> String {
        var text = ""
        for (index, digit) in digits.enumerated() {
            if [8, 12, 16, 20].contains(index) { text += "-" }
            text.unicodeScalars.append(Unicode.Scalar(digit))
        }
        return text
    }

    /// 36 characters, lower-case; nil when the text is none.
    static func parsed(_ text: some StringProtocol) -> String? {
        let bytes = Array(text.lowercased().utf8)
        guard bytes.count == 36 else { return nil }
        for (index, byte) in bytes.enumerated() {
            let isDash = [8, 13, 18, 23].contains(index)
            let isDigit = (0x30...0x39).contains(byte) || (0x61...0x66).contains(byte)
            guard isDash ? byte == 0x2D : isDigit else { return nil }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// This machine's own number, or nothing.
    static var machine: String {
        guard let bytes = try? Descriptor.open("/etc/machine-id", 0).readAll(limit: 256) else {
            return ""
        }
        return String(decoding: bytes.filter { $0 > 0x20 }, as: UTF8.self)
    }
}

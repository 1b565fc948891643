import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// A process that may have ended and left its number to another.
struct Requester: Equatable {
    let pid: Int32
    /// In clock ticks since boot; with the number this is unique.
    let startTime: String

    /// nil when there is no such process.
    init?(pid: Int32) {
        guard let time = Self.startTime(of: pid) else { return nil }
        self.pid = pid
        startTime = time
    }

    init?(text: String) {
        let fields = text.split(separator: " ")
        guard fields.count == 2, let pid = Int32(fields[0]) else { return nil }
        self.pid = pid
        startTime = String(fields[1])
    }

    var text: String { "\(pid) \(startTime)" }
    var isAlive: Bool { Self.startTime(of: pid) == startTime }

    private static func startTime(of pid: Int32) -> String? {
        guard let bytes = try? Descriptor.open("/proc/\(pid)/stat", O_RDONLY).readAll(limit: 4096)
        else { return nil }
        // The program's name, in parentheses, may contain anything.
        let text = String(decoding: bytes, as: UTF8.self)
        guard let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[text.index(after: end)...].split(separator: " ")
        return fields.count > 19 ? String(fields[19]) : nil
    }

    /// Whether a process serves calls: a disposable that it asked for lives as long as the call,
    /// and so not longer than it. Others may ask for one and end.
    static func servesCalls(_ pid: Int32) -> Bool {
        let path = "/proc/\(pid)/cmdline"
        guard let bytes = try? Descriptor.open(path, O_RDONLY).readAll(limit: 4096) else {
            return false
        }
        let name = String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        // Confined daemons have the policy service ask.
        let programs: [Substring] = ["qrexec-daemon", "qrexec-policy-daemon"]
        return programs.contains(name.split(separator: "/").last ?? "")
    }
}

/// What a disposable has on the host: its disks, and a record of them that outlives the manager.
struct DisposableFiles: Equatable {
    /// Disks, files and the record are here.
    let directory: String
    let name: String
    var template: String
    var uuid: String
    /// LVM volumes that were made for it, as `GROUP/VOLUME`.
    var volumes: [String] = []
    /// The `disk` list of the template with the copies in place; nil when it has no disks.
    var disks: [String]?
    /// Who has it, once it was handed out.
    var tags: [String] = []
    var requester: Requester?
    var isHandedOut = false
    /// What the copies were made from, and its last change then.
    var sources: [String: Int] = [:]

    /// The settings that make the template's configuration the disposable's.
    var additions: [String] {
        var lines = ["on_poweroff=\"destroy\"", "on_reboot=\"destroy\"", "on_crash=\"destroy\""]
        if let disks {
            let quoted = disks.compactMap(XLConfiguration.quoted)
            lines.append("disk=[\(quoted.joined(separator: ","))]")
        }
        return lines
    }

    /// Whether what it was copied from is still the same.
    var isCurrent: Bool { sources.allSatisfy { Self.changed($0.key) == $0.value } }

    /// The last change of a file; 0 for what is none, such as a device.
    static func changed(_ path: String) -> Int { (try? PathStatus(of: path))?.changed ?? 0 }

    private var recordPath: String { "\(directory)/record" }

    func write() throws(Errno) {
        var lines = ["template \(template)", "uuid \(uuid)"]
        lines += volumes.map { "volume \($0)" } + tags.map { "tag \($0)" }
        if let requester { lines.append("requester \(requester.text)") }
        if isHandedOut { lines.append("handed-out") }
        let temporary = "\(recordPath).new"
        try FileStatus.remove(temporary)
        let file = try Descriptor.open(
            temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
        try file.writeAll(Array((lines.joined(separator: "\n") + "\n").utf8))
        try PathStatus.rename(temporary, to: recordPath)
    }

    init(directory: String, name: String, template: String, uuid: String) {
        self.directory = directory
        self.name = name
        self.template = template
        self.uuid = uuid
    }

    /// What an earlier manager left; what is not readable is removed like the rest.
    init(left directory: String, name: String) {
        self.init(directory: directory, name: name, template: "", uuid: HostUUID.random())
        let bytes = try? Descriptor.open(recordPath, O_RDONLY | O_NOFOLLOW).readAll(limit: 1 << 16)
        for line in String(decoding: bytes ?? [], as: UTF8.self).split(separator: "\n") {
            let words = line.split(separator: " ", maxSplits: 1).map(String.init)
            let value = words.count == 2 ? words[1] : ""
            switch words[0] {
            case "template": template = value
            case "uuid": uuid = HostUUID.parsed(value) ?? uuid
            case "volume": volumes.append(value)
            case "tag": tags.append(value)
            case "requester": requester = Requester(text: value)
            case "handed-out": isHandedOut = true
            default: break
            }
        }
    }
}

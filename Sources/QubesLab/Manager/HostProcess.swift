import Glibc
import LinuxSystem
import SystemPackage

/// Processes as the host numbers them.
enum HostProcess {
    /// The host's number of the process that a pid descriptor stands for; nil when it is none, or
    /// the process has ended.
    static func id(of descriptor: borrowing Descriptor) -> Int32? {
        guard let file = try? Descriptor.open("/proc/self/fdinfo/\(descriptor.number)", O_RDONLY),
            let bytes = try? file.readAll(limit: 4096)
        else { return nil }
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(whereSeparator: { $0 == "\t" || $0 == " " })
            if fields.count == 2, fields[0] == "Pid:", let pid = Int32(fields[1]), pid > 0 {
                return pid
            }
        }
        return nil
    }

    /// When a process was started, in clock ticks since boot; with its number this is unique.
    static func startTime(of pid: Int32) -> String? { fields(of: pid)?[19] }

    /// Whether a process has ended and only waits for its parent to look.
    static func isZombie(_ pid: Int32) -> Bool { fields(of: pid)?[0] == "Z" }

    /// The fields of /proc/<pid>/stat from the state on.
    private static func fields(of pid: Int32) -> [String]? {
        guard let bytes = try? Descriptor.open("/proc/\(pid)/stat", O_RDONLY).readAll(limit: 4096)
        else { return nil }
        // The program's name, in parentheses, may contain anything.
        let text = String(decoding: bytes, as: UTF8.self)
        guard let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[text.index(after: end)...].split(separator: " ").map(String.init)
        return fields.count > 19 ? fields : nil
    }
}

extension HostProcess {
    /// Bytes of memory that programs can have; nil where nobody tells.
    static var availableMemory: UInt64? {
        guard let bytes = try? Descriptor.open("/proc/meminfo", O_RDONLY).readAll(limit: 1 << 16)
        else { return nil }
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: " ")
            if fields.count == 3, fields[0] == "MemAvailable:", let size = UInt64(fields[1]) {
                return size << 10
            }
        }
        return nil
    }
}

/// A process written down, so that a later program can end it and no other.
struct ProcessRecord: Equatable {
    let pid: Int32
    let startTime: String

    init?(pid: Int32) {
        guard let time = HostProcess.startTime(of: pid) else { return nil }
        self.pid = pid
        startTime = time
    }

    init?(text: String) {
        let fields = text.split(whereSeparator: { $0 == " " || $0 == "\n" })
        guard fields.count == 2, let pid = Int32(fields[0]), pid > 1 else { return nil }
        self.pid = pid
        startTime = String(fields[1])
    }

    init?(file: String) {
        guard let bytes = try? Descriptor.open(file, O_RDONLY | O_NOFOLLOW).readAll(limit: 256)
        else { return nil }
        self.init(text: String(decoding: bytes, as: UTF8.self))
    }

    func write(to file: String) {
        try? FileStatus.remove(file)
        try? QubeFiles.write("\(pid) \(startTime)\n", to: file, mode: 0o600)
    }

    /// Ends the process if it is still the one that was written down.
    ///
    /// - Returns: whether it was there.
    func end() -> Bool {
        guard let descriptor = try? CurrentProcess.pidDescriptor(pid),
            HostProcess.startTime(of: pid) == startTime
        else { return false }
        CurrentProcess.signal(descriptor, SIGKILL)
        // A killed process ends as soon as it is scheduled.
        _ = try? poll(descriptor.number, .readable, milliseconds: 5000)
        return true
    }
}

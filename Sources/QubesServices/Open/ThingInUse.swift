import Glibc
import LinuxSystem
import SystemPackage

/// A file or an address that a person looks at in this qube, and which processes it keeps busy.
///
/// The opener is most often a launcher: it starts the viewer, or tells one that runs already, and
/// ends. So its end says nothing; a thing is in use as long as a process has it open, mapped, or
/// works in its directory, or names it in its command line.
struct ThingInUse {
    private enum Thing {
        /// A file, alone in its directory.
        case file(directory: String)
        case address(String)
    }

    private let thing: Thing

    /// Changes of the directory.
    private final class Changes {
        let inotify: Inotify

        init(in directory: String) throws(Errno) {
            inotify = try Inotify()
            try inotify.watchEndOfUse(of: directory)
        }
    }

    /// How long a thing must be out of use before it counts as closed: one program may be about to
    /// hand it to the next.
    private static let pause: UInt64 = 300_000_000
    /// The same since the opener was started: the viewer may be slow to begin.
    private static let start: UInt64 = 1_000_000_000
    /// Longest time between two looks, for what gives no sign of its end.
    private static let interval: UInt64 = 5_000_000_000

    /// - Parameter directory: has nothing in it but the file and what its programs put there.
    init(fileIn directory: String) { thing = .file(directory: directory) }

    init(address: String) { thing = .address(address) }

    /// Waits until no process uses it any more.
    ///
    /// - Parameter begun: `CurrentProcess.now` when the opener was started.
    /// - Returns: false when the caller left first.
    @discardableResult
    func waitForEnd(begun: UInt64, unless caller: CallerAway? = nil) -> Bool {
        var changes: Changes?
        if case .file(let directory) = thing { changes = try? Changes(in: directory) }
        var lastUse = begun + Self.start - Self.pause
        while true {
            if caller?.look() == true { return false }
            let users = self.users()
            let now = CurrentProcess.now
            if !users.isEmpty { lastUse = max(lastUse, now) }
            let until = users.isEmpty ? lastUse + Self.pause : now + Self.interval
            if until <= now { return true }
            Self.wait(for: users, changes, caller, nanoseconds: until - now)
        }
    }

    /// Whether those that use it end now that they were told to.
    func endsSoon() -> Bool {
        let deadline = CurrentProcess.now + Self.start
        while !users().isEmpty {
            if CurrentProcess.now >= deadline { return false }
            usleep(20_000)
        }
        return true
    }

    /// Waits for the end of a process, a change, or some time.
    private static func wait(
        for processes: [Int32], _ changes: Changes?, _ caller: CallerAway?, nanoseconds: UInt64
    ) {
        var set = PollSet()
        caller?.add(to: &set)
        if let number = changes?.inotify.descriptor.number { set.add(number, .readable) }
        // One of them is enough: each look finds the others again.
        var held: SharedDescriptor?
        if let pid = processes.first, let process = try? CurrentProcess.pidDescriptor(pid) {
            held = SharedDescriptor(process)
        }
        if let held { set.add(held.descriptor.number, .readable) }
        _ = try? set.wait(milliseconds: Int32(nanoseconds / 1_000_000) + 1)
        // Closing a file and ending come together most often.
        usleep(20_000)
        _ = try? changes?.inotify.drain()
    }

    // MARK: Looking at processes

    /// The processes that use it, as far as they can be seen, but this one.
    func users() -> [Int32] {
        let names = (try? Directory.names(in: "/proc", limit: 1_000_000)) ?? []
        return names.compactMap { Int32($0) }.filter { $0 != CurrentProcess.id && isUser($0) }
    }

    private func isUser(_ pid: Int32) -> Bool {
        let arguments = Self.contents("/proc/\(pid)/cmdline")
        switch thing {
        case .address(let address):
            // One that was there before may be the caller, when that is in this qube.
            let (its, ours) = (Self.startTime(pid), Self.startTime(CurrentProcess.id))
            return (its, pid) > (ours, CurrentProcess.id)
                && arguments.split(separator: 0).contains { $0.elementsEqual(address.utf8) }
        case .file(let directory):
            let place = Array("\(directory)/".utf8)
            if Self.contains(arguments, place) { return true }
            if Self.leads("/proc/\(pid)/cwd", to: directory) { return true }
            let open = (try? Directory.names(in: "/proc/\(pid)/fd", limit: 65536)) ?? []
            if open.contains(where: { Self.leads("/proc/\(pid)/fd/\($0)", to: directory) }) {
                return true
            }
            return Self.contains(Self.contents("/proc/\(pid)/maps"), place)
        }
    }

    /// When a process was started, in ticks since the machine's start.
    private static func startTime(_ pid: Int32) -> UInt64 {
        let text = contents("/proc/\(pid)/stat")
        // The program's name, in brackets, may have blanks and brackets itself.
        guard let end = text.lastIndex(of: UInt8(ascii: ")")) else { return 0 }
        let fields = text[end...].split(separator: 32)
        return fields.count > 20 ? UInt64(String(decoding: fields[20], as: UTF8.self)) ?? 0 : 0
    }

    private static func leads(_ link: String, to directory: String) -> Bool {
        guard let text = FileStatus.linkText(link) else { return false }
        return text == directory || text.hasPrefix(directory + "/")
    }

    private static func contents(_ path: String) -> [UInt8] {
        let file = try? Descriptor.open(path, O_RDONLY)
        return (try? file?.readAll(limit: 16 << 20)) ?? []
    }

    private static func contains(_ bytes: [UInt8], _ part: [UInt8]) -> Bool {
        bytes.firstRange(of: part) != nil
    }
}

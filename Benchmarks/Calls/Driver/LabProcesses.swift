import Foundation

/// What the processes of a lab, or of another system, have cost so far, from /proc.
struct LabProcesses {
    struct Process {
        let pid: Int32
        let parent: Int32
        /// The program's name as it was started.
        let name: String
        /// Seconds: its own, and its own with those of the children it has reaped.
        let ownCPU: Double
        let allCPU: Double
        let switches: Double
    }

    /// The given ones, and all processes below them.
    let processes: [Process]

    init(below roots: [Int32]) throws {
        let all = try FileManager.default.contentsOfDirectory(atPath: "/proc")
            .compactMap { Int32($0) }.compactMap(Self.process)
        let children = Dictionary(grouping: all, by: \.parent)
        var found = all.filter { roots.contains($0.pid) }
        var next = 0
        while next < found.count {
            found += children[found[next].pid] ?? []
            next += 1
        }
        processes = found
    }

    /// Seconds of all processes, ended ones included.
    var cpu: Double { processes.reduce(0) { $0 + $1.allCPU } }
    /// Of the processes that live.
    var switches: Double { processes.reduce(0) { $0 + $1.switches } }

    func named(_ name: String) -> [Process] { processes.filter { $0.name == name } }

    func below(_ pid: Int32, named name: String) -> Process? {
        processes.first { $0.parent == pid && $0.name == name }
    }

    private static func process(_ pid: Int32) -> Process? {
        let stat = file("/proc/\(pid)/stat")
        guard let end = stat.lastIndex(of: ")") else { return nil }
        let fields = stat[stat.index(after: end)...].split(separator: " ")
        guard fields.count > 15, let parent = Int32(fields[1]) else { return nil }
        // Of its threads to the nanosecond; fields 16 and 17 of stat, cutime and cstime, are in ticks
        // of 10 ms.
        let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")) ?? []
        let own = tasks.reduce(0.0) { sum, task in
            let words = file("/proc/\(pid)/task/\(task)/schedstat").split(separator: " ")
            return sum + (words.first.flatMap { Double($0) } ?? 0) / 1e9
        }
        let children = fields[13...14].reduce(0.0) { $0 + (Double($1) ?? 0) / 100 }
        let name = file("/proc/\(pid)/cmdline").split(separator: "\0").first ?? ""
        var switches = 0.0
        for line in file("/proc/\(pid)/status").split(separator: "\n")
        where line.contains("ctxt_switches") {
            switches += line.split(separator: "\t").last.flatMap { Double($0) } ?? 0
        }
        return Process(
            pid: pid, parent: parent, name: String(name.split(separator: "/").last ?? ""),
            ownCPU: own, allCPU: own + children, switches: switches)
    }

    /// KiB of a process that `key` names in smaps_rollup (Rss, Private_Dirty, …).
    static func memory(_ pid: Int32, _ key: String) -> Double {
        for line in file("/proc/\(pid)/smaps_rollup").split(separator: "\n")
        where line.hasPrefix(key + ":") {
            let words = line.split(separator: " ")
            return words.count > 1 ? Double(words[1]) ?? 0 : 0
        }
        return 0
    }

    static func file(_ path: String) -> String {
        guard let data = FileManager.default.contents(atPath: path) else { return "" }
        return String(decoding: data, as: UTF8.self)
    }
}

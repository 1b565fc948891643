import LinuxSystem
import SystemPackage

/// Where our programs are, and under which paths a qube finds them.
struct Programs: Equatable {
    /// Directories that hold the files themselves; links between them and elsewhere are followed.
    private(set) var directories: [String] = []
    /// Program name to the file that it is, as an index of `directories` and a name in it.
    private(set) var files: [String: (directory: Int, name: String)] = [:]
    /// `share/swift-qrexec` beside the programs, when there is one.
    private(set) var share: String?

    static func == (left: Programs, right: Programs) -> Bool {
        left.directories == right.directories && left.share == right.share
            && left.files.count == right.files.count
            && left.files.allSatisfy { name, file in
                right.files[name].map { $0 == file } ?? false
            }
    }

    /// Which side's tools: several have one name and two programs (`qvm-copy-to-vm`).
    enum Side: String, CaseIterable {
        case dom0, vm
    }

    /// Where users look for programs beside /usr/bin.
    private static let administrative: Set<String> = [
        "qrexec-daemon", "qrexec-daemon-starter",
    ]

    /// The directory of a program that was started as `name`, links not followed: `make build`
    /// puts links there.
    static func directory(startedAs name: String, searchPath: String) -> String? {
        if name.contains("/") {
            return StateDirectory(String(name[..<name.lastIndex(of: "/")!])).path
        }
        for directory in searchPath.split(separator: ":") {
            if FileStatus.isExecutable("\(directory)/\(name)") { return String(directory) }
        }
        return nil
    }

    /// Looks for our programs.
    ///
    /// - Parameter directory: where qubes-lab is; installed, the others are in ../lib/qubes.
    init(in directory: String, side: Side) throws(LabError) {
        let candidates = [directory, "\(directory)/../lib/qubes", "/usr/lib/qubes"]
        let found = candidates.first { FileStatus.isExecutable("\($0)/qrexec-agent") }
        guard let found else {
            throw LabError(
                "no qrexec-agent in \(candidates.joined(separator: ", ")); run 'make build' and start "
                    + ".build/bin/qubes-lab")
        }
        let home = Self.resolved(found)
        try add(home)
        try add("\(home)/\(side.rawValue)")
        if files["qubes-lab"] == nil { try add(directory, only: "qubes-lab") }
        for shared in ["\(home)/../share/swift-qrexec", "/usr/share/swift-qrexec"]
        where PathStatus.exists(shared) {
            share = Self.resolved(shared)
            break
        }
    }

    private mutating func add(_ directory: String, only: String? = nil) throws(LabError) {
        guard let names = try? PathStatus.names(in: directory) else { return }
        for name in names.sorted() where only == nil || only == name {
            let path = Self.resolved("\(directory)/\(name)")
            guard (try? FileStatus.kind(of: path)) == .regular, FileStatus.isExecutable(path),
                let slash = path.lastIndex(of: "/")
            else { continue }
            let parent = String(path[..<slash])
            var index = directories.firstIndex(of: parent)
            if index == nil {
                index = directories.count
                directories.append(parent)
            }
            files[name] = (index!, String(path[path.index(after: slash)...]))
        }
    }

    /// The path without links and `..`; itself when it does not exist.
    private static func resolved(_ path: String) -> String {
        guard let file = try? Descriptor.open(path, openPathOnly) else { return path }
        return FileStatus.linkText("/proc/self/fd/\(file.number)") ?? path
    }

    /// The paths in a qube that lead to a program.
    static func places(of name: String) -> [String] {
        var places = ["lib/qubes/\(name)", "bin/\(name)"]
        if administrative.contains(name) { places.append("sbin/\(name)") }
        return places
    }
}

/// O_PATH.
let openPathOnly: Int32 = 0o10000000

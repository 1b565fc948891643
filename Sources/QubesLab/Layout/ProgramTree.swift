import LinuxSystem
import SystemPackage

/// The /usr/bin, /usr/sbin and /usr/lib of qubes: links to the machine's entries, which are seen
/// below /usr/.machine, and to our programs, below /usr/.programs. Where both have a name, ours
/// wins. Made once a lab and bound read-only.
struct ProgramTree {
    static let machine = "/usr/.machine"
    static let programs = "/usr/.programs"
    static let directories = ["bin", "sbin", "lib"]

    /// Makes the tree below `path`.
    static func make(at path: String, _ programs: Programs) throws(LabError) {
        do throws(Errno) {
            try PathStatus.makeDirectory(path, mode: 0o755)
            for directory in directories {
                try PathStatus.makeDirectory("\(path)/\(directory)", mode: 0o755)
            }
            try PathStatus.makeDirectory("\(path)/lib/qubes", mode: 0o755)
            for name in programs.files.keys {
                let file = programs.files[name]!
                for place in Programs.places(of: name) {
                    let target = "\(Self.programs)/\(file.directory)/\(file.name)"
                    try PathStatus.makeLink("\(path)/\(place)", to: target)
                }
            }
            for directory in directories { try addMachine(directory, to: path) }
        } catch {
            throw LabError("cannot make the programs' file system \(path): \(error)")
        }
    }

    private static func addMachine(_ directory: String, to path: String) throws(Errno) {
        // On systems that merged them, /usr/sbin is a link to bin: its entries are looked at anyway.
        for name in try PathStatus.names(in: "/usr/\(directory)") {
            let place = "\(path)/\(directory)/\(name)"
            let text = linkText("/usr/\(directory)/\(name)", name, directory)
            do throws(Errno) {
                try PathStatus.makeLink(place, to: text)
            } catch .fileExists {
                continue
            }
        }
    }

    /// A link's own text stays right, because the entry keeps its place; all others lead to the
    /// machine's entry.
    private static func linkText(_ path: String, _ name: String, _ directory: String) -> String {
        FileStatus.linkText(path) ?? "\(machine)/\(directory)/\(name)"
    }
}

import Glibc
import LinuxSystem
import SystemPackage

/// The service `qubes.StartApp`: starts the application whose desktop file the argument names
/// (specification 16.2), and lasts as long as it runs. Exit status: the application's; 1 when there
/// is no such application.
public enum StartAppService {
    /// Desktop files looked at; a qube has hundreds at most.
    private static let maximumEntries = 20_000
    private static let maximumFile = 1 << 20

    /// - Parameter arguments: all of argv; the argument is a desktop file's name, with or without
    ///   `.desktop`.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.StartApp")
        guard arguments.count == 2, let name = fileName(arguments[1]) else {
            complain(program, "expected the name of an application as the argument")
            return 1
        }
        let directories = dataDirectories
        guard let path = find(name, in: directories) else {
            complain(program, "no applications/\(name) in \(directories.joined(separator: ", "))")
            return 1
        }
        do throws(DesktopEntry.Invalid) {
            let text: String
            do throws(Errno) {
                text = String(
                    decoding: try Descriptor.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
                        .readAll(limit: maximumFile), as: UTF8.self)
            } catch {
                throw DesktopEntry.Invalid(reason: error.message)
            }
            return start(try DesktopEntry(text, path: path), reporter: program)
        } catch {
            complain(program, "\(path): \(error.reason)")
            return 1
        }
    }

    /// The desktop file's name that an argument means; nil for one that leads elsewhere.
    static func fileName(_ argument: String) -> String? {
        let suffix = ".desktop"
        let stem = argument.hasSuffix(suffix) ? argument.dropLast(suffix.count) : argument[...]
        if stem.isEmpty || stem.hasPrefix(".") || stem.contains("/") || stem.utf8.contains(0) {
            return nil
        }
        return stem + suffix
    }

    /// Where applications are, the user's own first (XDG Base Directory Specification).
    private static var dataDirectories: [String] {
        let home = CurrentProcess.variable("HOME") ?? "/"
        func variable(_ name: String, _ standard: String) -> String {
            let value = CurrentProcess.variable(name) ?? ""
            return value.isEmpty ? standard : value
        }
        let system = variable(
            "XDG_DATA_DIRS",
            "/usr/local/share:/usr/share:/var/lib/flatpak/exports/share:/var/lib/snapd/desktop")
        let all = variable("XDG_DATA_HOME", "\(home)/.local/share") + ":" + system
        return all.split(separator: ":").map(String.init).filter { $0.hasPrefix("/") }
    }

    /// The first file of that name below `applications` of one of the directories.
    static func find(_ name: String, in directories: [String]) -> String? {
        var left = maximumEntries
        for directory in directories {
            if let found = find(name, below: "\(directory)/applications", depth: 4, &left) {
                return found
            }
        }
        return nil
    }

    private static func find(
        _ name: String, below directory: String, depth: Int, _ left: inout Int
    ) -> String? {
        let path = "\(directory)/\(name)"
        if (try? FileStatus.kind(of: path)) == .regular { return path }
        guard depth > 0, left > 0, let names = try? Directory.names(in: directory, limit: left)
        else { return nil }
        left -= names.count
        // A link to a directory could lead round in a circle.
        for entry in names.sorted()
        where (try? PathStatus(of: "\(directory)/\(entry)"))?.kind == .directory {
            if let found = find(name, below: "\(directory)/\(entry)", depth: depth - 1, &left) {
                return found
            }
        }
        return nil
    }

    // MARK: Start

    /// Programs that show another one in a terminal, with what comes before its command.
    private static let terminals = [
        ["x-terminal-emulator", "-e"], ["xfce4-terminal", "-x"],
        ["gnome-terminal", "--wait", "--"],
        ["konsole", "-e"], ["xterm", "-e"],
    ]

    private static func start(_ entry: DesktopEntry, reporter: String) -> Int32 {
        var command = entry.command
        if entry.needsTerminal {
            guard let terminal = terminals.first(where: { Programs.find($0[0]) != nil }) else {
                complain(reporter, "the application needs a terminal, and none is installed")
                return 1
            }
            command = terminal + command
        }
        do throws(Errno) {
            // The application talks with the person at the screen, not with the caller.
            try Execution.redirect(0, to: "/dev/null", O_RDONLY)
            try Execution.redirect(1, to: "/dev/null", O_WRONLY)
            if let directory = entry.directory { try CurrentProcess.changeDirectory(directory) }
        } catch {
            complain(reporter, "\(entry.directory ?? "/dev/null"): \(error.message)")
            return 1
        }
        return Execution.become(command.map { Array($0.utf8) }, reporter: reporter)
    }
}

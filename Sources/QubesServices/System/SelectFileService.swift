import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage

/// The services `qubes.SelectFile` and `qubes.SelectDirectory`: a person in this qube chooses a file
/// or a directory for the caller, who gets its path as one line, or nothing when the choice was
/// cancelled (specification 16.2). Exit status: 0 for both, 1 when nobody could be asked.
public enum SelectFileService {
    /// Bytes of a path, with its NUL.
    private static let maximumPath = 4096

    /// - Parameter arguments: all of argv; the services take none.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.SelectFile")
        let source = CurrentProcess.variable("QREXEC_REMOTE_DOMAIN") ?? ""
        guard Names.isDomainName(source) else {
            complain(program, "QREXEC_REMOTE_DOMAIN does not name a qube")
            return 1
        }
        guard
            CurrentProcess.variable("DISPLAY") != nil
                || CurrentProcess.variable("WAYLAND_DISPLAY") != nil
        else {
            complain(program, "nobody can be asked: this qube has no graphical session")
            return 1
        }
        let isDirectory = program.hasSuffix("Directory")
        guard let command = chooser(isDirectory, "\(source) asks for a ") else {
            complain(program, "nothing here shows a choice; install zenity or kdialog")
            return 1
        }
        do throws(Errno) {
            return try choose(command, reporter: program)
        } catch {
            complain(program, "\(command[0]): \(error.message)")
            return 1
        }
    }

    private static func chooser(_ isDirectory: Bool, _ text: String) -> [String]? {
        let title = text + (isDirectory ? "directory" : "file")
        if let zenity = Programs.find("zenity") {
            let kind = isDirectory ? ["--directory"] : []
            return [zenity, "--file-selection", "--title=\(title)"] + kind
        }
        guard let kdialog = Programs.find("kdialog") else { return nil }
        let kind = isDirectory ? "--getexistingdirectory" : "--getopenfilename"
        return [kdialog, "--title", title, kind, CurrentProcess.variable("HOME") ?? "/"]
    }

    private static func choose(_ command: [String], reporter: String) throws(Errno) -> Int32 {
        let null = try Descriptor.open("/dev/null", O_RDONLY)
        let answer = try Descriptor.memoryFile(named: "choice")
        var request = SpawnRequest(
            path: command[0], arguments: command, environment: CurrentProcess.environment)
        request.descriptors = [null.number, answer.number, 2]
        request.diesWithParent = true
        let status = try ChildProcess.spawn(request).reap()
        // Cancelled: nothing is sent, and that is no error.
        if status == 1 { return 0 }
        guard status == 0 else {
            complain(reporter, "\(command[0]) ended with status \(status)")
            return 1
        }
        try answer.seek(0, .start)
        var path = try answer.readAll(limit: maximumPath)
        if path.last == 0x0A { path.removeLast() }
        guard path.first == slash, !path.contains(0x0A), !path.contains(0) else {
            complain(reporter, "the chosen path cannot be sent as one line")
            return 1
        }
        try Descriptor.writeAll(path + [0x0A], to: 1)
        return 0
    }
}

import Glibc
import LinuxSystem
import SystemPackage

/// `qopen-in-vm [--view-only] [--into=FILE] FILE`: the local program of `qvm-open-in-vm`. Sends a
/// file to `qubes.OpenInVM` and stores what comes back. It does not learn whether the call ended
/// well, so it never replaces the file itself. Exit status: 0, 1, or 2 for a wrong command line.
public enum OpenSenderTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        var command = ToolArguments(arguments, name: "qopen-in-vm")
        var isViewOnly = false
        var into: String?
        let ended = command.takeOptions(help: help) { option in
            if option == "--view-only" {
                isViewOnly = true
                return true
            }
            into = option.after("--into=")
            return into != nil
        }
        if let ended { return ended }
        guard let path = command.next(), command.rest.isEmpty else {
            return command.refuse("expected one file")
        }
        CurrentProcess.ignoreBrokenPipes()
        do throws(FileProblem) {
            let note = try exchange(path, isViewOnly: isViewOnly, into: into)
            if let note { complain(command.program, note) }
            return 0
        } catch {
            complain(command.program, error.line)
            return 1
        }
    }

    /// - Returns: what the person should know, if anything.
    private static func exchange(
        _ path: String, isViewOnly: Bool, into: String?
    ) throws(FileProblem) -> String? {
        let place = try ArgumentPlace(path)
        // Before anything is sent: what comes back must have a place.
        let beside = isViewOnly || into != nil ? nil : try EditedFile(of: path)
        let size: UInt64
        do throws(Errno) {
            let file = try Descriptor.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
            size = try file.status().size
            let request = OpenRequest(name: place.name, isViewOnly: isViewOnly)
            try Descriptor.writeAll(1, request.encoded.span)
            _ = try OpenInVMService.copy(from: file.number, to: 1)
            Descriptor.endStandardOutput()
        } catch {
            throw FileProblem(Array(path.utf8), error)
        }
        do throws(Errno) {
            // What is only looked at never comes back; a service that sends something is not heard.
            if isViewOnly {
                _ = try OpenInVMService.copy(from: 0, to: nil)
            } else if let into {
                let target = try Descriptor.open(into, O_WRONLY)
                _ = try OpenInVMService.copy(
                    from: 0, to: target.number, limit: OpenCall.limit(size))
            } else if let beside {
                _ = try OpenInVMService.copy(
                    from: 0, to: beside.number, limit: OpenCall.limit(size))
                return try beside.keepBesideOriginal()
            }
        } catch .fileTooLarge {
            throw FileProblem(
                Array(path.utf8), "far more came back than was sent; your file stays as it is")
        } catch {
            throw FileProblem(Array(path.utf8), "what comes back: \(error.message)")
        }
        return nil
    }

    private static let help = """
        Usage: qopen-in-vm [--view-only] [--into=FILE] [--] FILE
        Sends FILE to the service qubes.OpenInVM: the local program that qvm-open-in-vm gives to
        qrexec-client-vm.

              --view-only   nothing comes back
              --into=FILE   where to write the changed file; else it is FILE.XXXXXX, and a line on
                            standard error says so. FILE itself is never touched.
          -h, --help        show this text
              --version     show the version

        Exit status: 0 when the exchange came to its end, 1 for a failure, 2 for a wrong command
        line.

        """
}

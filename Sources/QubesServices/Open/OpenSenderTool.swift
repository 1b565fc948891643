import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qopen-in-vm [--view-only] [--into=FILE] FILE`: the local program of `qvm-open-in-vm`. Sends a
/// file to `qubes.OpenInVM` and stores what comes back. Exit status: 0 or 1.
public enum OpenSenderTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qopen-in-vm")
        var isViewOnly = false
        var into: String?
        var rest = arguments.dropFirst()
        while let option = rest.first, option.hasPrefix("-"), option != "-" {
            rest.removeFirst()
            if option == "--" { break }
            switch option {
            case "--view-only": isViewOnly = true
            case "--help", "-h":
                say(help)
                return 0
            case "--version":
                say(Version.line(program) + "\n")
                return 0
            case let long where long.hasPrefix("--into="):
                into = String(long.dropFirst("--into=".count))
            default:
                complain(program, "unknown option \(option); see --help")
                return 2
            }
        }
        guard rest.count == 1, let path = rest.first else {
            complain(program, "expected one file; see --help")
            return 2
        }
        CurrentProcess.ignoreBrokenPipes()
        do throws(FileProblem) {
            try exchange(path, isViewOnly: isViewOnly, into: into)
            return 0
        } catch {
            complain(program, error.line)
            return 1
        }
    }

    private static func exchange(
        _ path: String, isViewOnly: Bool, into: String?
    ) throws(FileProblem) {
        let place = try ArgumentPlace(path)
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
            guard !isViewOnly, let into else {
                _ = try OpenInVMService.copy(from: 0, to: nil)
                return
            }
            let target = try Descriptor.open(into, O_WRONLY)
            _ = try OpenInVMService.copy(from: 0, to: target.number, limit: limit(size))
        } catch .fileTooLarge {
            throw FileProblem(
                Array(path.utf8), "far more came back than was sent; your file stays as it is")
        } catch {
            throw FileProblem(Array(path.utf8), "what comes back: \(error.message)")
        }
    }

    /// Bytes that are taken back at most: a hostile service must not fill the disk.
    private static func limit(_ size: UInt64) -> UInt64 { max(size &* 4, 2 << 30) }

    private static let help = """
        Usage: qopen-in-vm [--view-only] [--into=FILE] [--] FILE
        Sends FILE to the service qubes.OpenInVM: the local program that qvm-open-in-vm gives to
        qrexec-client-vm.

              --view-only   nothing comes back
              --into=FILE   where to write the changed file
          -h, --help        show this text
              --version     show the version

        Exit status: 0 when the exchange came to its end, 1 for a failure, 2 for a wrong command
        line.

        """
}

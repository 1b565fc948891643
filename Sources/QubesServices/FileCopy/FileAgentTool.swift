import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qfile-agent`, the sender of file copies: the stream goes out of standard output, the answer
/// comes in by standard input. Exit status: 0 when the receiver has confirmed everything, 1 for
/// every failure, 2 for a wrong command line.
public enum FileAgentTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qfile-agent")
        var options = TreeSender.Options()
        var recordPath: String?
        var rest = arguments.dropFirst()
        while let option = rest.first, option.hasPrefix("-"), option != "-" {
            rest.removeFirst()
            if option == "--" { break }
            switch option {
            case "--ignore-symlinks": options.ignoreLinks = true
            case "--no-ignore-symlinks": options.ignoreLinks = false
            case "--help", "-h":
                say(help)
                return 0
            case "--version":
                say(Version.line(program) + "\n")
                return 0
            case let long where long.hasPrefix("--record="):
                recordPath = String(long.dropFirst("--record=".count))
            default:
                complain(program, "unknown option \(option); see --help")
                return 2
            }
        }
        if rest.isEmpty {
            complain(program, "no file to send; see --help")
            return 2
        }
        return send(program, Array(rest), options, recordPath)
    }

    private static func send(
        _ program: String, _ files: [String], _ options: TreeSender.Options, _ recordPath: String?
    ) -> Int32 {
        CurrentProcess.ignoreBrokenPipes()
        CurrentProcess.raiseDescriptorLimit()
        let progress = CopyProgress.fromEnvironment()
        var options = options
        options.warn = {
            progress.clear()
            complain(program, $0)
        }
        do throws(SendFailure) {
            var sender = TreeSender(
                DescriptorCarrier(output: 1, answers: 0), options: options, progress: progress,
                record: try record(recordPath))
            try sender.send(files)
            return 0
        } catch {
            progress.clear()
            complain(program, error.text)
            return 1
        }
    }

    private static func record(_ path: String?) throws(SendFailure) -> SentRecord? {
        guard let path else { return nil }
        do throws(Errno) {
            return SentRecord(try Descriptor.open(path, O_WRONLY))
        } catch {
            throw .file(FileProblem(Array(path.utf8), error))
        }
    }

    private static let help = """
        Usage: qfile-agent [--ignore-symlinks] [--] FILE...
        Sends files and directories to the service qubes.Filecopy: the local program that qvm-copy
        gives to qrexec-client-vm. Standard output takes the stream, standard input gives the
        answer.

              --ignore-symlinks   leave symbolic links out
              --record=FILE       write down what was sent and confirmed, for qvm-move
          -h, --help              show this text
              --version           show the version

        Environment: PROGRESS_TYPE is console (a line on standard error), gui (numbers of bytes as
        lines to the descriptor in SAVED_FD_1) or none; FILECOPY_TOTAL_BYTES is the size of all.
        Exit status: 0 when the other qube has everything and said so, 1 for a failure, 2 for a
        wrong command line.

        """
}

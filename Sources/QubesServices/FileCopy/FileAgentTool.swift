import Glibc
import LinuxSystem
import SystemPackage

/// `qfile-agent`, the sender of file copies: the stream goes out of standard output, the answer
/// comes in by standard input. Exit status: 0 when the receiver has confirmed everything, 1 for
/// every failure, 2 for a wrong command line.
public enum FileAgentTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        var command = ToolArguments(arguments, name: "qfile-agent")
        var options = TreeSender.Options()
        var recordPath: String?
        let ended = command.takeOptions(help: help) { option in
            switch option {
            case "--ignore-symlinks": options.ignoreLinks = true
            case "--no-ignore-symlinks": options.ignoreLinks = false
            default:
                recordPath = option.after("--record=")
                return recordPath != nil
            }
            return true
        }
        if let ended { return ended }
        if command.rest.isEmpty { return command.refuse("no file to send") }
        return send(command.program, Array(command.rest), options, recordPath)
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

import Glibc
import LinuxSystem
import QrexecClient
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// `qvm-copy`, `qvm-move`, `qvm-copy-to-vm` and `qvm-move-to-vm`: the name decides.
///
/// Exit status: 0 when everything arrived (and, for a move, was deleted here); 1 for a failure; 2
/// for a wrong command line; 126 when the call was refused; else that of the call.
public enum CopyTool {
    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qvm-copy")
        do throws(CopyCommand.Problem) {
            guard let command = try CopyCommand(program: program, Array(arguments.dropFirst()))
            else { return 0 }
            return copy(command)
        } catch {
            complain(program, "\(error.text); see --help")
            return 2
        }
    }

    private static func copy(_ command: CopyCommand) -> Int32 {
        if Dom0Call.isHere && command.target == "@default" {
            complain(
                command.program, "dom0 has nobody to ask: use \(command.program)-to-vm QUBE FILE..."
            )
            return 1
        }
        CurrentProcess.raiseDescriptorLimit()
        let finding: TreeCheck.Finding
        do throws(FileProblem) {
            let options = TreeCheck.Options(
                ignoreLinks: command.ignoreLinks,
                countsBytes: CopyProgress.style(wanted: command.progress) != .none)
            finding = try TreeCheck(options: options).check(command.files)
        } catch {
            complain(command.program, "\(error.line). Nothing was sent.")
            return 1
        }
        do throws(FileProblem) {
            let record = try command.isMove ? openRecord() : nil
            let status = try runClient(command, finding, record)
            if status != 0 {
                explain(status, command)
                return status
            }
            guard let record else { return 0 }
            return try deleteSent(command, record)
        } catch {
            complain(command.program, error.line)
            return 1
        }
    }

    /// A file without a name that the sender writes to: nothing of it can stay behind.
    private static func openRecord() throws(FileProblem) -> Int32 {
        for directory in ["/var/tmp", "/tmp"] {
            guard let place = try? Descriptor.open(directory, O_RDONLY | O_DIRECTORY),
                let file = try? place.openUnnamedForReading(mode: 0o600)
            else { continue }
            return file.release()
        }
        do throws(Errno) {
            return try Descriptor.memoryFile(named: "sent").release()
        } catch {
            throw FileProblem(Array("record of what was sent".utf8), error)
        }
    }

    // MARK: The call

    private static func runClient(
        _ command: CopyCommand, _ finding: TreeCheck.Finding, _ record: Int32?
    ) throws(FileProblem) -> Int32 {
        let allNames = finding.firstUnusualName != nil
        let service = allNames ? "qubes.Filecopy+allow-all-names" : "qubes.Filecopy"
        let total = finding.totalBytes
        if Dom0Call.isHere {
            CurrentProcess.ignoreBrokenPipes()
            let call = try Dom0Call(target: command.target, service: service)
            do throws(CarrierFailure) {
                let isSent = try transmit(command, over: call.carrier, total: total, record)
                return isSent ? call.finish() : max(call.finish(), 1)
            } catch {
                throw FileProblem(Array(service.utf8), Self.reason(error))
            }
        }
        if try Programs.callsItself {
            return try send(command, service, total: total, record)
        }
        var program = Programs.own("qfile-agent")
        if command.ignoreLinks { program.append("--ignore-symlinks") }
        if let record { program.append("--record=/proc/\(CurrentProcess.id)/fd/\(record)") }
        program += ["--"] + command.files
        let call = RemoteCall(
            target: command.target, service: service, localProgram: program,
            environment: environment(command, total: total))
        return try call.run()
    }

    /// Seconds that the other side has to end after this side has broken off.
    private static let timeToEnd: UInt64 = 10

    /// Makes the call and sends the files in this process.
    private static func send(
        _ command: CopyCommand, _ service: String, total: UInt64, _ record: Int32?
    ) throws(FileProblem) -> Int32 {
        CurrentProcess.ignoreBrokenPipes()
        do throws(CarrierFailure) {
            let request = CallRequest(target: command.target, service: service)
            guard let call = try RingCall.begin(request) else { return CallStatus.refused }
            if try transmit(command, over: call, total: total, record) {
                return call.finish(deadline: nil)
            }
            let deadline = CurrentProcess.now + timeToEnd * 1_000_000_000
            return max(call.finish(deadline: deadline), 1)
        } catch {
            throw FileProblem(Array(service.utf8), Self.reason(error))
        }
    }

    /// Sends the files.
    ///
    /// - Returns: whether the other side has confirmed all of it; says why when not.
    private static func transmit(
        _ command: CopyCommand, over carrier: any StreamCarrier, total: UInt64, _ record: Int32?
    ) throws(CarrierFailure) -> Bool {
        let progress = CopyProgress(
            style: CopyProgress.style(wanted: command.progress), total: total)
        var options = TreeSender.Options(ignoreLinks: command.ignoreLinks)
        options.warn = {
            progress.clear()
            complain(command.program, $0)
        }
        var sender = TreeSender(
            carrier, options: options, progress: progress, record: try recordFile(record))
        do throws(SendFailure) {
            try sender.send(command.files)
            return true
        } catch {
            progress.clear()
            complain(command.program, error.text)
            return false
        }
    }

    private static func reason(_ failure: CarrierFailure) -> String {
        if case .failed(let reason) = failure { return reason }
        return "the connection ended"
    }

    private static func recordFile(_ record: Int32?) throws(CarrierFailure) -> SentRecord? {
        guard let record else { return nil }
        do throws(Errno) {
            return SentRecord(try Descriptor.duplicate(of: record))
        } catch {
            throw .failed(error.message)
        }
    }

    private static func environment(_ command: CopyCommand, total: UInt64) -> [String] {
        var entries = CurrentProcess.environment.filter {
            !$0.hasPrefix("FILECOPY_TOTAL_BYTES=")
                && !(command.progress != nil && $0.hasPrefix("PROGRESS_TYPE="))
        }
        entries.append("FILECOPY_TOTAL_BYTES=\(total)")
        if let wanted = command.progress {
            entries.append("PROGRESS_TYPE=\(wanted ? "console" : "none")")
        }
        return entries
    }

    private static func explain(_ status: Int32, _ command: CopyCommand) {
        let nothing = command.isMove ? " Nothing was deleted here." : ""
        switch status {
        case 126:
            complain(
                command.program, "the copy was refused by the policy or by the user.\(nothing)")
        case 129...159:
            complain(
                command.program,
                "stopped by a signal; files that arrived whole stay in the other qube.\(nothing)")
        default:
            complain(command.program, "the copy failed (exit status \(status)).\(nothing)")
        }
    }

    // MARK: Deleting

    private static func deleteSent(
        _ command: CopyCommand, _ record: Int32
    ) throws(FileProblem) -> Int32 {
        let name = Array("record of what was sent".utf8)
        do throws(Errno) {
            var reader = try SentRecordReader(Descriptor(taking: record))
            guard try MoveCompletion.isConfirmed(&reader) else {
                complain(
                    command.program,
                    "the sender did not confirm that all was sent. Nothing was deleted here.")
                return 1
            }
            var completion = MoveCompletion(arguments: command.files) {
                complain(command.program, $0)
            }
            try completion.delete(&reader)
            if completion.kept == 0 { return 0 }
            complain(
                command.program,
                "everything was copied, but \(completion.kept) files or directories stay here")
            return 1
        } catch {
            throw FileProblem(name, error)
        }
    }
}

import Glibc
import LinuxSystem
import SystemPackage

/// `qvm-open-in-vm` and `qvm-open-in-dvm`: opens a file or an address in another qube, and takes the
/// changed file back. Exit status: 0, 1 for a failure, 2 for a wrong command line, 126 when refused,
/// else that of the call.
public enum OpenTool {
    struct Command: Equatable {
        var program: String
        var target: String
        var what: String
        var isViewOnly = false
    }

    /// - Parameter arguments: all of argv.
    public static func run(arguments: [String]) -> Int32 {
        var rest = ToolArguments(arguments, name: "qvm-open-in-vm")
        let program = rest.program
        let takesQube = !program.hasSuffix("-dvm")
        var command = Command(program: program, target: "@dispvm", what: "")
        let ended = rest.takeOptions(help: help(program, takesQube)) { option in
            command.isViewOnly = option == "--view-only"
            return command.isViewOnly
        }
        if let ended { return ended }
        if takesQube { command.target = rest.next() ?? "" }
        guard let what = rest.next(), rest.rest.isEmpty, !command.target.isEmpty,
            !command.target.hasPrefix("-")
        else {
            let wanted = takesQube ? "a qube and one file or address" : "one file or address"
            return rest.refuse("expected \(wanted)")
        }
        command.what = what
        do throws(FileProblem) {
            CurrentProcess.ignoreBrokenPipes()
            let status = try open(command)
            if status == 126 { complain(program, "refused by the policy or by the user") }
            return status
        } catch {
            complain(program, error.line)
            return 1
        }
    }

    private static func open(_ command: Command) throws(FileProblem) -> Int32 {
        let address = Array(command.what.utf8)
        if OpenURLRequest.accepts(address) {
            let line = command.what + "\n"
            if try Programs.callsItself {
                return try OpenCall(target: command.target, service: "qubes.OpenURL").send(line)
            }
            var call = RemoteCall(target: command.target, service: "qubes.OpenURL")
            call.input = line
            return try call.run()
        }
        if let path = filePath(of: command.what) { return try openFile(path, command) }
        throw FileProblem(address, "only http, https, ftp and file addresses can be opened")
    }

    /// The file that is meant: the argument itself, or that of a `file://` address; nil for other
    /// addresses.
    static func filePath(of what: String) -> String? {
        guard let colon = what.firstRange(of: "://") else { return what }
        let scheme = what[..<colon.lowerBound]
        let isScheme = !scheme.isEmpty && scheme.utf8.allSatisfy { (0x61...0x7A).contains($0) }
        if !isScheme { return what }
        let rest = what[colon.upperBound...]
        guard scheme == "file", rest.hasPrefix("/") else { return nil }
        return percentDecoded(Array(rest.utf8))
    }

    private static func percentDecoded(_ text: [UInt8]) -> String? {
        var bytes: [UInt8] = []
        var i = 0
        while i < text.count {
            guard text[i] == UInt8(ascii: "%") else {
                bytes.append(text[i])
                i += 1
                continue
            }
            guard i + 2 < text.count,
                let byte = UInt8(
                    String(decoding: text[(i + 1)...(i + 2)], as: UTF8.self), radix: 16),
                byte != 0
            else { return nil }
            bytes.append(byte)
            i += 3
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func openFile(_ path: String, _ command: Command) throws(FileProblem) -> Int32 {
        let answer = command.isViewOnly ? nil : try EditedFile(of: path)
        let status =
            try Programs.callsItself
            ? try OpenCall(target: command.target, service: "qubes.OpenInVM")
                .exchange(path, isViewOnly: command.isViewOnly, into: answer?.number)
            : try callByClient(path, command, into: answer?.number)
        guard let answer else { return status }
        // Only an orderly end says that what came back is whole.
        if status != 0 {
            complain(command.program, "\(path) stays as it is (exit status \(status))")
            return status
        }
        if let note = try answer.replaceOriginal() { complain(command.program, note) }
        return 0
    }

    /// Another client makes the call, with `qopen-in-vm` at this end.
    private static func callByClient(
        _ path: String, _ command: Command, into: Int32?
    ) throws(FileProblem) -> Int32 {
        var program = Programs.own("qopen-in-vm")
        if let into {
            program.append("--into=/proc/\(CurrentProcess.id)/fd/\(into)")
        } else {
            program.append("--view-only")
        }
        return try RemoteCall(
            target: command.target, service: "qubes.OpenInVM",
            localProgram: program + ["--", path]
        ).run()
    }

    private static func help(_ program: String, _ takesQube: Bool) -> String {
        """
        Usage: \(program) [--view-only] [--] \(takesQube ? "QUBE " : "")FILE|ADDRESS
        Opens a file in \(takesQube ? "QUBE" : "a disposable qube") and waits until it is closed \
        there. If it was changed, it replaces
        yours, but only when all of it came back. Or opens an http, https or ftp address there.

              --view-only   the file cannot be changed there, and nothing comes back
          -h, --help        show this text
              --version     show the version

        Exit status: 0, 1 for a failure, 2 for a wrong command line, 126 when refused, else that of
        the call.

        """
    }
}

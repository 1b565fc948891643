import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// The services `qubes.ClipboardCopy` and `qubes.ClipboardPaste`: a qube's side of the clipboard
/// between qubes (specification 17). Only who carries texts between qubes may call them: dom0, or
/// the qube that `manager` in `/etc/qubes/clipboard.conf` names.
public enum ClipboardServices {
    /// Gives the text in this qube's clipboard; nothing when there is none. Exit status: 0, or 1.
    ///
    /// - Parameter arguments: all of argv; the service takes none.
    public static func copy(arguments: [String]) -> Int32 {
        serve(arguments, "qubes.ClipboardCopy") { () throws(FileProblem) in
            let limit = ClipboardText.limits.upperBound
            let text = try OwnClipboard.present.read(limit: limit)
            do throws(Errno) {
                // One byte too many tells that there was more.
                try Descriptor.writeAll(text, to: 1)
            } catch {
                throw FileProblem(Array("caller".utf8), error)
            }
        }
    }

    /// Takes a text as this qube's clipboard; one that is no text, or that breaks off, changes
    /// nothing. Exit status: 0, or 1.
    ///
    /// - Parameter arguments: all of argv; the service takes none.
    public static func paste(arguments: [String]) -> Int32 {
        serve(arguments, "qubes.ClipboardPaste") { () throws(FileProblem) in
            let text: [UInt8]
            do throws(Errno) {
                text = try BoundedRead.all(
                    of: 0, limit: ClipboardText.limits.upperBound,
                    deadline: CurrentProcess.now + patience)
            } catch {
                throw FileProblem(Array("text".utf8), error)
            }
            do throws(ClipboardText.Refusal) {
                try ClipboardText.check(text, limit: ClipboardText.limits.upperBound)
            } catch {
                throw FileProblem(Array("text".utf8), error.text)
            }
            try OwnClipboard.present.set(text)
        }
    }

    /// Nanoseconds for all of a text to come.
    private static let patience: UInt64 = 30_000_000_000

    private static func serve(
        _ arguments: [String], _ name: String, _ body: () throws(FileProblem) -> Void
    ) -> Int32 {
        let program = programName(arguments.first ?? name)
        CurrentProcess.ignoreBrokenPipes()
        guard arguments.count < 2 || arguments[1].isEmpty else {
            complain(program, "this service takes no argument")
            return 1
        }
        var settings = Settings(keys: ["limit", "timeout", "manager"])
        settings.load(file: "clipboard.conf", home: "/nonexistent")
        let manager = settings.values["manager"] ?? "dom0"
        guard CurrentProcess.variable("QREXEC_REMOTE_DOMAIN") == manager else {
            complain(program, "only \(manager) may call this")
            return 1
        }
        do throws(FileProblem) {
            try body()
            return 0
        } catch {
            complain(program, error.line)
            return 1
        }
    }
}

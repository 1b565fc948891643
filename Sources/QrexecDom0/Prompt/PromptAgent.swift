import Glibc
import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// Where people are asked.
protocol PromptSurface: AnyObject {
    /// Asks.
    ///
    /// - Parameter reply: called once with the chosen target, or nil for a refusal, unless it is
    ///   cancelled.
    /// - Returns: what takes the question back.
    func ask(_ request: PromptRequest, _ reply: @escaping (String?) -> Void) -> () -> Void
    func tell(_ notification: PromptNotification)
}

/// Serves policy.Ask and policy.Notify (section 13.3): one socket for both.
final class PromptAgent {
    private let server: RequestServer

    /// Nanoseconds for which a question takes no answer: it must have been seen.
    static let guardTime = seconds(1)

    init(_ loop: EventLoop, path: String, surface: PromptSurface, log: Log) throws(Errno) {
        server = try RequestServer(
            loop, path: path, limit: PromptRequest.maximumSize, log: log,
            frame: { input, _, isEnd in
                if !isEnd { return .incomplete }
                return input.isEmpty ? .nothing : .complete(input.count)
            },
            handle: { bytes, reply in
                Self.serve(bytes, surface, log, reply)
            })
    }

    /// - Parameter bytes: the descriptor, NUL, JSON.
    private static func serve(
        _ bytes: ArraySlice<UInt8>, _ surface: PromptSurface, _ log: Log,
        _ reply: @escaping RequestServer.Reply
    ) -> RequestServer.Cancel? {
        let end = bytes.firstIndex(of: 0) ?? bytes.startIndex
        let words = bytes[..<end].split(separator: 0x20).map { String(decoding: $0, as: UTF8.self) }
        // Only the policy of dom0 asks; qubes that get here by a mistake in policy are told nothing.
        guard words.count >= 2, words[1] == "dom0" || words[1] == "@adminvm" else {
            log.warning("request refused: it does not come from dom0")
            reply(nil)
            return nil
        }
        let payload = Array(bytes[(end + 1)...])
        let service = words[0].prefix { $0 != "+" }
        do throws(PromptRequest.Malformed) {
            switch service {
            case "policy.Ask":
                let request = try PromptRequest(payload)
                return surface.ask(request) { target in
                    reply(Array((target.map { "allow:" + $0 } ?? "deny").utf8))
                }
            case "policy.Notify":
                surface.tell(try PromptNotification(payload))
                reply(nil)
            default:
                log.warning(
                    "request refused: there is no service '\(LogText.line(String(service)))' here")
                reply(nil)
            }
        } catch {
            log.warning("request refused: \(error)")
            reply(service == "policy.Ask" ? Array("deny".utf8) : nil)
        }
        return nil
    }
}

/// `qrexec-policy-agent`: asks and tells people about calls, on the desktop or on a terminal.
public enum PromptAgentProgram {
    static let program = "qrexec-policy-agent"

    static let help = """
        usage: qrexec-policy-agent [OPTION]...

        Asks people about calls that policy says to ask about, and tells them about denied ones.
        To be started in the session of the desktop, in dom0 or in the qube that shows the windows;
        with --terminal it asks on its terminal, in a lab for example.

          -s, --socket-path PATH   where it is asked (/var/run/qubes/policy-agent.sock)
          --terminal               ask on standard input and output
          --window PROGRAM         the program that asks in a window
                                   (/usr/lib/qubes/qrexec-policy-window)
          -h, --help               this text
          --version                the version

        Only the targets that policy allows can be chosen, and no answer counts in the first second.
        On a terminal 'deny' or Escape refuses, and so does the end of the input.

        Exit status: 0 after SIGTERM, SIGINT or the end of the terminal, 1 when it could not start,
        64 for a wrong option.

        """

    private struct Options {
        var socket = "/var/run/qubes/policy-agent.sock"
        var window = "/usr/lib/qubes/qrexec-policy-window"
        var isTerminal = false
        var shown: String?
    }

    /// Runs the agent until it is told to end.
    ///
    /// - Parameter arguments: the program's name first.
    public static func run(arguments: [String]) -> Int32 {
        var options = Options()
        let parser = OptionParser([
            .init(short: "s", long: "socket-path", takesValue: true), .init(long: "terminal"),
            .init(long: "window", takesValue: true), .init(short: "h", long: "help"),
            .init(long: "version"),
        ])
        do throws(OptionParser.UsageError) {
            let operands = try parser.parse(Array(arguments.dropFirst())) { name, value in
                switch name {
                case "socket-path": options.socket = value
                case "terminal": options.isTerminal = true
                case "window": options.window = value
                case "help": options.shown = help
                default: options.shown = Version.line(program) + "\n"
                }
            }
            if let first = operands.first {
                throw OptionParser.UsageError("unexpected argument '\(first)'")
            }
        } catch {
            Terminal.printError("\(program): \(error.description); try --help")
            return 64
        }
        if let shown = options.shown {
            try? Descriptor.writeAll(Array(shown.utf8), to: 1)
            return 0
        }
        return serve(options)
    }

    private static func serve(_ options: Options) -> Int32 {
        let log = Log(program: program)
        CurrentProcess.ignoreBrokenPipes()
        do throws(Errno) {
            let loop = try EventLoop()
            let surface: PromptSurface
            if options.isTerminal {
                surface = try TerminalPrompt(loop) { loop.stop() }
            } else if (try? FileStatus.kind(of: options.window)) == nil {
                log.error(
                    "\(options.window) is not installed (make prompt-window builds it); "
                        + "--terminal asks on a terminal")
                return 1
            } else {
                surface = WindowPrompt(loop, log: log, window: options.window)
            }
            let agent = try PromptAgent(loop, path: options.socket, surface: surface, log: log)
            try loop.onSignals([SIGTERM, SIGINT, SIGHUP]) { _ in loop.stop() }
            if options.isTerminal { Terminal.print("Waiting for questions; Ctrl-C ends.\n") }
            try withExtendedLifetime((agent, surface)) { () throws(Errno) in try loop.run() }
            return 0
        } catch {
            log.error(
                "cannot serve on \(options.socket): \(error)"
                    + (error == .addressInUse ? " (another agent listens there)" : ""))
            return 1
        }
    }
}

import Glibc
import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// `qrexec-policy-daemon`: answers the daemons of all qubes (section 13.1).
public enum PolicyDaemon {
    static let program = "qrexec-policy-daemon"

    static let help = """
        usage: qrexec-policy-daemon [OPTION]...

        Decides calls between qubes by the rules in the policy directories.

          --policy-path PATH         directory of policy files; may be given several times, the
                                     first one hides equal names in the others
                                     (/run/qubes/policy.d, then /etc/qubes/policy.d)
          --socket-path PATH         socket for the daemons of the qubes
                                     (/run/qubes/policy.sock)
          --dispatcher-socket PATH   where the starter registers confined daemons
                                     (/run/qubes/dispatcher.sock)
          --eval-socket-path PATH    socket of the service policy.EvalSimple
                                     (/etc/qubes-rpc/policy.EvalSimple)
          --gui-socket-path PATH     socket of the service policy.EvalGUI
                                     (/etc/qubes-rpc/policy.EvalGUI)
          --supervised               be started again whenever it ends by itself; for systems
                                     without a service manager that does so
          -h, --help                 this text
          --version                  the version

        SIGHUP reads the policy again; changed files are noticed without it. QUBESD_SOCKET and
        QUBESD_INTERNAL_SOCKET name other sockets of qubesd.

        Exit status: 0 after SIGTERM or SIGINT, 1 when it could not start, 64 for a wrong option.

        """

    struct Options {
        var policyPaths: [String] = []
        var socket = "/run/qubes/policy.sock"
        /// nil: beside the socket for the daemons.
        var dispatcherSocket: String?
        var evalSocket = "/etc/qubes-rpc/policy.EvalSimple"
        var guiSocket = "/etc/qubes-rpc/policy.EvalGUI"
        var isSupervised = false

        var dispatcherPath: String {
            let standard = socket == "/run/qubes/policy.sock"
            return dispatcherSocket
                ?? (standard ? Dispatcher.defaultSocket : socket + ".dispatcher")
        }

        /// Beside the socket.
        var statusPath: String {
            socket == "/run/qubes/policy.sock" ? PolicyStatus.defaultPath : socket + ".status"
        }
    }

    /// Runs the daemon until it is told to end.
    ///
    /// - Parameter arguments: the program's name first.
    public static func run(arguments: [String]) -> Int32 {
        var options = Options()
        var index = 1
        while index < arguments.count {
            var argument = arguments[index]
            index += 1
            if argument == "-h" || argument == "--help" { return say(help) }
            if argument == "--version" { return say(Version.line(program) + "\n") }
            if argument == "--supervised" {
                options.isSupervised = true
                continue
            }
            var value: String?
            if let equals = argument.firstIndex(of: "="), argument.hasPrefix("--") {
                value = String(argument[argument.index(after: equals)...])
                argument = String(argument[..<equals])
            } else if index < arguments.count {
                value = arguments[index]
                index += 1
            }
            guard let value else { return misused("\(argument) needs a path") }
            switch argument {
            case "--policy-path": options.policyPaths.append(value)
            case "--socket-path": options.socket = value
            case "--dispatcher-socket": options.dispatcherSocket = value
            case "--eval-socket-path": options.evalSocket = value
            case "--gui-socket-path": options.guiSocket = value
            default: return misused("unknown option '\(argument)'")
            }
        }
        if !options.isSupervised { return serve(options) }
        let log = Log(program: program)
        do throws(Errno) {
            return try Supervisor.run(arguments.filter { $0 != "--supervised" }, log: log)
        } catch {
            log.error("cannot supervise: \(error)")
            return 1
        }
    }

    private static func say(_ text: String) -> Int32 {
        try? Descriptor.writeAll(Array(text.utf8), to: 1)
        return 0
    }

    private static func misused(_ text: String) -> Int32 {
        let line = "\(program): \(text); try --help\n"
        try? Descriptor.writeAll(Array(line.utf8), to: 2)
        return 64
    }

    private static func serve(_ options: Options) -> Int32 {
        let log = Log(program: program)
        CurrentProcess.ignoreBrokenPipes()
        let directories =
            options.policyPaths.isEmpty
            ? PolicyDirectories() : PolicyDirectories(options.policyPaths)
        do throws(Errno) {
            let loop = try EventLoop()
            var paths = PolicyAuthority.Paths()
            paths.status = options.statusPath
            let authority = try PolicyAuthority(loop, directories, log: log, paths: paths)
            let dispatcher = dispatcher(authority, loop, options.dispatcherPath, log)
            let server = try PolicyServer.forDaemons(
                authority, loop, path: options.socket, log: log)
            var others: [RequestServer] = []
            for (path, isGUI) in [(options.evalSocket, false), (options.guiSocket, true)] {
                if let other = evaluation(authority, loop, path, isGUI: isGUI, log) {
                    others.append(other)
                }
            }
            try loop.onSignals([SIGTERM, SIGINT, SIGHUP]) { signal in
                if signal == SIGHUP { authority.reload() } else { loop.stop() }
            }
            log.info("listening", ["socket": options.socket])
            ServiceManager.tell("READY=1")
            if let time = ServiceManager.watchdogTime { feedWatchdog(loop, every: time / 3) }
            try withExtendedLifetime((server, others, dispatcher)) { () throws(Errno) in
                try loop.run()
            }
            ServiceManager.tell("STOPPING=1")
            authority.close()
            log.info("ended")
            return 0
        } catch {
            log.error(
                "cannot serve on \(options.socket): \(error)"
                    + (error == .noSuchFileOrDirectory ? " (its directory must exist)" : "")
                    + (error == .addressInUse ? " (another policy daemon listens there)" : ""))
            return 1
        }
    }

    /// Tells the service manager again and again that the loop turns.
    private static func feedWatchdog(_ loop: EventLoop, every time: UInt64) {
        ServiceManager.tell("WATCHDOG=1")
        loop.schedule(after: time) { feedWatchdog(loop, every: time) }
    }

    /// Serves confined daemons; nil, told in the log, when that is not possible: daemons that do
    /// everything themselves do not need it.
    private static func dispatcher(
        _ authority: PolicyAuthority, _ loop: EventLoop, _ path: String, _ log: Log
    ) -> Dispatcher? {
        do throws(Errno) {
            return try Dispatcher(authority, loop, path: path, log: log)
        } catch {
            log.warning("cannot serve confined daemons on \(path): \(error)")
            return nil
        }
    }

    /// Serves those who only want to know; nil, told in the log, when that is not possible: calls
    /// between qubes do not need them. Who may not write where services are listens in /run/qubes,
    /// where the installed links lead.
    private static func evaluation(
        _ authority: PolicyAuthority, _ loop: EventLoop, _ path: String, isGUI: Bool, _ log: Log
    ) -> RequestServer? {
        do throws(Errno) {
            do throws(Errno) {
                return try PolicyServer.forEvaluation(
                    authority, loop, path: path, isGUI: isGUI, log: log)
            } catch
                where path.hasPrefix("/etc/qubes-rpc/")
                && (error == .permissionDenied || error == .readOnlyFileSystem)
            {
                let place = "/run/qubes/" + path.dropFirst("/etc/qubes-rpc/".count)
                return try PolicyServer.forEvaluation(
                    authority, loop, path: place, isGUI: isGUI, log: log)
            }
        } catch {
            log.warning("cannot serve on \(path): \(error)")
            return nil
        }
    }
}

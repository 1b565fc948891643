import Glibc
import LinuxSystem
import QrexecDom0
import QrexecRuntime
import SettingsText
import SystemPackage

/// `qubes-xl-manager`: what qubesd is on Qubes OS, on a plain Xen host.
public enum ManagerProgram {
    static let name = "qubes-xl-manager"

    static let usage = """
        Usage: qubes-xl-manager [OPTIONS]

        Manages the qubes of a Xen host by xl, and serves qubesd's protocol to qrexec's programs.
        Keeps a qrexec-daemon for each qube that runs. Domains go on when it ends.

          --config=FILE          the qubes (default \(HostSettings.standardPath))
          --check                only look for mistakes in FILE
          --socket-dir=DIR       where qubesd.sock and qubesd.internal.sock are made (/run)
          --daemon=PROGRAM       stands for a qube that runs (qrexec-daemon-starter beside this
                                 program, which confines qrexec-daemon; else that)
          --daemon-socket-dir=DIR  where daemons have their sockets (/run/qubes)
          --user=USER            whom PROGRAM runs as; a starter, root; else, as root, the first
                                 member of group qubes
          --store-watch=PROGRAM  xenstore-watch (/usr/bin/xenstore-watch)
          -q, --quiet            warnings and errors only
          -h, --help
          --version

        SIGHUP reads FILE again; a mistake in it changes nothing.

        Exit status: 0 after SIGTERM or SIGINT, 1 when it could not start or FILE has a mistake,
        64 for wrong usage.
        """

    private struct Arguments {
        var configuration = HostSettings.standardPath
        var onlyChecks = false
        var socketDirectory = "/run"
        var daemon: String?
        var daemonSocketDirectory = "/run/qubes"
        var user: String?
        var storeWatch = "/usr/bin/xenstore-watch"
        var quiet = false
    }

    private static let program = Program(
        name, usage: usage,
        ["config", "socket-dir", "daemon", "daemon-socket-dir", "user", "store-watch"].map {
            .init(long: $0, takesValue: true)
        } + [.init(long: "check"), .init(short: "q", long: "quiet")], wrongUsage: 64)

    public static func run(arguments: [String]) -> Int32 {
        CurrentProcess.openClosedStreams()
        return program.run(
            arguments, Arguments(), option: set, operands: Program.none, body: manage)
    }

    private static func manage(_ parsed: Arguments) -> Int32 {
        CurrentProcess.ignoreBrokenPipes()
        do throws(HostProblem) {
            if parsed.onlyChecks {
                let settings = try settings(parsed.configuration)
                Terminal.print("\(parsed.configuration): \(settings.qubes.count - 1) qubes")
                return 0
            }
            return try serve(parsed)
        } catch {
            Terminal.printError("\(name): \(error.reason)")
            return 1
        }
    }

    private static func set(_ result: inout Arguments, _ option: String, _ value: String) {
        switch option {
        case "config": result.configuration = value
        case "check": result.onlyChecks = true
        case "socket-dir": result.socketDirectory = value
        case "daemon": result.daemon = value
        case "daemon-socket-dir": result.daemonSocketDirectory = value
        case "user": result.user = value
        case "store-watch": result.storeWatch = value
        default: result.quiet = true
        }
    }

    /// Reads the configuration file.
    static func settings(_ path: String) throws(HostProblem) -> HostSettings {
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try Descriptor.open(path, O_RDONLY).readAll(limit: SettingsTable.maximumSize)
        } catch {
            let example = "/usr/share/swift-qrexec/examples/xl.toml"
            throw HostProblem("cannot read \(path): \(error); begin with a copy of \(example)")
        }
        do throws(HostSettingsFile.Invalid) {
            return try HostSettingsFile.parse(String(decoding: bytes, as: UTF8.self), path: path)
        } catch {
            throw HostProblem(error.description)
        }
    }

    private static func daemon(
        _ arguments: Arguments
    ) throws(HostProblem) -> DaemonSpawner.Options {
        var options = DaemonSpawner.Options(
            program: arguments.daemon ?? DaemonSpawner.standardProgram,
            socketDirectory: arguments.daemonSocketDirectory)
        if let name = arguments.user {
            guard let account = UserAccount.named(name) else {
                throw HostProblem("there is no user '\(name)'")
            }
            options.user = account.identity
        } else if CurrentProcess.effectiveUser == 0, !options.program.hasSuffix("-starter") {
            // A starter opens what a daemon is given, and gives up the rest itself.
            options.user = DaemonSpawner.standardUser?.identity
        }
        return options
    }

    private static func serve(_ arguments: Arguments) throws(HostProblem) -> Int32 {
        var log = Log(program: name)
        if arguments.quiet { log.threshold = .warning }
        // The journal has its own.
        log.stampsTime = CurrentProcess.variable("JOURNAL_STREAM") == nil
        let settings = try settings(arguments.configuration)
        guard FileStatus.isExecutable(settings.xl) else {
            throw HostProblem(
                "cannot execute \(settings.xl): is this dom0 of a Xen host? (Debian: apt-get "
                    + "install xen-system-amd64, and boot Xen)")
        }
        let daemon = try daemon(arguments)
        let result: Result<Void, HostProblem>
        do throws(Errno) {
            let loop = try EventLoop()
            let manager = XenQubeManager(
                loop: loop, settings: settings,
                watch: StoreWatchProgram(loop: loop, program: arguments.storeWatch, log: log),
                daemons: DaemonSpawner(loop: loop, options: daemon, log: log), log: log)
            result = try serve(manager, arguments)
        } catch {
            throw HostProblem("\(error)")
        }
        try result.get()
        return 0
    }

    /// Serves until a signal; tells why it could not begin.
    private static func serve(
        _ manager: XenQubeManager, _ arguments: Arguments
    ) throws(Errno) -> Result<Void, HostProblem> {
        let loop = manager.loop
        let log = manager.log
        let server = QubesdServer(loop: loop, manager: manager, log: log)
        let sockets = ManagerSockets(directory: arguments.socketDirectory)
        var result: Result<Void, HostProblem> = .success(())
        try loop.onSignals([SIGTERM, SIGINT, SIGHUP]) { signal in
            if signal != SIGHUP { return loop.stop() }
            do throws(HostProblem) {
                manager.apply(try Self.settings(arguments.configuration))
            } catch {
                log.error("the old configuration stays: \(error.reason)")
            }
        }
        manager.begin {
            do throws(HostProblem) {
                try sockets.open(server)
                log.info("ready", ["qubes": String(manager.qubes.count - 1)])
                ServiceManager.tell("READY=1")
            } catch {
                result = .failure(error)
                loop.stop()
            }
        }
        try loop.run()
        server.stop()
        sockets.remove()
        manager.end()
        return result
    }
}

/// qubesd's sockets: for everybody in the group, and the one whose callers may ask for everything.
final class ManagerSockets {
    private let directory: String
    private var isOpen = false
    private static let names = [("qubesd.sock", false), ("qubesd.internal.sock", true)]

    init(directory: String) { self.directory = directory }

    /// - Throws: when somebody else listens there.
    func open(_ server: QubesdServer) throws(HostProblem) {
        for (name, _) in Self.names {
            let path = "\(directory)/\(name)"
            if (try? UnixSocket.connect(path)) != nil {
                throw HostProblem("another manager, or qubesd, listens at \(path)")
            }
        }
        isOpen = true
        for (name, isInternal) in Self.names {
            let path = "\(directory)/\(name)"
            do throws(Errno) {
                try FileStatus.remove(path)
                let socket = try UnixSocket.listen(path, mode: 0o660)
                if CurrentProcess.effectiveUser == 0, let group = UserGroup.number(of: "qubes") {
                    try PathStatus.changeOwner(path, uid: 0, gid: group)
                }
                try server.serve(socket, allowsInternal: isInternal)
            } catch {
                throw HostProblem("cannot listen at \(path): \(error)")
            }
        }
    }

    func remove() {
        guard isOpen else { return }
        for (name, _) in Self.names { try? FileStatus.remove("\(directory)/\(name)") }
    }
}

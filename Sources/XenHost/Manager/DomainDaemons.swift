import Glibc
import LinuxSystem
import QrexecDom0
import QrexecRuntime
import SystemPackage

/// A domain of a qube, from its appearance to its end.
struct RunningDomain: Equatable {
    var id: UInt32
    var name: String
    var uuid: String
    /// Whom services run as when nobody says otherwise.
    var defaultUser: String
}

/// Who keeps a qrexec-daemon for each running domain.
protocol DomainDaemons: AnyObject {
    /// A domain is there; its daemon is to connect as soon as its agent is.
    func started(_ domain: RunningDomain)
    /// A domain is gone, and with it whatever stood for it.
    func ended(_ domain: RunningDomain)
    /// Told, on the loop, that agent and daemon of a domain are connected.
    var onConnected: (RunningDomain) -> Void { get set }
    /// Told that a daemon cannot be had at all.
    var onFailure: (RunningDomain, String) -> Void { get set }
    func stop()
}

/// Starts `qrexec-daemon`, or the program that confines one, for each domain, again when it ends.
final class DaemonSpawner: DomainDaemons {
    struct Options {
        var program: String
        /// Where daemons have their sockets.
        var socketDirectory: String
        /// Whom they run as; nil for this process's user.
        var user: UserIdentity?
    }

    private static let lookInterval = milliseconds(20)

    private final class Daemon {
        let domain: RunningDomain
        let sockets: DaemonSockets
        var process: ChildProcess?
        var pause = RestartPause(longest: seconds(10), steady: seconds(30))
        var timer: EventLoop.Timer?
        var isConnected = false

        init(_ domain: RunningDomain, in directory: String) {
            self.domain = domain
            sockets = DaemonSockets(
                directory: directory, domain: domain.id, name: domain.name, uuid: domain.uuid)
        }
    }

    private let loop: EventLoop
    private let options: Options
    private let log: Log
    private var daemons: [UInt32: Daemon] = [:]
    private var isLooking = false
    var onConnected: (RunningDomain) -> Void = { _ in }
    var onFailure: (RunningDomain, String) -> Void = { _, _ in }

    init(loop: EventLoop, options: Options, log: Log) {
        self.loop = loop
        self.options = options
        self.log = log
    }

    func started(_ domain: RunningDomain) {
        guard daemons[domain.id] == nil else { return }
        let daemon = Daemon(domain, in: options.socketDirectory)
        daemons[domain.id] = daemon
        start(daemon)
        look()
    }

    private func start(_ daemon: Daemon) {
        daemon.sockets.removeAll()
        daemon.pause.begin()
        let domain = daemon.domain
        do throws(Errno) {
            let null = try Descriptor.open("/dev/null", O_RDONLY)
            var request = SpawnRequest(
                path: options.program,
                arguments: [
                    options.program, "--direct", "--socket-dir=\(options.socketDirectory)",
                    "-u", domain.uuid, "--", String(domain.id), domain.name, domain.defaultUser,
                ], environment: CurrentProcess.environment)
            request.descriptors = [null.number, 2, 2]
            request.directory = "/"
            request.newSession = true
            // Nobody would start it again.
            request.diesWithParent = true
            request.user = options.user
            let child = try ChildProcess.spawn(request)
            try loop.watch(child.pidfd.number, .readable) { [unowned self, unowned daemon] _ in
                self.ended(daemon)
            }
            daemon.process = consume child
        } catch {
            onFailure(domain, "cannot start \(options.program): \(error)")
            again(daemon)
        }
    }

    private func ended(_ daemon: Daemon) {
        guard let child = daemon.process.take() else { return }
        loop.unwatch(child.pidfd.number)
        let status = (try? child.reap()) ?? 127
        log.warning(
            "qrexec-daemon ended and is started again",
            ["qube": daemon.domain.name, "status": String(status)])
        again(daemon)
    }

    private func again(_ daemon: Daemon) {
        daemon.timer = loop.schedule(after: daemon.pause.next()) { [weak self, weak daemon] in
            if let daemon { self?.start(daemon) }
        }
    }

    /// Looks, while a daemon is to come up, for its socket, which it makes when it is connected.
    private func look() {
        guard !isLooking else { return }
        isLooking = true
        loop.schedule(after: Self.lookInterval) { [weak self] in
            guard let self else { return }
            self.isLooking = false
            let pending = self.daemons.values.filter { !$0.isConnected }
            for daemon in pending where PathStatus.exists(daemon.sockets.path) {
                daemon.isConnected = true
                self.onConnected(daemon.domain)
            }
            if self.daemons.values.contains(where: { !$0.isConnected }) { self.look() }
        }
    }

    func ended(_ domain: RunningDomain) {
        guard let daemon = daemons.removeValue(forKey: domain.id) else { return }
        end(daemon)
    }

    private func end(_ daemon: Daemon) {
        if let timer = daemon.timer { loop.cancel(timer) }
        if let child = daemon.process.take() {
            loop.unwatch(child.pidfd.number)
            child.signal(SIGKILL)
            _ = try? child.reap()
        }
        daemon.sockets.removeAll()
    }

    func stop() {
        for daemon in daemons.values { end(daemon) }
        daemons = [:]
    }

    /// Beside this program; the one that confines daemons where there is one.
    static var standardProgram: String {
        let own = FileStatus.linkText("/proc/self/exe") ?? "/usr/lib/qubes/"
        let directory = own[..<(own.lastIndex(of: "/") ?? own.startIndex)]
        let starter = "\(directory)/qrexec-daemon-starter"
        return FileStatus.isExecutable(starter) ? starter : "\(directory)/qrexec-daemon"
    }

    /// The first member of the group `qubes`, as whom dom0's services run too; nil when there is
    /// none.
    static var standardUser: UserAccount? {
        guard let bytes = try? Descriptor.open("/etc/group", O_RDONLY).readAll(limit: 4 << 20)
        else { return nil }
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: ":", omittingEmptySubsequences: false)
            guard fields.count >= 4, fields[0] == "qubes" else { continue }
            return fields[3].split(separator: ",").first.flatMap { .named(String($0)) }
        }
        return nil
    }
}

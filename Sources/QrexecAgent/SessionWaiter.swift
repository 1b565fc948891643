import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Holds calls until their user's graphical session is there (section 8): one waiting program a
/// user, whose end, with whatever status, lets the calls go.
final class SessionWaiter {
    /// Calls that wait at a time; more go on at once.
    static let maximumWaiting = 256
    private static let service = ServiceCall(descriptor: "qubes.WaitForSession", source: "dom0")

    private final class Wait {
        var child: ChildProcess?
        var actions: [() -> Void] = []
    }

    private let loop: EventLoop
    private let log: Log
    private var waits: [String: Wait] = [:]

    init(loop: EventLoop, log: Log) {
        self.loop = loop
        self.log = log
    }

    private var waiting: Int { waits.values.reduce(0) { $0 + $1.actions.count } }
    var isEmpty: Bool { waits.isEmpty }

    /// Runs an action when the user's session is there; at once where nobody can tell.
    func whenSessionIsThere(of user: String, _ action: @escaping () -> Void) {
        guard waiting < Self.maximumWaiting else {
            log.warning("too many calls wait for a session: one goes on without", ["user": user])
            action()
            return
        }
        if let wait = waits[user] {
            wait.actions.append(action)
            return
        }
        do throws(Errno) {
            guard let wait = try start(user) else {
                action()
                return
            }
            wait.actions.append(action)
            waits[user] = wait
        } catch {
            log.warning(
                "nobody waits for the user's session",
                ["user": user, "reason": error.description])
            action()
        }
    }

    /// Ends the waiting programs; their calls are forgotten.
    func cancel() {
        for wait in waits.values {
            guard let child = wait.child.take() else { continue }
            loop.unwatch(child.pidfd.number)
            child.signalGroup(SIGTERM)
            child.signal(SIGKILL)
            _ = try? child.reap()
        }
        waits = [:]
    }

    /// - Returns: nil where there is no service that waits, or nothing that ours would wait for.
    private func start(_ user: String) throws(Errno) -> Wait? {
        guard case .executable(let path)? = try? ServiceLookup.configured.find(Self.service) else {
            log.debug("there is no qubes.WaitForSession: no call waits")
            return nil
        }
        if !GraphicalSession.isAwaited(of: user), Self.isOwn(path) { return nil }
        var request = SpawnRequest(
            path: path, arguments: [path],
            environment: ServiceEnvironment.inherited
                + ["QREXEC_REMOTE_DOMAIN=\(Self.service.source)"])
        let input = try UnixSocket.pair()
        let null = try Descriptor.open("/dev/null", O_RDWR)
        request.descriptors = [input.second.number, null.number, 2]
        request.newSession = true
        let wait = Wait()
        let child = try ChildProcess.spawn(request)
        let number = child.pidfd.number
        wait.child = consume child
        _ = try? UnixSocket.send(input.first.number, Array("\(user)\n".utf8).span)
        try loop.watch(number, .readable) { [unowned self] _ in self.ended(user) }
        return wait
    }

    /// Whether the service is this package's own, whose answer needs no program of its own: it would
    /// be one more for each call.
    private static func isOwn(_ path: String) -> Bool {
        guard let program = FileStatus.linkText("/proc/self/exe"),
            let real = try? Descriptor.realPath(Array(path.utf8) + [0])
        else { return false }
        return real.elementsEqual(program.utf8)
    }

    private func ended(_ user: String) {
        guard let wait = waits.removeValue(forKey: user), let child = wait.child.take() else {
            return
        }
        loop.unwatch(child.pidfd.number)
        let status = (try? child.reap()) ?? CallStatus.problem
        if status != 0 {
            log.info("waiting for a session failed", ["user": user, "status": "\(status)"])
        }
        for action in wait.actions { action() }
    }
}

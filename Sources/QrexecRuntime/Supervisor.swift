import Glibc
import LinuxSystem
public import SystemPackage

/// Starts a program again whenever it ends by itself, for systems without a service manager that
/// does so.
public final class Supervisor {
    private let loop: EventLoop
    private let log: Log
    private let request: SpawnRequest
    private var child: ChildProcess?
    private var pause = RestartPause()
    private var isStopping = false

    private init(_ loop: EventLoop, log: Log, _ request: SpawnRequest) {
        self.loop = loop
        self.log = log
        self.request = request
    }

    /// Runs this program with other arguments until SIGTERM or SIGINT, which are passed on, as is
    /// SIGHUP.
    ///
    /// - Parameter arguments: the program's name first.
    /// - Returns: the exit status of its last run.
    public static func run(_ arguments: [String], log: Log) throws(Errno) -> Int32 {
        let loop = try EventLoop()
        var request = SpawnRequest(
            path: "/proc/self/exe", arguments: arguments, environment: CurrentProcess.environment)
        request.diesWithParent = true
        let supervisor = Supervisor(loop, log: log, request)
        var status: Int32 = 0
        supervisor.onEnd = { status = $0 }
        try loop.onSignals([SIGTERM, SIGINT, SIGHUP]) { supervisor.pass(on: $0) }
        supervisor.start()
        try withExtendedLifetime(supervisor) { () throws(Errno) in try loop.run() }
        return status
    }

    private var onEnd: (Int32) -> Void = { _ in }

    private func pass(on signal: Int32) {
        if signal != SIGHUP { isStopping = true }
        if child == nil && isStopping { return loop.stop() }
        child?.signal(signal)
    }

    private func start() {
        if isStopping { return }
        pause.begin()
        do throws(Errno) {
            let started = try ChildProcess.spawn(request)
            let number = started.pidfd.number
            child = consume started
            try loop.watch(number, .readable) { [unowned self] _ in
                self.loop.unwatch(number)
                self.ended()
            }
        } catch {
            log.error("cannot start: \(error)")
            startLater()
        }
    }

    private func ended() {
        guard let ended = child.take() else { return }
        let status = (try? ended.reap()) ?? 255
        onEnd(status)
        if isStopping { return loop.stop() }
        // A wrong command line does not get better.
        if status == 64 { return loop.stop() }
        log.error("ended with status \(status) and is started again")
        startLater()
    }

    private func startLater() {
        loop.schedule(after: pause.next()) { [weak self] in self?.start() }
    }
}

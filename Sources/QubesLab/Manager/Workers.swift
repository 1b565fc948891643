import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Work on files that may take long, each in a process of its own: the manager waits for none.
final class Workers {
    private let loop: EventLoop
    private var running: [Int32: Worker] = [:]

    private final class Worker {
        private var process: ChildProcess?
        let pid: Int32
        /// Readable when it has ended.
        let pidfd: Int32
        let done: (Int32) -> Void

        init(_ child: consuming ChildProcess, done: @escaping (Int32) -> Void) {
            pid = child.pid
            pidfd = child.pidfd.number
            process = consume child
            self.done = done
        }

        /// Its exit status; waits for its end.
        func reap(killing: Bool) -> Int32 {
            guard let child = process.take() else { return 1 }
            if killing { child.signal(SIGKILL) }
            return (try? child.reap()) ?? 1
        }
    }

    init(loop: EventLoop) { self.loop = loop }

    /// Starts one of this program's own commands.
    ///
    /// - Parameter done: told the exit status, on the loop.
    func start(_ arguments: [String], done: @escaping (Int32) -> Void) throws(Errno) {
        var request = SpawnRequest(
            path: "/proc/self/exe", arguments: ["qubes-lab"] + arguments, environment: [])
        request.diesWithParent = true
        let worker = Worker(try ChildProcess.spawn(request), done: done)
        running[worker.pid] = worker
        try loop.watch(worker.pidfd, .readable) { [unowned self, unowned worker] _ in
            self.ended(worker)
        }
    }

    private func ended(_ worker: Worker) {
        loop.unwatch(worker.pidfd)
        running[worker.pid] = nil
        worker.done(worker.reap(killing: false))
    }

    /// Ends all; what they did not do is left.
    func stop() {
        for worker in running.values {
            loop.unwatch(worker.pidfd)
            _ = worker.reap(killing: true)
        }
        running = [:]
    }
}

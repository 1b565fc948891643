import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Removes trees in a process of its own: a qube may have left millions of files, and the manager
/// must not wait for them.
final class Trash {
    private let loop: EventLoop
    private let directory: String
    private var next = 0
    private var workers: [Int32: Worker] = [:]

    private final class Worker {
        private var process: ChildProcess?
        let pid: Int32
        /// Readable when it has ended.
        let pidfd: Int32

        init(_ child: consuming ChildProcess) {
            pid = child.pid
            pidfd = child.pidfd.number
            process = consume child
        }

        func end() {
            if let child = process.take() {
                child.signal(SIGKILL)
                _ = try? child.reap()
            }
        }

        func reap() { if let child = process.take() { _ = try? child.reap() } }
    }

    init(loop: EventLoop, directory: String) throws(Errno) {
        self.loop = loop
        self.directory = directory
        try PathStatus.makeDirectory(directory, mode: 0o700)
    }

    /// Takes a tree out of its place at once and removes it later; nothing there is no error.
    func discard(_ path: String) {
        guard PathStatus.exists(path) else { return }
        next += 1
        let place = "\(directory)/\(next)"
        do throws(Errno) {
            try PathStatus.rename(path, to: place)
            var request = SpawnRequest(
                path: "/proc/self/exe", arguments: ["qubes-lab", "remove-tree", place],
                environment: [])
            request.diesWithParent = true
            let worker = Worker(try ChildProcess.spawn(request))
            let pid = worker.pid
            workers[pid] = worker
            try loop.watch(worker.pidfd, .readable) { [unowned self] _ in
                self.ended(pid)
            }
        } catch {
            Log(program: "qubes-lab").warning(
                "cannot remove a tree", ["path": path, "error": "\(error)"])
        }
    }

    /// Leaves what is not removed yet to `down`, which removes everything.
    func stop() {
        for worker in workers.values {
            loop.unwatch(worker.pidfd)
            worker.end()
        }
        workers = [:]
    }

    private func ended(_ pid: Int32) {
        guard let worker = workers.removeValue(forKey: pid) else { return }
        loop.unwatch(worker.pidfd)
        // Its status tells nothing that could be mended here: `down` removes what is left.
        worker.reap()
    }
}

import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Removes trees without waiting for it: a qube may have left millions of files.
final class Trash {
    private let workers: Workers
    private let directory: String
    private var next = 0

    init(workers: Workers, directory: String) throws(Errno) {
        self.workers = workers
        self.directory = directory
        try PathStatus.makeDirectory(directory, mode: 0o700)
    }

    /// Takes a tree out of its place at once and removes it later; nothing there is no error. What
    /// cannot be removed is left to `down`.
    func discard(_ path: String) {
        guard PathStatus.exists(path) else { return }
        next += 1
        let place = "\(directory)/\(next)"
        do throws(Errno) {
            try PathStatus.rename(path, to: place)
            try workers.start(["remove-tree", place]) { _ in }
        } catch {
            Log(program: "qubes-lab").warning(
                "cannot remove a tree", ["path": path, "error": "\(error)"])
        }
    }
}

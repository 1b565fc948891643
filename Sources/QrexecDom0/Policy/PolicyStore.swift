import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// The policy in force: read from its directories, read again when something in them changes, and
/// kept when what was read has errors.
final class PolicyStore {
    private let directories: PolicyDirectories
    private let log: Log
    private var inotify: Inotify
    /// Watched directories and the numbers of their watches.
    private var watches: [String: Int32] = [:]
    /// The last policy without errors.
    private(set) var policy: Policy?
    /// Errors of the files as they are now; none when `policy` is what they say.
    private(set) var errors: [PolicyDiagnostic] = []
    /// Counts the changes of `policy`.
    private(set) var generation = 0
    /// When `policy` was read.
    private(set) var loadedAt: String?
    /// Called after each reading.
    var onLoad: () -> Void = {}

    init(_ directories: PolicyDirectories, log: Log) throws(Errno) {
        self.directories = directories
        self.log = log
        inotify = try Inotify()
        reload()
    }

    /// Readable when something may have changed.
    var descriptor: Int32 { inotify.descriptor.number }

    /// Takes over what was changed until now, without waiting. To be called before each decision:
    /// a changed file is in force for the next call.
    func refresh() {
        if (try? inotify.drain()) ?? true { reload() }
    }

    /// Reads all files again.
    func reload() {
        // Watches come before reading, so that no change between the two is missed; a directory
        // that only the files name is watched after the first reading, which is then repeated.
        var result: PolicyLoadResult
        var rounds = 0
        // What is watched stays watched meanwhile: giving it up and taking it again is an event, too.
        _ = watch(directories.directories + watches.keys)
        repeat {
            result = Policy.load(directories)
            rounds += 1
        } while watch(Self.places(of: result.policy, directories)) && rounds < 4
        take(result)
    }

    /// The directories in which a change can change a policy, also those that links lead to.
    private static func places(of policy: Policy, _ directories: PolicyDirectories) -> [String] {
        var places = directories.directories + policy.directories
        for file in policy.files {
            guard let path = try? FileChange.resolve(file.path), path != file.path else { continue }
            let place = parent(of: path)
            if !places.contains(place) { places.append(place) }
        }
        return places
    }

    private func take(_ result: PolicyLoadResult) {
        // The same errors again: something else has changed where a directory is waited for.
        if !result.isUsable && result.errors == errors { return }
        for diagnostic in result.diagnostics.prefix(20) {
            let text = "policy: \(diagnostic.file.path):\(diagnostic.line):\(diagnostic.column): "
            if diagnostic.severity == .error {
                log.error(text + diagnostic.message)
            } else {
                log.warning(text + diagnostic.message)
            }
        }
        errors = result.errors
        defer { onLoad() }
        guard result.isUsable else {
            log.error(
                policy == nil
                    ? "policy has \(errors.count) errors: every call is denied until they are mended"
                    : "policy has \(errors.count) errors: the last good one stays in force")
            return
        }
        policy = result.policy
        generation += 1
        loadedAt = Timestamp.now
        log.info(
            "policy loaded",
            ["rules": "\(result.policy.ruleCount)", "files": "\(result.policy.files.count)"])
    }

    /// Watches these directories and no others; one that does not exist is waited for in the
    /// nearest parent that does.
    ///
    /// - Returns: whether a directory is watched that was not before.
    private func watch(_ wanted: [String]) -> Bool {
        var current: [String: Int32] = [:]
        var isNew = false
        for directory in wanted {
            var path = directory
            while current[path] == nil {
                if let watch = try? inotify.watchDirectory(path) {
                    if watches[path] != watch { isNew = true }
                    current[path] = watch
                } else if path == "/" || !path.hasPrefix("/") {
                    break
                } else {
                    path = Self.parent(of: path)
                }
            }
        }
        for (path, watch) in watches where !current.values.contains(watch) {
            if current[path] == nil { inotify.remove(watch: watch) }
        }
        watches = current
        return isNew
    }

    private static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/"), slash != path.startIndex else { return "/" }
        return String(path[..<slash])
    }
}

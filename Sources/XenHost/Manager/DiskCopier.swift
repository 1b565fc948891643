import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Makes a disposable's disks from its template's: files are copied (at once where the file system
/// shares blocks: btrfs, xfs), LVM volumes get a thin snapshot. Disks that the domain may only read
/// are shared.
final class DiskCopier {
    /// Seconds for the copy of one disk.
    private static let patience: UInt64 = 900
    /// Seconds for commands that only look or remove.
    private static let shortPatience: UInt64 = 60

    /// Where `cp`, `rm` and LVM's commands are looked for.
    static let standardTools = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]

    private let runner: CommandRunner
    private let tools: [String]

    init(runner: CommandRunner, tools: [String]) {
        self.runner = runner
        self.tools = tools
    }

    typealias Completion = (Result<DisposableFiles, HostProblem>) -> Void

    private func tool(_ name: String) -> String {
        let paths = tools.lazy.map { "\($0)/\(name)" }
        return paths.first { FileStatus.isExecutable($0) } ?? "/usr/bin/\(name)"
    }

    /// - Parameter files: of the disposable; its directory is there.
    func copy(
        _ specifications: [DiskSpecification], for files: DisposableFiles,
        completion: @escaping Completion
    ) {
        var files = files
        files.disks = []
        copy(specifications[...], files, completion)
    }

    private func copy(
        _ rest: ArraySlice<DiskSpecification>, _ files: DisposableFiles,
        _ completion: @escaping Completion
    ) {
        guard let disk = rest.first else { return completion(.success(files)) }
        let number = files.disks?.count ?? 0
        let next = { (copied: DisposableFiles, target: String) in
            var copied = copied
            copied.disks?.append(disk.with(target: target))
            self.copy(rest.dropFirst(), copied, completion)
        }
        guard disk.isWritable else { return next(files, disk.target) }
        guard let kind = try? FileStatus.kind(of: disk.target) else {
            return completion(.failure(HostProblem("there is no disk \(disk.target)")))
        }
        if kind == .regular {
            copyFile(disk.target, "\(files.directory)/disk\(number)", files, next, completion)
        } else {
            snapshot(disk.target, number, files, next, completion)
        }
    }

    private func copyFile(
        _ source: String, _ target: String, _ files: DisposableFiles,
        _ next: @escaping (DisposableFiles, String) -> Void, _ completion: @escaping Completion
    ) {
        var files = files
        files.sources[source] = DisposableFiles.changed(source)
        let copied = files
        runner.run(
            [tool("cp"), "--reflink=auto", "--sparse=always", "--", source, target],
            patience: Self.patience
        ) { outcome in
            if outcome.succeeded { return next(copied, target) }
            completion(.failure(HostProblem(outcome.problem("copying \(source)"))))
        }
    }

    // MARK: LVM

    private func snapshot(
        _ source: String, _ number: Int, _ files: DisposableFiles,
        _ next: @escaping (DisposableFiles, String) -> Void, _ completion: @escaping Completion
    ) {
        runner.run(
            [
                tool("lvs"), "--noheadings", "--separator", "/", "-o", "vg_name,lv_name", "--",
                source,
            ], patience: Self.shortPatience
        ) { [weak self] outcome in
            guard let self else { return }
            let names = outcome.output.split { $0 == "/" || $0 == " " || $0 == "\n" }
            guard outcome.succeeded, names.count == 2 else {
                let reason = "\(source) is neither a file nor an LVM volume, and cannot be copied"
                return completion(.failure(HostProblem(reason)))
            }
            self.snapshot(
                "\(names[0])/\(names[1])", in: String(names[0]), number, files, next, completion)
        }
    }

    private func snapshot(
        _ origin: String, in group: String, _ number: Int, _ files: DisposableFiles,
        _ next: @escaping (DisposableFiles, String) -> Void, _ completion: @escaping Completion
    ) {
        let volume = "qubes-\(files.name)-\(number)"
        var files = files
        files.volumes.append("\(group)/\(volume)")
        do throws(Errno) {
            // Written down first: what is not made does no harm in the record.
            try files.write()
        } catch {
            return completion(.failure(HostProblem("cannot write in \(files.directory): \(error)")))
        }
        let made = files
        runner.run(
            [
                tool("lvcreate"), "--quiet", "--yes", "--snapshot", "--setactivationskip", "n",
                "--name", volume, "--", origin,
            ], patience: Self.shortPatience
        ) { outcome in
            if outcome.succeeded { return next(made, "/dev/\(group)/\(volume)") }
            let reason = outcome.problem("lvcreate --snapshot of \(origin)")
            completion(.failure(HostProblem("\(reason) (the volume must be a thin one)")))
        }
    }

    // MARK: Removal

    /// Removes everything of a disposable; tells what could not be.
    func remove(_ files: DisposableFiles, completion: @escaping (String?) -> Void) {
        removeVolumes(files.volumes[...], attempt: 1) { [weak self] problem in
            guard let self else { return }
            // The record is kept as long as there is something that it names.
            if let problem { return completion(problem) }
            self.runner.run(
                [self.tool("rm"), "-rf", "--", files.directory], patience: Self.patience
            ) { outcome in
                completion(
                    outcome.succeeded ? nil : outcome.problem("removing \(files.directory)"))
            }
        }
    }

    private func removeVolumes(
        _ rest: ArraySlice<String>, attempt: Int, _ completion: @escaping (String?) -> Void
    ) {
        guard let volume = rest.first else { return completion(nil) }
        guard !volume.isEmpty, !volume.hasPrefix("-") else {
            return removeVolumes(rest.dropFirst(), attempt: 1, completion)
        }
        runner.run(
            [tool("lvs"), "--noheadings", "--", volume], patience: Self.shortPatience
        ) { [weak self] outcome in
            guard let self else { return }
            if outcome.status == 5 {
                return self.removeVolumes(rest.dropFirst(), attempt: 1, completion)
            }
            self.runner.run(
                [self.tool("lvremove"), "--quiet", "--yes", "--", volume],
                patience: Self.shortPatience
            ) { [weak self] outcome in
                guard let self else { return }
                if outcome.succeeded {
                    return self.removeVolumes(rest.dropFirst(), attempt: 1, completion)
                }
                // A domain that is just ending may still hold it.
                if attempt < 5 { return self.retry(rest, attempt, completion) }
                completion(outcome.problem("lvremove \(volume)"))
            }
        }
    }

    private func retry(
        _ rest: ArraySlice<String>, _ attempt: Int, _ completion: @escaping (String?) -> Void
    ) {
        runner.run([tool("sleep"), "2"], patience: Self.shortPatience) { [weak self] _ in
            self?.removeVolumes(rest, attempt: attempt + 1, completion)
        }
    }
}

import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Bringing a lab up and taking it down.
struct LabControl {
    let state: StateDirectory
    /// Shows one line of progress.
    var say: (String) -> Void

    enum Outcome: Equatable {
        case started
        case alreadyRunning
    }

    /// Milliseconds for a manager that is asked to end its lab.
    private static let patience: Int32 = 30_000

    // MARK: Up

    /// Starts the manager and waits until all is connected.
    ///
    /// - Parameter programs: the directory with our programs.
    func up(_ settings: LabSettings, programs: String) throws(LabError) -> Outcome {
        try state.prepare()
        guard state.isOurs() else {
            throw LabError(
                "\(state.path) holds files that are not a lab's; choose another directory with --state"
            )
        }
        var lock = try state.takeLock()
        guard lock != nil else { return .alreadyRunning }
        if try removeLeftovers() { say("Removed what a crashed lab had left.") }
        do throws(LabError) {
            let progress = try startManager(settings, programs, lock!)
            // From here on the manager alone holds it.
            lock = nil
            try follow(progress)
        } catch {
            // The manager takes down what it started before it ends.
            if !waitForLock(milliseconds: Self.patience) { try? endByForce() }
            let tail = LabLog(path: state.qubeLog).tail(20)
            _ = try? removeLeftovers()
            removeState()
            let log =
                tail.isEmpty
                ? "" : "\nThe last lines of its log:\n  " + tail.joined(separator: "\n  ")
            throw LabError("the lab did not come up: \(error)\(log)")
        }
        return .started
    }

    /// - Returns: where the manager tells how it goes.
    private func startManager(
        _ settings: LabSettings, _ programs: String, _ lock: OwnedDescriptor
    ) throws(LabError) -> Descriptor {
        do throws(Errno) {
            let json = String(decoding: Packet.encode(settings), as: UTF8.self)
            try QubeFiles.write(json, to: state.settings, mode: 0o600)
            let null = try Descriptor.open("/dev/null", O_RDWR)
            let log = try Descriptor.open(
                state.managerLog, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, mode: 0o600)
            let pipe = try Descriptor.pipe()
            var request = SpawnRequest(
                path: "/proc/self/exe", arguments: ["qubes-lab", "manager", state.path, programs],
                environment: managerEnvironment)
            request.descriptors = [
                null.number, log.number, log.number, lock.descriptor.number, pipe.second.number,
            ]
            request.newSession = true
            request.directory = "/"
            // It outlives this process, so nobody here reaps it.
            _ = try ChildProcess.spawn(request)
            return Descriptor(taking: pipe.first.release())
        } catch {
            throw LabError("cannot start the manager: \(error)")
        }
    }

    private var managerEnvironment: [String] {
        var environment = ["PATH=\(GeneratedFile.searchPath)", "LANG=C.UTF-8"]
        if let timeout = CurrentProcess.variable("QREXEC_STARTUP_TIMEOUT") {
            environment.append("QREXEC_STARTUP_TIMEOUT=\(timeout)")
        }
        return environment
    }

    /// Shows the manager's progress until the lab is ready.
    private func follow(_ pipe: consuming Descriptor) throws(LabError) {
        var pending: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            guard let count = try? pipe.read(into: &chunk), count > 0 else {
                let tail = LabLog(path: state.managerLog).tail(5).joined(separator: "; ")
                throw LabError("its manager ended\(tail.isEmpty ? "" : ": \(tail)")")
            }
            pending += chunk[..<count]
            while let end = pending.firstIndex(of: 0x0A) {
                let line = String(decoding: pending[..<end], as: UTF8.self)
                pending.removeSubrange(...end)
                if line == "ready" { return }
                if line.hasPrefix("! ") { throw LabError(String(line.dropFirst(2))) }
                say(String(line.dropFirst(2)))
            }
        }
    }

    // MARK: Down

    /// Ends the lab, whatever state it is in, and removes its directory.
    ///
    /// - Returns: whether there was one.
    func down() throws(LabError) -> Bool {
        guard try state.check() else { return false }
        guard state.isOurs() else {
            throw LabError("\(state.path) holds files that are not a lab's; nothing was removed")
        }
        if try !askToEnd() { try endByForce() }
        _ = try removeLeftovers()
        removeState()
        return true
    }

    /// - Returns: whether no manager runs any more.
    private func askToEnd() throws(LabError) -> Bool {
        if try state.takeLock() != nil { return true }
        do throws(LabError) {
            let client = try ManagerClient(state)
            try client.send(.down)
            while let reply = try client.receive(milliseconds: Self.patience) {
                if let text = reply.progress { say(text) }
                if reply.isDone { break }
            }
        } catch {
            say("The lab's manager does not answer.")
        }
        return waitForLock(milliseconds: 5000)
    }

    private func endByForce() throws(LabError) {
        guard let record = ProcessRecord(file: state.path + "/manager.pid"), record.end(),
            waitForLock(milliseconds: 5000)
        else {
            throw LabError("the lab's manager neither answers nor ends; see \(state.managerLog)")
        }
        say("The lab's manager was killed.")
    }

    /// - Returns: whether the lock came free in time.
    @discardableResult
    private func waitForLock(milliseconds: Int32) -> Bool {
        let deadline = CurrentProcess.now + UInt64(milliseconds) * 1_000_000
        while true {
            if (try? state.takeLock()) != nil { return true }
            if CurrentProcess.now > deadline { return false }
            usleep(10_000)
        }
    }

    /// Ends what a manager that was killed could not end, and removes all but the lock.
    ///
    /// - Returns: whether anything was there.
    private func removeLeftovers() throws(LabError) -> Bool {
        let qubes = state.path + "/qubes"
        for name in (try? PathStatus.names(in: qubes)) ?? [] {
            _ = ProcessRecord(file: "\(qubes)/\(name)/process")?.end()
        }
        var found = false
        do throws(Errno) {
            for name in try PathStatus.names(in: state.path) where name != "lock" {
                found = true
                try PathStatus.removeTree("\(state.path)/\(name)")
            }
        } catch {
            throw LabError("cannot remove \(state.path): \(error)")
        }
        return found
    }

    /// Removes the empty state directory, and the directory of all labs when it was the last.
    private func removeState() {
        try? PathStatus.removeTree(state.path)
        let parent = String(state.path[..<state.path.lastIndex(of: "/")!])
        let name = parent.split(separator: "/").last ?? ""
        if name == "qubes-lab" || name.hasPrefix("qubes-lab-") { PathStatus.removeEmpty(parent) }
    }
}

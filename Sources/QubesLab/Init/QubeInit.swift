import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Process 1 of a domain: reaps, starts programs for the manager and for clients of
/// `qubes-lab run`, and ends the domain when the manager is gone.
final class QubeInit {
    /// The connection to the manager.
    private static let control: Int32 = 3
    /// /dev/null: the manager started us with it.
    private static let standardInput: Int32 = 0
    /// Clients at a time; more are refused.
    private static let maximumClients = 256

    private let loop: EventLoop
    private let manager: Descriptor
    /// Running programs by their process id.
    private var programs: [Int32: Program] = [:]
    private var clients: [ObjectIdentifier: InitClient] = [:]
    private var isShuttingDown = false
    private let log = Log(program: "qubes-lab-init")

    /// A running program.
    final class Program {
        let child: ChildProcess
        let ended: (Int32) -> Void

        init(_ child: consuming ChildProcess, ended: @escaping (Int32) -> Void) {
            self.child = child
            self.ended = ended
        }
    }

    private init() throws(Errno) {
        loop = try EventLoop()
        manager = Descriptor(taking: Self.control)
    }

    static func run() -> Int32 {
        do throws(Errno) {
            let process = try QubeInit()
            try process.begin()
            try process.loop.run()
            return 0
        } catch {
            try? Descriptor.writeAll(Array("qubes-lab init: \(error)\n".utf8), to: 2)
            return 1
        }
    }

    private func begin() throws(Errno) {
        CurrentProcess.ignoreBrokenPipes()
        if CurrentProcess.id == 1 { try CurrentProcess.dieWithParent() }
        if CurrentProcess.effectiveUser == 0 {
            // A file system of its own (home_size) belongs to its maker at first.
            try? PathStatus.changeOwner(
                "/home/user", uid: Ownership.userID, gid: Ownership.userID)
        }
        try loop.onSignals([SIGCHLD, SIGTERM, SIGINT, SIGHUP]) { [unowned self] signal in
            if signal == SIGCHLD { self.reap() }
        }
        try loop.watch(manager.number, .readable) { [unowned self] _ in self.receive() }
        let own = try CurrentProcess.pidDescriptor(CurrentProcess.id)
        report(InitReport(kind: .ready), [own.number])
    }

    // MARK: The manager

    private func report(_ report: InitReport, _ descriptors: [Int32] = []) {
        // The manager reads at once; when it does not, it is gone or going.
        _ = try? UnixSocket.send(manager, report.bytes, descriptors: descriptors, wait: true)
    }

    private func receive() {
        var descriptors = DescriptorList()
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try UnixSocket.receive(
                manager, limit: InitRequest.maximumLength, maximumDescriptors: 1,
                descriptors: &descriptors)
        } catch .resourceTemporarilyUnavailable {
            return
        } catch {
            return end()
        }
        if bytes.isEmpty { return end() }
        guard let request = Packet.decode(InitRequest.self, bytes) else {
            return log.error("a request that is none")
        }
        switch request {
        case .start(let id, let program):
            guard let output = descriptors.takeFirst() else { return }
            start(id, program, output)
        case .signal(let id, let signal):
            for program in programs.values where supervised[program.child.pid] == id {
                program.child.signal(signal)
            }
        case .serve:
            guard let connection = descriptors.takeFirst() else { return }
            serve(connection)
        case .shutdown(let milliseconds):
            shutDown(milliseconds)
        }
    }

    /// The manager's numbers of its programs.
    private var supervised: [Int32: UInt32] = [:]

    private func start(_ id: UInt32, _ request: ProgramRequest, _ output: borrowing Descriptor) {
        do throws(ProgramStart.Failure) {
            let child = try ProgramStart(request).spawn(
                descriptors: [Self.standardInput, output.number, output.number], terminal: false)
            let pid = child.pid
            supervised[pid] = id
            report(InitReport(kind: .started, id: id), [child.pidfd.number])
            programs[pid] = Program(child) { [unowned self] status in
                self.supervised[pid] = nil
                self.report(InitReport(kind: .ended, id: id, value: status))
            }
        } catch {
            report(InitReport(kind: .failed, id: id, value: error.status, text: error.reason))
        }
    }

    /// The manager is gone, so the domain ends: the kernel kills all that is in it.
    private func end() { CurrentProcess.exit(0) }

    private func shutDown(_ milliseconds: UInt64) {
        guard !isShuttingDown else { return }
        isShuttingDown = true
        CurrentProcess.signalAll(SIGTERM)
        CurrentProcess.signalAll(SIGCONT)
        loop.schedule(after: milliseconds &* 1_000_000) { [unowned self] in self.end() }
        reap()
    }

    private func reap() {
        while let (pid, status) = CurrentProcess.reapAnyChild() {
            programs.removeValue(forKey: pid)?.ended(status)
        }
        if isShuttingDown, !CurrentProcess.hasChildren { end() }
    }

    // MARK: Clients

    private func serve(_ connection: consuming Descriptor) {
        guard clients.count < Self.maximumClients, !isShuttingDown else {
            let reason = isShuttingDown ? "the qube is shutting down" : "too many programs run"
            let report = InitReport(kind: .failed, value: 125, text: reason)
            _ = try? UnixSocket.send(connection, report.bytes, descriptors: [])
            return
        }
        let client = InitClient(connection: connection, loop: loop, process: self)
        clients[ObjectIdentifier(client)] = client
        client.begin()
    }

    func forget(_ client: InitClient) { clients[ObjectIdentifier(client)] = nil }

    func keep(_ child: consuming ChildProcess, ended: @escaping (Int32) -> Void) -> Program {
        let program = Program(child, ended: ended)
        programs[program.child.pid] = program
        return program
    }

    func isRunning(_ program: Program) -> Bool { programs[program.child.pid] === program }
}

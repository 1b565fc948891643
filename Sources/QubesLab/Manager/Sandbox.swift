import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// A running domain as the manager sees it: bubblewrap's process, and the connection to process 1.
///
/// Everything that comes over the connection may come from a hostile domain.
final class Sandbox {
    /// Told what becomes of a program.
    struct ProgramHandler {
        /// With its process id on the host, when that can be told.
        var started: (Int32?) -> Void
        /// With its exit status, or that and the reason when it could not be started.
        var ended: (Int32, String?) -> Void
    }

    private let loop: EventLoop
    private let plan: SandboxPlan
    private var process: ChildProcess?
    private var connection: Descriptor?
    /// A pid descriptor of process 1.
    private var initProcess: OwnedDescriptor?
    private(set) var initPID: Int32?
    private var handlers: [UInt32: ProgramHandler] = [:]
    private var nextID: UInt32 = 1
    private(set) var isReady = false
    private var hasEnded = false
    private var deadline: EventLoop.Timer?

    var onReady: () -> Void = {}
    /// With a reason when it ended by itself before it was ready.
    var onEnded: () -> Void = {}

    init(loop: EventLoop, plan: SandboxPlan) {
        self.loop = loop
        self.plan = plan
    }

    /// - Parameters:
    ///   - output: for messages of the launcher, bubblewrap and process 1.
    ///   - record: a file that tells a later `down` which process to end if this manager cannot.
    func start(bubblewrap: String, output: Int32, record: String) throws(Errno) {
        let pair = try UnixSocket.pair(.sequencedPacket)
        let null = try Descriptor.open("/dev/null", O_RDWR)
        var request = SpawnRequest(
            path: "/proc/self/exe",
            arguments: ["qubes-lab", "launch"] + plan.launcherArguments
                + ["--", bubblewrap] + plan.sandboxArguments,
            environment: ["PATH=\(GeneratedFile.searchPath)"])
        request.descriptors = [null.number, output, output, pair.second.number]
        request.newSession = true
        request.diesWithParent = true
        let child = try ChildProcess.spawn(request)
        ProcessRecord(pid: child.pid)?.write(to: record)
        try loop.watch(child.pidfd.number, .readable) { [unowned self] _ in self.processEnded() }
        process = consume child
        try watch(pair)
    }

    private func watch(_ pair: consuming DescriptorPair) throws(Errno) {
        let own = pair.first.release()
        connection = Descriptor(taking: own)
        try loop.watch(own, .readable) { [unowned self] _ in self.receive() }
    }

    // MARK: Programs

    /// Asks for a program; its handler is told the rest.
    ///
    /// - Returns: the number to signal it by.
    func start(_ program: ProgramRequest, output: Int32, _ handler: ProgramHandler) -> UInt32 {
        let id = nextID
        nextID += 1
        handlers[id] = handler
        if !send(.start(id: id, program: program), [output]) {
            loop.defer { [weak self] in
                self?.handlers.removeValue(forKey: id)?.ended(125, "the qube does not answer")
            }
        }
        return id
    }

    func signal(_ id: UInt32, _ signal: Int32) { _ = send(.signal(id: id, signal: signal)) }

    /// Hands a client of `qubes-lab run` over to process 1.
    ///
    /// - Returns: false when process 1 does not take it.
    func serve(_ client: borrowing Descriptor) -> Bool { send(.serve, [client.number]) }

    private func send(_ request: InitRequest, _ descriptors: [Int32] = []) -> Bool {
        guard connection != nil else { return false }
        let sent = try? UnixSocket.send(
            connection!, Packet.encode(request), descriptors: descriptors)
        return sent != nil
    }

    // MARK: The end

    /// Asks everything inside to end, and ends it when that takes longer than the grace.
    func shutDown(graceMilliseconds: UInt64) {
        guard isReady, send(.shutdown(milliseconds: graceMilliseconds)) else { return kill() }
        deadline = loop.schedule(after: milliseconds(graceMilliseconds + 500)) { [weak self] in
            self?.kill()
        }
    }

    /// Ends everything inside at once.
    func kill() {
        if let initProcess { CurrentProcess.signal(initProcess.descriptor, SIGKILL) }
        process?.signal(SIGKILL)
    }

    private func processEnded() {
        guard let child = process.take() else { return }
        loop.unwatch(child.pidfd.number)
        _ = try? child.reap()
        // bubblewrap may have been killed before its child: the domain ends with process 1.
        guard let initProcess else { return finish() }
        CurrentProcess.signal(initProcess.descriptor, SIGKILL)
        let number = initProcess.descriptor.number
        do throws(Errno) {
            try loop.watch(number, .readable) { [unowned self] _ in
                self.loop.unwatch(number)
                self.finish()
            }
        } catch {
            finish()
        }
    }

    private func finish() {
        guard !hasEnded else { return }
        hasEnded = true
        isReady = false
        if let deadline { loop.cancel(deadline) }
        closeConnection()
        let pending = handlers
        handlers = [:]
        for handler in pending.values { handler.ended(137, nil) }
        onEnded()
    }

    private func closeConnection() {
        if let connection = connection.take() { loop.unwatch(connection.number) }
    }

    // MARK: Reports

    private func receive() {
        guard connection != nil else { return }
        var descriptors = DescriptorList()
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try UnixSocket.receive(
                connection!, limit: InitReport.maximumLength, maximumDescriptors: 1,
                descriptors: &descriptors)
        } catch .resourceTemporarilyUnavailable {
            return
        } catch {
            return disconnect()
        }
        guard let report = InitReport(bytes) else { return disconnect() }
        switch report.kind {
        case .ready:
            guard !isReady, let process = descriptors.takeFirst() else { return disconnect() }
            initPID = HostProcess.id(of: process)
            initProcess = OwnedDescriptor(process)
            isReady = true
            onReady()
        case .started:
            guard let process = descriptors.takeFirst() else { return disconnect() }
            handlers[report.id]?.started(HostProcess.id(of: process))
        case .failed:
            handlers.removeValue(forKey: report.id)?.ended(report.value, report.text)
        case .ended:
            handlers.removeValue(forKey: report.id)?.ended(report.value, nil)
        }
    }

    /// Process 1 ended, or talks nonsense: either way the domain is over.
    private func disconnect() {
        closeConnection()
        kill()
    }
}

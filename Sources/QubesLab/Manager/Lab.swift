import Glibc
import LinuxSystem
import QrexecDom0
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// The manager of one lab: outside the sandboxes, starts and ends qubes and their programs.
///
/// One thread, one event loop; a qube that hangs or floods makes nobody else wait.
final class Lab: QubeManager {
    /// For a qube to be connected, unless QREXEC_STARTUP_TIMEOUT says otherwise (section 6).
    static let startupPatience: UInt64 = 60
    /// Between two looks for the sockets of daemons that are to come up.
    private static let lookInterval = milliseconds(10)
    /// For programs of a qube that is shut down to end by themselves.
    static let grace: UInt64 = 1500

    let loop: EventLoop
    let state: StateDirectory
    let settings: LabSettings
    let programs: [Programs.Side: Programs]
    /// Where each side's /usr is (`ProgramTree`).
    let trees: [Programs.Side: String]
    let bubblewrap: String
    let logs: LogCollector
    let workers: Workers
    let trash: Trash
    private(set) lazy var disposables = Disposables(loop: loop, lab: self)
    private(set) var table: [Qube] = []
    private var numbers = DomainNumbers()
    private var server: QubesdServer?
    private var isLooking = false
    private let startupPatience: UInt64
    var onEvent: ((QubeEvent) -> Void)?
    /// Set when the lab goes down: nothing is started any more.
    var isEnding = false

    init(
        loop: EventLoop, state: StateDirectory, settings: LabSettings,
        programs: [Programs.Side: Programs], trees: [Programs.Side: String], bubblewrap: String
    ) throws(Errno) {
        self.loop = loop
        self.state = state
        self.settings = settings
        self.programs = programs
        self.trees = trees
        self.bubblewrap = bubblewrap
        logs = try LogCollector(loop: loop, path: state.qubeLog)
        workers = Workers(loop: loop)
        trash = try Trash(workers: workers, directory: state.path + "/trash")
        startupPatience =
            CurrentProcess.variable("QREXEC_STARTUP_TIMEOUT").flatMap { UInt64($0) }
            .flatMap { $0 > 0 ? $0 : nil } ?? Self.startupPatience
        for settings in settings.qubes { try add(settings) }
    }

    var dom0: Qube { table[0] }
    var qubes: [QubeRecord] { table.map(record) }

    subscript(name: String) -> Qube? { table.first { $0.name == name } }

    func record(_ qube: Qube) -> QubeRecord {
        let disposable = qube.settings.defaultDisposable
        var record = qube.record(
            hasDefaultDisposable: !disposable.isEmpty && self[disposable] != nil)
        let ready = disposables.ready(of: qube)
        if !ready.isEmpty { record.features["preload-dispvm"] = ready.joined(separator: " ") }
        return record
    }

    private func emit(_ qube: Qube, _ name: String, _ details: [(String, String)] = []) {
        onEvent?(QubeEvent(subject: qube.name, name: name, details: details))
    }

    // MARK: The table

    /// Enters a qube that is halted.
    @discardableResult
    func add(_ settings: QubeSettings, isRemovedWhenHalted: Bool = false) throws(Errno) -> Qube {
        let slots = Set(table.map(\.slot))
        var slot = 0
        while slots.contains(slot) { slot += 1 }
        let ownership: Ownership =
            CurrentProcess.effectiveUser == 0 ? .mapped(base: idBase(slot: slot)) : .own
        let files = QubeFiles(
            settings: settings, uuid: settings.isDom0 ? QubeUUID.zero : QubeUUID.random(),
            ownership: ownership, directory: state.qube(settings.name))
        let qube = Qube(
            settings: settings, files: files, slot: slot, output: try logs.source(settings.name),
            isRemovedWhenHalted: isRemovedWhenHalted)
        table.append(qube)
        onEvent?(QubeEvent(subject: "", name: "domain-add", details: [("vm", settings.name)]))
        return qube
    }

    /// Forgets a halted qube and removes its files.
    func remove(_ qube: Qube) {
        table.removeAll { $0 === qube }
        logs.remove(qube.output)
        disposables.forget(qube)
        trash.discard(qube.files.directory)
        onEvent?(QubeEvent(subject: "", name: "domain-delete", details: [("vm", qube.name)]))
    }

    /// Ids of the host for a qube: far above what account tools hand out, and different for labs
    /// side by side as far as there is room.
    private func idBase(slot: Int) -> UInt32 {
        var hash: UInt32 = 2_166_136_261
        for byte in state.path.utf8 { hash = (hash ^ UInt32(byte)) &* 16_777_619 }
        let lab = hash % 62
        return 0x7000_0000 + lab * 0x40_0000 + UInt32(slot) * Launcher.idCount
    }

    // MARK: Start

    func start(_ name: String, completion: @escaping Completion) {
        guard let qube = self[name] else { return completion(.noSuchQube(name)) }
        if isEnding { return completion(.failed("the lab is going down")) }
        if qube.isStopping {
            // A call came while it was going down: it is started again at once.
            qube.stopWaiters.append { [weak self] _ in self?.start(name, completion: completion) }
            return
        }
        switch qube.powerState {
        case .running, .paused: return completion(.notHalted(name))
        case .transient: qube.startWaiters.append(completion)
        case .halted:
            qube.startWaiters.append(completion)
            begin(qube)
        }
    }

    private func begin(_ qube: Qube) {
        if !qube.settings.isDom0, !(dom0.sandbox?.isReady ?? false) {
            return qube.finishStart(.failed("dom0 does not run"))
        }
        guard let domain = qube.settings.isDom0 ? 0 : numbers.take() else {
            let limit = LabSettings.maximumDomains - 1
            return qube.finishStart(.failed("\(limit) domains run, which is all a lab can have"))
        }
        qube.powerState = .transient
        qube.domain = domain
        qube.failure = nil
        emit(qube, "domain-pre-start", [("start_guid", "True")])
        do throws(Errno) {
            let sandbox = try makeSandbox(qube, domain)
            qube.sandbox = sandbox
            try sandbox.start(
                bubblewrap: bubblewrap, output: qube.output.output.number,
                record: "\(qube.files.directory)/process")
        } catch {
            qube.sandbox = nil
            qube.failure = "cannot start the sandbox: \(error)"
            return halted(qube)
        }
        emit(qube, "domain-spawn", [("start_guid", "True")])
        qube.deadline = loop.schedule(after: seconds(startupPatience)) { [weak self, weak qube] in
            guard let self, let qube else { return }
            self.fail(qube, "did not connect within \(self.startupPatience) seconds")
        }
    }

    private func makeSandbox(_ qube: Qube, _ domain: UInt32) throws(Errno) -> Sandbox {
        let side: Programs.Side = qube.settings.isDom0 ? .dom0 : .vm
        let programs = self.programs[side]!
        for directory in ["run", "tmp"] { trash.discard("\(qube.files.root)/\(directory)") }
        try qube.files.prepare(share: programs.share.map { "\($0)/\(side.rawValue)" })
        if qube.settings.isDom0 { try prepareDom0(programs) }
        let plan = SandboxPlan(
            files: qube.files, domain: domain, programs: programs,
            programTree: trees[side]!, xen: state.xen)
        try plan.prepareStore()
        let sandbox = Sandbox(loop: loop, plan: plan)
        sandbox.onReady = { [weak self, weak qube] in
            guard let self, let qube else { return }
            self.ready(qube)
        }
        sandbox.onEnded = { [weak self, weak qube] in
            guard let self, let qube else { return }
            self.ended(qube)
        }
        return sandbox
    }

    /// dom0's policy, and the manager's own sockets in it.
    private func prepareDom0(_ programs: Programs) throws(Errno) {
        try dom0.files.preparePolicy(shipped: programs.share.map { "\($0)/policy.d" })
        server?.stop()
        let server = QubesdServer(loop: loop, manager: self, log: Log(program: "qubes-lab"))
        for (name, isInternal) in [("qubesd.sock", false), ("qubesd.internal.sock", true)] {
            let path = "\(dom0.files.root)/run/\(name)"
            let socket = try UnixSocket.listen(path, mode: 0o660)
            let group = dom0.files.ownership.isMapped ? Ownership.qubesGroup : Ownership.userID
            try dom0.files.ownership.give(path, uid: 0, gid: group)
            try PathStatus.changeMode(path, 0o660)
            try server.serve(socket, allowsInternal: isInternal)
        }
        self.server = server
    }

    /// Process 1 of a domain runs: its programs are started.
    private func ready(_ qube: Qube) {
        showHome(qube)
        if qube.settings.isDom0 {
            let daemon = program(["qrexec-policy-daemon"], user: "user", of: qube, in: dom0)
            qube.daemon = daemon
            daemon.start()
            for other in table where other.sandbox?.isReady == true && other !== qube {
                startDaemon(of: other)
            }
        } else {
            // The agent is root where there is one, to become the users of services.
            let user = qube.files.ownership.isMapped ? "root" : "user"
            let agent = program(["qrexec-agent"], user: user, of: qube, in: qube)
            qube.agent = agent
            agent.start()
            startDaemon(of: qube)
        }
        look()
    }

    private func startDaemon(of qube: Qube) {
        guard let domain = qube.domain else { return }
        let daemon = program(
            [
                "qrexec-daemon-starter", "--direct", "-u", qube.files.uuid, "--", String(domain),
                qube.name,
                "user",
            ], user: "user", of: qube, in: dom0)
        daemon.beforeStart = { [weak self, weak qube] in
            guard let self, let qube else { return }
            self.sockets(of: qube, domain).removeAll()
        }
        qube.daemon = daemon
        daemon.start()
    }

    private func program(
        _ arguments: [String], user: String, of qube: Qube, in place: Qube
    ) -> SupervisedProgram {
        let request = ProgramRequest(arguments: arguments, user: user)
        let name = qube.name
        let program = SupervisedProgram(
            request, in: place.sandbox!, loop: loop, output: qube.output
        ) { [weak self] text in self?.logs.note(name, text) }
        program.onMissing = { [weak self, weak qube] reason in
            guard let self, let qube else { return }
            self.fail(qube, reason)
        }
        return program
    }

    /// With a file system of its own, /home is seen only in the sandbox.
    private func showHome(_ qube: Qube) {
        guard qube.settings.homeSize != nil, let pid = qube.sandbox?.initPID else { return }
        let link = "\(qube.files.root)/home"
        try? FileStatus.remove(link)
        try? PathStatus.makeLink(link, to: "/proc/\(pid)/root/home")
    }

    /// The socket that shows that a qube can be called, or that policy is answered.
    private func socket(of qube: Qube) -> String {
        qube.settings.isDom0
            ? "\(dom0.files.root)/run/qubes/policy.sock" : sockets(of: qube, qube.domain ?? 0).path
    }

    private func sockets(of qube: Qube, _ domain: UInt32) -> DaemonSockets {
        DaemonSockets(
            directory: "\(dom0.files.root)/run/qubes", domain: domain, name: qube.name,
            uuid: qube.files.uuid)
    }

    /// Looks, while something starts, which qubes have become ready.
    private func look() {
        guard !isLooking else { return }
        isLooking = true
        loop.schedule(after: Self.lookInterval) { [weak self] in
            guard let self else { return }
            self.isLooking = false
            for qube in self.table where qube.powerState == .transient && !qube.isStopping {
                if qube.daemon != nil, PathStatus.exists(self.socket(of: qube)) {
                    self.connected(qube)
                }
            }
            if self.table.contains(where: { $0.powerState == .transient }) { self.look() }
        }
    }

    private func connected(_ qube: Qube) {
        if let deadline = qube.deadline { loop.cancel(deadline) }
        qube.powerState = .running
        logs.note(qube.name, "runs as domain \(qube.domain ?? 0)")
        emit(qube, "domain-start", [("start_guid", "True")])
        qube.finishStart(nil)
    }

    private func fail(_ qube: Qube, _ reason: String) {
        guard qube.powerState == .transient, !qube.isStopping else { return }
        qube.failure = reason
        logs.note(qube.name, "start failed: \(reason)")
        stop(qube) { $0.kill() }
    }

    // MARK: End

    func shutdown(_ name: String, completion: @escaping Completion) {
        end(name, completion) { $0.shutDown(graceMilliseconds: Self.grace) }
    }

    func kill(_ name: String, completion: @escaping Completion) {
        end(name, completion) { $0.kill() }
    }

    private func end(
        _ name: String, _ completion: @escaping Completion, _ how: (Sandbox) -> Void
    ) {
        guard let qube = self[name] else { return completion(.noSuchQube(name)) }
        guard !qube.settings.isDom0 else {
            return completion(.failed("dom0 ends with the lab: qubes-lab down"))
        }
        guard qube.powerState != .halted else { return completion(.notRunning(name)) }
        qube.stopWaiters.append(completion)
        stop(qube, how)
    }

    func stop(_ qube: Qube, _ how: (Sandbox) -> Void) {
        if !qube.isStopping {
            qube.isStopping = true
            if qube.powerState == .running { qube.powerState = .transient }
            emit(qube, "domain-pre-shutdown")
            qube.agent?.stop()
        }
        if let sandbox = qube.sandbox { how(sandbox) } else { halted(qube) }
    }

    /// A sandbox is gone, asked for or not.
    private func ended(_ qube: Qube) {
        if !qube.isStopping {
            qube.failure = qube.failure ?? "its sandbox ended"
            logs.note(qube.name, "its sandbox ended by itself")
        }
        halted(qube)
    }

    private func halted(_ qube: Qube) {
        if let deadline = qube.deadline { loop.cancel(deadline) }
        qube.agent = nil
        qube.daemon?.stop()
        qube.daemon = nil
        qube.sandbox = nil
        try? FileStatus.remove("\(qube.files.directory)/process")
        if let domain = qube.domain {
            if !qube.settings.isDom0 { sockets(of: qube, domain).removeAll() }
            // The number is free when nothing of the old domain is there any more.
            try? workers.start(["empty-store", "\(state.xen)/\(domain)"]) { [weak self] _ in
                self?.numbers.giveBack(domain)
            }
        }
        qube.domain = nil
        qube.powerState = .halted
        qube.isStopping = false
        logs.note(qube.name, "is halted")
        emit(qube, "domain-shutdown")
        qube.finishStart(.failed("\(qube.name): \(qube.failure ?? "was shut down")"))
        qube.finishStop()
        if qube.isRemovedWhenHalted, qube.powerState == .halted { remove(qube) }
    }

    func createDisposable(
        _ request: DisposableRequest,
        completion: @escaping (Result<QubeRecord, QubesdError>) -> Void
    ) {
        if isEnding { return completion(.failure(.failed("the lab is going down"))) }
        disposables.create(request) { [unowned self] result in
            completion(result.map { self.record($0) })
        }
    }

    func preloadDisposable(
        of template: String, completion: @escaping (Result<QubeRecord, QubesdError>) -> Void
    ) {
        if isEnding { return completion(.failure(.failed("the lab is going down"))) }
        let name = template == dom0.name ? dom0.settings.defaultDisposable : template
        guard let qube = self[name] else { return completion(.failure(.noSuchQube(name))) }
        disposables.preload(qube) { [unowned self] result in
            completion(result.map { self.record($0) })
        }
    }

    /// Whether a process is one of the daemons of this lab, which serve calls.
    func isDaemon(_ pid: Int32) -> Bool { table.contains { $0.daemon?.pid == pid } }
}

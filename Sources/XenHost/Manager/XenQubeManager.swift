import LinuxSystem
import QrexecDom0
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// The qubes of a plain Xen host: domains of `xl`, started and ended on request, and followed
/// whoever starts and ends them.
///
/// What runs is what `xl list` says: it is asked whenever the store tells that a domain came or
/// went, and after each thing that was done.
final class XenQubeManager: QubeManager {
    /// After a list that failed.
    private static let retryPause = seconds(2)

    let loop: EventLoop
    let log: Log
    private(set) var settings: HostSettings
    let runner: CommandRunner
    let toolstack: Toolstack
    private let watch: any DomainWatch
    private let daemons: any DomainDaemons
    private(set) lazy var disposables = HostDisposables(manager: self)
    private(set) var table: [HostQube] = []
    private var listsBegun = 0
    private var isListing = false
    private var listAgain = false
    private var hasComplained = false
    private var firstList: (() -> Void)?
    private(set) var isEnding = false
    var onEvent: ((QubeEvent) -> Void)?

    /// Where the commands that copy disks are.
    let diskTools: [String]

    init(
        loop: EventLoop, settings: HostSettings, watch: any DomainWatch,
        daemons: any DomainDaemons, log: Log, diskTools: [String] = DiskCopier.standardTools
    ) {
        self.diskTools = diskTools
        self.loop = loop
        self.settings = settings
        self.watch = watch
        self.daemons = daemons
        self.log = log
        runner = CommandRunner(loop: loop)
        toolstack = Toolstack(runner: runner, program: settings.xl)
        table = settings.qubes.map { HostQube($0) }
    }

    /// Looks what runs, and starts what is to run.
    ///
    /// - Parameter ready: called when the first look has succeeded.
    func begin(ready: @escaping () -> Void) {
        daemons.onConnected = { [weak self] domain in self?.daemonConnected(domain) }
        daemons.onFailure = { [weak self] domain, reason in
            self?.log.error("no daemon for \(domain.name): \(reason)")
        }
        disposables.recover()
        firstList = { [weak self] in
            guard let self else { return }
            self.disposables.sortOut()
            ready()
            for qube in self.table where qube.settings.autostart && qube.phase == .halted {
                self.start(qube.name) { [weak self] error in
                    if let error { self?.log.error("autostart: \(error.message)") }
                }
            }
            self.disposables.fill()
        }
        watch.onChange = { [weak self] in self?.refresh() }
        watch.start()
        refresh()
    }

    /// Leaves the domains as they are.
    func end() {
        isEnding = true
        watch.stop()
        runner.stop()
        daemons.stop()
    }

    var qubes: [QubeRecord] { table.map(record) }

    subscript(name: String) -> HostQube? { table.first { $0.name == name } }

    /// The disposable template of qubes that name none: dom0's own.
    private var standardDisposable: String? { table[0].settings.defaultDisposable }

    func record(_ qube: HostQube) -> QubeRecord { qube.record(standard: standardDisposable) }

    func emit(_ qube: HostQube, _ name: String, _ details: [(String, String)] = []) {
        onEvent?(QubeEvent(subject: qube.name, name: name, details: details))
    }

    // MARK: The table

    func add(_ qube: HostQube) {
        table.append(qube)
        onEvent?(QubeEvent(subject: "", name: "domain-add", details: [("vm", qube.name)]))
    }

    /// Forgets a halted qube.
    func remove(_ qube: HostQube) {
        table.removeAll { $0 === qube }
        if qube.disposable != nil { disposables.forget(qube) }
        onEvent?(QubeEvent(subject: "", name: "domain-delete", details: [("vm", qube.name)]))
    }

    /// Takes a configuration file that was changed. Qubes that are not in it any more are forgotten
    /// when they halt; where `xl` and the disposables are changes only with a new start.
    func apply(_ new: HostSettings) {
        settings = new
        for qube in table where qube.disposable == nil {
            if let changed = new[qube.name] {
                qube.settings = changed
                qube.isForgotten = false
            } else if qube.phase == .halted {
                remove(qube)
            } else {
                qube.isForgotten = true
            }
        }
        for settings in new.qubes where self[settings.name] == nil { add(HostQube(settings)) }
        log.info("the configuration was read again", ["qubes": String(new.qubes.count)])
        refresh()
        disposables.fill()
    }

    // MARK: What runs

    /// Asks what runs; once more when it is being asked already.
    func refresh() {
        guard !isEnding else { return }
        if isListing {
            listAgain = true
            return
        }
        isListing = true
        listsBegun += 1
        let number = listsBegun
        toolstack.list { [weak self] result in
            guard let self, !self.isEnding else { return }
            self.isListing = false
            switch result {
            case .success(let list):
                if self.hasComplained { self.log.info("xl list works again") }
                self.hasComplained = false
                self.take(list, number)
            case .failure(let problem):
                self.listFailed(problem.reason)
            }
            if self.listAgain {
                self.listAgain = false
                self.refresh()
            }
        }
    }

    /// Nobody is left waiting for a host that does not answer; it is asked again.
    private func listFailed(_ reason: String) {
        if !hasComplained { log.error("cannot tell what runs: \(reason)") }
        hasComplained = true
        for qube in table {
            if let problem = qube.destroyProblem { notDestroyed(qube, problem) }
            if qube.phase == .creating, qube.creation == nil {
                qube.finishStart(.failed("\(qube.name): cannot tell whether it runs: \(reason)"))
            }
        }
        loop.schedule(after: Self.retryPause) { [weak self] in self?.refresh() }
    }

    private func take(_ list: DomainList, _ number: Int) {
        for qube in table where !qube.settings.isDom0 && qube.creation == nil {
            take(list[qube.name], for: qube, number)
        }
        let first = firstList
        firstList = nil
        first?()
    }

    private func take(_ entry: DomainList.Entry?, for qube: HostQube, _ number: Int) {
        let isNews = number > qube.listsBefore
        guard let entry else {
            if qube.domain == nil {
                if qube.phase != .creating || !isNews { return }
                qube.failure = qube.failure ?? "its domain ended at once"
            }
            return halted(qube)
        }
        if let old = qube.runningDomain, old.id != entry.id { restarted(qube, old) }
        if qube.domain == nil { arrived(qube, entry) }
        if let problem = qube.destroyProblem, isNews { return notDestroyed(qube, problem) }
        if entry.isPaused != qube.isPaused {
            qube.isPaused = entry.isPaused
            if qube.phase == .running {
                emit(qube, entry.isPaused ? "domain-paused" : "domain-unpaused")
            }
        }
        if entry.hasShutDown, !qube.isStopping {
            qube.isStopping = true
            emit(qube, "domain-pre-shutdown")
            // What comes now says its configuration, and xl does it.
            qube.endsByItself = qube.disposable == nil
        }
        if qube.isStopping, !qube.endsByItself, isNews, entry.hasShutDown || qube.deadline == nil {
            destroy(qube)
        }
    }

    /// It started anew without our help: a reboot.
    private func restarted(_ qube: HostQube, _ old: RunningDomain) {
        daemons.ended(old)
        clearDeadline(qube)
        qube.domain = nil
        qube.phase = .halted
        qube.isStopping = false
        qube.endsByItself = false
        emit(qube, "domain-shutdown")
        qube.finishStop()
    }

    private func arrived(_ qube: HostQube, _ entry: DomainList.Entry) {
        qube.domain = entry.id
        qube.isPaused = entry.isPaused
        log.info("a domain is there", ["qube": qube.name, "domain": String(entry.id)])
        if qube.isStopping { return }
        emit(qube, "domain-spawn", [("start_guid", "True")])
        if qube.settings.isTemplateForDisposables { disposables.discardPooled(of: qube) }
        guard qube.settings.hasAgent, let domain = qube.runningDomain else {
            return connected(qube)
        }
        qube.phase = .connecting
        qube.deadline = loop.schedule(after: seconds(settings.startPatience)) {
            [weak self, weak qube] in
            guard let self, let qube else { return }
            self.noAgent(qube)
        }
        daemons.started(domain)
    }

    private func daemonConnected(_ domain: RunningDomain) {
        guard let qube = self[domain.name], qube.domain == domain.id,
            qube.phase == .connecting, !qube.isStopping
        else { return }
        connected(qube)
    }

    private func connected(_ qube: HostQube) {
        clearDeadline(qube)
        qube.phase = .running
        log.info("runs", ["qube": qube.name, "domain": String(qube.domain ?? 0)])
        emit(qube, "domain-start", [("start_guid", "True")])
        qube.finishStart(nil)
    }

    /// A domain is there, but nobody answers in it.
    private func noAgent(_ qube: HostQube) {
        qube.deadline = nil
        guard qube.phase == .connecting else { return }
        let reason =
            "its agent did not connect within \(settings.startPatience) seconds; is qrexec-agent "
            + "running in it? (start_timeout sets how long to wait)"
        log.error("\(qube.name): \(reason)")
        if qube.disposable != nil {
            qube.failure = reason
            stop(qube, gently: false)
        } else {
            // It may have work of its own to do: it is left alone, and its daemon goes on waiting.
            qube.phase = .running
            qube.finishStart(.failed("\(qube.name): \(reason)"))
        }
    }

    private func clearDeadline(_ qube: HostQube) {
        if let deadline = qube.deadline { loop.cancel(deadline) }
        qube.deadline = nil
    }

    private func halted(_ qube: HostQube) {
        clearDeadline(qube)
        if let domain = qube.runningDomain { daemons.ended(domain) }
        qube.domain = nil
        qube.phase = .halted
        qube.isPaused = false
        qube.isStopping = false
        qube.endsByItself = false
        qube.destroyProblem = nil
        log.info("is halted", ["qube": qube.name])
        emit(qube, "domain-shutdown")
        let failure = qube.failure
        qube.failure = nil
        qube.finishStart(.failed("\(qube.name): \(failure ?? "was shut down")"))
        qube.finishStop()
        if qube.disposable != nil || qube.isForgotten, qube.phase == .halted { remove(qube) }
    }

    // MARK: Start

    func start(_ name: String, completion: @escaping Completion) {
        guard let qube = self[name] else { return completion(.noSuchQube(name)) }
        if qube.settings.isDom0 { return completion(.notHalted(name)) }
        if isEnding { return completion(.failed("the manager ends")) }
        if qube.isStopping {
            // A call came while it was going down: it is started again at once.
            qube.stopWaiters.append { [weak self] _ in self?.start(name, completion: completion) }
            return
        }
        switch qube.phase {
        case .running: completion(.notHalted(name))
        case .creating, .connecting: qube.startWaiters.append(completion)
        case .halted:
            qube.startWaiters.append(completion)
            create(qube)
        }
    }

    private func create(_ qube: HostQube) {
        let path = qube.settings.configuration
        var additions = ["name=\"\(qube.name)\"", "uuid=\"\(qube.settings.uuid)\""]
        additions += qube.settings.additions.map { $0.replacing("@NAME@", with: qube.name) }
        additions += qube.disposable?.additions ?? []
        qube.phase = .creating
        qube.failure = nil
        emit(qube, "domain-pre-start", [("start_guid", "True")])
        qube.creation = toolstack.create(
            path, additions: additions, patience: settings.createPatience
        ) { [weak self, weak qube] problem in
            guard let self, let qube else { return }
            qube.creation = nil
            qube.listsBefore = self.listsBegun
            if let problem {
                // It may have left a domain: that is destroyed when it shows up.
                qube.failure = qube.failure ?? "\(problem) (\(path))"
                self.log.error("\(qube.name): \(qube.failure!)")
                qube.isStopping = true
            }
            self.refresh()
        }
    }

    // MARK: End

    func shutdown(_ name: String, completion: @escaping Completion) {
        end(name, gently: true, completion)
    }

    func kill(_ name: String, completion: @escaping Completion) {
        end(name, gently: false, completion)
    }

    private func end(_ name: String, gently: Bool, _ completion: @escaping Completion) {
        guard let qube = self[name] else { return completion(.noSuchQube(name)) }
        guard !qube.settings.isDom0 else {
            return completion(.failed("dom0 ends with the machine: shutdown -h now"))
        }
        guard qube.phase != .halted else { return completion(.notRunning(name)) }
        qube.stopWaiters.append(completion)
        stop(qube, gently: gently)
    }

    func stop(_ qube: HostQube, gently: Bool) {
        let isFirst = !qube.isStopping || qube.endsByItself
        qube.isStopping = true
        qube.endsByItself = false
        if isFirst { emit(qube, "domain-pre-shutdown") }
        if let creation = qube.creation {
            qube.failure = qube.failure ?? "was stopped while it was being created"
            return creation.cancel()
        }
        guard let domain = qube.domain else { return refresh() }
        if !gently { return destroy(qube) }
        guard isFirst else { return }
        clearDeadline(qube)
        qube.deadline = loop.schedule(after: seconds(settings.shutdownPatience)) {
            [weak self, weak qube] in
            guard let self, let qube else { return }
            self.log.warning("\(qube.name) did not shut down in time and is destroyed")
            self.destroy(qube)
        }
        let ask = { [weak self, weak qube] in
            self?.toolstack.shutdown(domain) { problem in
                guard let self, let qube, qube.domain == domain, let problem else { return }
                self.log.warning("\(qube.name): \(problem); it is destroyed")
                self.destroy(qube)
            }
        }
        // Whoever is paused hears nothing.
        if qube.isPaused { toolstack.unpause(domain) { _ in ask() } } else { ask() }
    }

    private func destroy(_ qube: HostQube) {
        guard let domain = qube.domain, !qube.isBeingDestroyed else { return }
        clearDeadline(qube)
        qube.isBeingDestroyed = true
        toolstack.destroy(domain) { [weak self, weak qube] problem in
            guard let self, let qube else { return }
            qube.isBeingDestroyed = false
            qube.listsBefore = self.listsBegun
            if let problem, qube.domain == domain {
                self.log.error("\(qube.name): \(problem)")
                // It may be gone for another reason: the next list tells.
                qube.destroyProblem = problem
            }
            self.refresh()
        }
    }

    /// A domain that was to be destroyed is still there.
    private func notDestroyed(_ qube: HostQube, _ problem: String) {
        qube.destroyProblem = nil
        qube.finishStart(.failed("\(qube.name): \(qube.failure ?? problem)"))
        let waiters = qube.stopWaiters
        qube.stopWaiters = []
        qube.isStopping = false
        if qube.phase == .connecting { qube.phase = .running }
        for waiter in waiters { waiter(.failed("\(qube.name): \(problem)")) }
    }

    // MARK: Disposables

    func createDisposable(
        _ request: DisposableRequest,
        completion: @escaping (Result<QubeRecord, QubesdError>) -> Void
    ) {
        if isEnding { return completion(.failure(.failed("the manager ends"))) }
        disposables.create(request) { [weak self] result in
            guard let self else { return }
            completion(result.map { self.record($0) })
        }
    }
}

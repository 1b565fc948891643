import Glibc
import LinuxSystem
import QrexecDom0
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Makes disposables from their templates' xl configurations, keeps a pool of ready ones, and sees
/// that none outlives the call it was made for (specification, section 18).
final class HostDisposables {
    /// For a disposable that was made to be started, else it is removed.
    private static let patience = seconds(60)
    private static let standardDelay: UInt64 = 3
    /// Names that were used last and are not used again yet.
    private static let rememberedNames = 1000
    private static let maximumPool = 32

    private unowned let manager: XenQubeManager
    private let copier: DiskCopier
    private let directory: String
    private var recentNames: [String] = []
    private var isFillScheduled = false
    private var isFilling = false
    private var watched: [ObjectIdentifier: WatchedProcess] = [:]

    private final class WatchedProcess {
        let descriptor: Descriptor
        init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
    }

    init(manager: XenQubeManager) {
        self.manager = manager
        copier = DiskCopier(runner: manager.runner, tools: manager.diskTools)
        directory = manager.settings.stateDirectory + "/disposables"
    }

    typealias Completion = (Result<HostQube, QubesdError>) -> Void

    /// Makes a disposable, or takes a ready one.
    func create(_ request: DisposableRequest, _ completion: @escaping Completion) {
        guard let template = template(of: request) else {
            let name = request.template ?? "the default of \(request.caller)"
            let way = "set default_dispvm in the configuration file"
            return completion(.failure(.failed("no disposable template: \(name); \(way)")))
        }
        guard template.settings.isTemplateForDisposables else {
            return completion(.failure(.failed("\(template.name) is not template_for_dispvms")))
        }
        if let ready = takePooled(template) { return unpause(ready, for: request, completion) }
        make(from: template) { [weak self] result in
            guard let self else { return }
            if case .success(let qube) = result {
                do throws(QubesdError) {
                    try self.hand(qube, to: request)
                } catch {
                    self.manager.remove(qube)
                    return completion(.failure(error))
                }
            }
            completion(result)
        }
    }

    private func template(of request: DisposableRequest) -> HostQube? {
        if let name = request.template { return manager[name] }
        guard let caller = manager[request.caller] else { return nil }
        return manager.record(caller).defaultDisposable.flatMap { manager[$0] }
    }

    private func hand(_ qube: HostQube, to request: DisposableRequest) throws(QubesdError) {
        let tags = ["created-by-\(request.caller)", "disp-created-by-\(request.caller)"]
        qube.settings.tags += tags
        qube.disposable?.tags = qube.settings.tags
        qube.disposable?.isHandedOut = true
        if let pid = request.requester {
            // It may have ended while the disposable was being made.
            let requester = Requester(pid: pid)
            let servesCalls = Requester.servesCalls(pid)
            guard let requester, !servesCalls || watch(requester, for: qube) else {
                throw .failed("who asked for the disposable is gone")
            }
            if servesCalls { qube.disposable?.requester = requester }
        }
        do throws(Errno) {
            try qube.disposable?.write()
        } catch {
            throw .failed("cannot write in \(directory): \(error)")
        }
        guard qube.phase == .halted else { return }
        manager.loop.schedule(after: Self.patience) { [weak self, weak qube] in
            guard let self, let qube, qube.phase == .halted, self.manager[qube.name] === qube
            else { return }
            self.manager.log.warning("\(qube.name) was never started and is removed")
            self.manager.remove(qube)
        }
    }

    // MARK: Making

    private func make(from template: HostQube, _ completion: @escaping Completion) {
        let disks: [DiskSpecification]
        do throws(HostProblem) {
            disks = try Self.disks(of: template)
        } catch {
            return completion(.failure(.failed("cannot make a disposable: \(error.reason)")))
        }
        if template.phase != .halted, disks.contains(where: \.isWritable) {
            let reason =
                "\(template.name) runs and writes to its disks: shut it down before disposables "
                + "are made from it (qubes-xl shutdown \(template.name))"
            return completion(.failure(.failed(reason)))
        }
        guard let name = newName() else {
            return completion(.failure(.failed("no name is left for a disposable")))
        }
        var files = DisposableFiles(
            directory: "\(directory)/\(name)", name: name, template: template.name,
            uuid: HostUUID.random())
        let configuration = template.settings.configuration
        files.sources[configuration] = DisposableFiles.changed(configuration)
        do throws(Errno) {
            for path in [manager.settings.stateDirectory, directory, files.directory] {
                try PathStatus.makeDirectory(path, mode: 0o700)
            }
            try files.write()
        } catch {
            return completion(.failure(.failed("cannot write in \(directory): \(error)")))
        }
        let qube = HostQube(Self.settings(files, template))
        let made = { [weak self] (files: DisposableFiles) in
            qube.disposable = files
            self?.manager.add(qube)
            completion(.success(qube))
        }
        guard !disks.isEmpty else { return made(files) }
        copier.copy(disks, for: files) { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let files): made(files)
            case .failure(let problem):
                self.discard(DisposableFiles(left: files.directory, name: name))
                completion(.failure(.failed("cannot make a disposable: \(problem.reason)")))
            }
        }
    }

    private static func settings(
        _ files: DisposableFiles, _ template: HostQube?
    ) -> HostQubeSettings {
        var settings = template?.settings ?? HostQubeSettings(name: files.name)
        settings.name = files.name
        settings.type = .disposable
        settings.tags = files.tags
        settings.features = [:]
        settings.isTemplateForDisposables = false
        settings.defaultDisposable = template?.name ?? ""
        settings.autostart = false
        settings.uuid = files.uuid
        return settings
    }

    /// The disks that the xl configuration of a template names.
    private static func disks(of template: HostQube) throws(HostProblem) -> [DiskSpecification] {
        let path = template.settings.configuration
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try Descriptor.open(path, O_RDONLY).readAll(limit: 1 << 20)
        } catch {
            throw HostProblem("cannot read \(path): \(error)")
        }
        let configuration: XLConfiguration
        do throws(XLConfiguration.Invalid) {
            configuration = try XLConfiguration(String(decoding: bytes, as: UTF8.self))
        } catch {
            throw HostProblem("\(path):\(error.line): \(error.reason)")
        }
        var disks: [DiskSpecification] = []
        for text in configuration.strings("disk") {
            do throws(DiskSpecification.Problem) {
                disks.append(try DiskSpecification(text))
            } catch {
                throw HostProblem("\(path): '\(text)': \(error.reason)")
            }
            guard XLConfiguration.quoted(text) != nil else {
                throw HostProblem("\(path): '\(text)' has both kinds of quotes")
            }
        }
        return disks
    }

    private func newName() -> String? {
        for _ in 0..<20_000 {
            let name = "disp\(Int.random(in: 0...9999))"
            if manager[name] != nil || recentNames.contains(name)
                || PathStatus.exists("\(directory)/\(name)")
            {
                continue
            }
            recentNames.append(name)
            if recentNames.count > Self.rememberedNames { recentNames.removeFirst() }
            return name
        }
        return nil
    }

    // MARK: The end

    /// A call's disposable ends with the call. What ends it is the process that made it for the
    /// call; when that dies, the manager does.
    ///
    /// - Returns: false when that process is gone already.
    private func watch(_ requester: Requester, for qube: HostQube) -> Bool {
        guard let process = try? CurrentProcess.pidDescriptor(requester.pid), requester.isAlive
        else { return false }
        let key = ObjectIdentifier(qube)
        let number = process.number
        watched[key] = WatchedProcess(process)
        try? manager.loop.watch(number, .readable) { [weak self, weak qube] _ in
            guard let self else { return }
            self.manager.loop.unwatch(number)
            self.watched[key] = nil
            guard let qube else { return }
            self.manager.log.info("\(qube.name): who asked for it is gone, and so is it")
            self.end(qube)
        }
        return true
    }

    private func end(_ qube: HostQube) {
        if qube.phase == .halted {
            manager.remove(qube)
        } else {
            manager.stop(qube, gently: false)
        }
    }

    /// A disposable was taken out of the table.
    func forget(_ qube: HostQube) {
        if let process = watched.removeValue(forKey: ObjectIdentifier(qube)) {
            manager.loop.unwatch(process.descriptor.number)
        }
        if let files = qube.disposable { discard(files) }
        if qube.isPooled { scheduleFill() }
    }

    private func discard(_ files: DisposableFiles) {
        copier.remove(files) { [weak self] problem in
            guard let problem else { return }
            self?.manager.log.error("what \(files.name) left is not removed: \(problem)")
        }
    }

    /// Takes over what an earlier manager left: disposables in use go on, others are ended, and
    /// what belongs to none is removed.
    func recover() {
        for name in (try? PathStatus.names(in: directory)) ?? [] {
            let files = DisposableFiles(left: "\(directory)/\(name)", name: name)
            let qube = HostQube(Self.settings(files, manager[files.template]))
            qube.disposable = files
            qube.isLeft = true
            manager.add(qube)
        }
    }

    /// The first list is there: what did not run is removed, what nobody uses is ended.
    func sortOut() {
        for qube in manager.table where qube.isLeft {
            qube.isLeft = false
            let isUsed: Bool =
                switch qube.disposable {
                case .some(let files) where files.isHandedOut:
                    files.requester.map { watch($0, for: qube) } ?? true
                default: false
                }
            if qube.phase == .halted || !isUsed { end(qube) }
        }
    }

    // MARK: The pool

    /// The feature of a template, which dom0 overrides for the default one.
    private func feature(_ name: String, of template: HostQube) -> UInt64? {
        let dom0 = manager.table[0].settings
        let own = template.settings.features[name]
        let isDefault = dom0.defaultDisposable == template.name
        return ((isDefault ? dom0.features[name] : nil) ?? own).flatMap { UInt64($0) }
    }

    private func pooled(_ template: HostQube) -> [HostQube] {
        manager.table.filter { $0.isPooled && $0.disposable?.template == template.name }
    }

    /// Starts what is missing in the pools, one after the other.
    func fill() {
        isFillScheduled = false
        guard !manager.isEnding, !isFilling else { return }
        for template in manager.table where template.settings.isTemplateForDisposables {
            let wanted = feature("preload-dispvm-max", of: template) ?? 0
            // One that runs is being changed: what is made now would be old soon.
            guard template.phase == .halted,
                pooled(template).count < min(wanted, UInt64(Self.maximumPool))
            else { continue }
            isFilling = true
            return make(from: template) { [weak self] result in
                guard let self else { return }
                switch result {
                case .success(let qube): self.preload(qube)
                case .failure(let error):
                    self.isFilling = false
                    self.manager.log.error("preloading: \(error.message)")
                }
            }
        }
    }

    private func preload(_ qube: HostQube) {
        qube.isPooled = true
        manager.start(qube.name) { [weak self, weak qube] error in
            guard let self else { return }
            self.isFilling = false
            if let error { return self.manager.log.error("preloading: \(error.message)") }
            self.scheduleFill()
            guard let qube, let domain = qube.domain, qube.isPooled else { return }
            self.manager.toolstack.pause(domain) { [weak self, weak qube] problem in
                qube?.isPausedByUs = problem == nil
                qube?.isReadyInPool = true
                self?.manager.refresh()
            }
        }
    }

    private func scheduleFill() {
        guard !isFillScheduled else { return }
        isFillScheduled = true
        let delays = manager.table.compactMap { feature("preload-dispvm-delay", of: $0) }
        let delay = min(delays.max() ?? Self.standardDelay, 3600)
        manager.loop.schedule(after: seconds(delay)) { [weak self] in self?.fill() }
    }

    /// The oldest ready one; those whose template has changed since are thrown away.
    private func takePooled(_ template: HostQube) -> HostQube? {
        for qube in pooled(template) where !qube.isStopping {
            guard qube.disposable?.isCurrent == true else {
                manager.stop(qube, gently: false)
                continue
            }
            guard qube.isReadyInPool else { continue }
            qube.isPooled = false
            manager.emit(qube, "domain-feature-delete:internal", [("feature", "internal")])
            scheduleFill()
            return qube
        }
        return nil
    }

    /// A template is started to be changed: what was made from it before is of no use.
    func discardPooled(of template: HostQube) {
        for qube in pooled(template) { manager.stop(qube, gently: false) }
    }

    private func unpause(
        _ qube: HostQube, for request: DisposableRequest, _ completion: @escaping Completion
    ) {
        do throws(QubesdError) {
            try hand(qube, to: request)
        } catch {
            manager.stop(qube, gently: false)
            return completion(.failure(error))
        }
        guard let domain = qube.domain, qube.isPausedByUs else { return completion(.success(qube)) }
        manager.toolstack.unpause(domain) { [weak self, weak qube] problem in
            guard let self, let qube else { return }
            if let problem {
                self.manager.stop(qube, gently: false)
                return completion(.failure(.failed(problem)))
            }
            qube.isPausedByUs = false
            if qube.isPaused {
                qube.isPaused = false
                self.manager.emit(qube, "domain-unpaused")
            }
            self.manager.refresh()
            completion(.success(qube))
        }
    }
}

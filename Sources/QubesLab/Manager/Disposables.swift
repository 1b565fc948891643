import Glibc
import LinuxSystem
import QrexecDom0
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Makes disposables, keeps a pool of ready ones, and sees that none outlives who asked for it
/// (specification, section 18).
final class Disposables {
    /// For a disposable that was made to be started, else it is removed.
    private static let patience = seconds(60)
    /// Between the starts of disposables that wait to be used.
    private static let standardDelay: UInt64 = 3
    /// Names that were used last and are not used again yet.
    private static let rememberedNames = 1000
    /// Of one template.
    private static let maximumPool: UInt64 = 32

    private let loop: EventLoop
    private unowned let lab: Lab
    private var recentNames: [String] = []
    /// When each pooled disposable's files were copied, in nanoseconds since 1970.
    private var madeAt: [ObjectIdentifier: Int] = [:]
    private var isFillScheduled = false
    /// One is made ready, which the pool does not show before its files are copied.
    private var isFilling = false
    private var watched: [ObjectIdentifier: OwnedDescriptor] = [:]

    init(loop: EventLoop, lab: Lab) {
        self.loop = loop
        self.lab = lab
    }

    typealias Completion = (Result<Qube, QubesdError>) -> Void

    /// Makes a disposable, or takes a ready one.
    func create(_ request: DisposableRequest, _ completion: @escaping Completion) {
        guard let template = template(of: request) else {
            let name = request.template ?? "the default of \(request.caller)"
            return completion(.failure(.failed("no disposable template: \(name)")))
        }
        guard template.settings.isTemplateForDisposables else {
            return completion(
                .failure(.failed("\(template.name) is not a template for disposables")))
        }
        // Held from now on: it may end while its disposable is being made.
        let asker: OwnedDescriptor?
        do throws(Errno) { asker = try self.asker(of: request) } catch {
            return completion(.failure(.failed("who asks for a disposable is gone")))
        }
        let finish = { [weak self] (result: Result<Qube, QubesdError>) in
            if case .success(let qube) = result { self?.hand(qube, to: request, asker) }
            completion(result)
        }
        if let ready = takePooled(template) { return finish(.success(ready)) }
        make(from: template, finish)
    }

    /// Makes a further one that waits to be used, whatever the size of the pool is to be.
    func preload(_ template: Qube, _ completion: @escaping Completion) {
        guard template.settings.isTemplateForDisposables else {
            return completion(
                .failure(.failed("\(template.name) is not a template for disposables")))
        }
        guard pooled(template).count < Self.maximumPool else {
            return completion(.failure(.failed("\(Self.maximumPool) of \(template.name) wait")))
        }
        make(from: template) { [weak self] result in
            if case .success(let qube) = result {
                qube.isPooled = true
                self?.lab.start(qube.name) { _ in }
            }
            completion(result)
        }
    }

    private func template(of request: DisposableRequest) -> Qube? {
        if let name = request.template { return lab[name] }
        let caller = lab[request.caller] ?? lab.dom0
        return lab[caller.settings.defaultDisposable] ?? lab[lab.dom0.settings.defaultDisposable]
    }

    /// The daemon that asks, as whose end its process descriptor becomes readable; nil for others, who
    /// end their disposables themselves.
    private func asker(of request: DisposableRequest) throws(Errno) -> OwnedDescriptor? {
        guard let requester = request.requester else { return nil }
        let process = try CurrentProcess.pidDescriptor(requester)
        return lab.isDaemon(requester) ? OwnedDescriptor(process) : nil
    }

    private func hand(_ qube: Qube, to request: DisposableRequest, _ asker: OwnedDescriptor?) {
        qube.settings.tags += ["created-by-\(request.caller)", "disp-created-by-\(request.caller)"]
        if let asker { watch(asker, for: qube) }
        guard qube.powerState == .halted else { return }
        loop.schedule(after: Self.patience) { [weak self, weak qube] in
            guard let self, let qube, qube.powerState == .halted else { return }
            self.lab.logs.note(qube.name, "was never started and is removed")
            self.lab.remove(qube)
        }
    }

    // MARK: Making

    private func make(from template: Qube, _ completion: @escaping Completion) {
        var settings = template.settings
        settings.name = newName()
        settings.type = QubeRecord.Class.disposable.rawValue
        settings.tags = []
        settings.features = [:]
        settings.isTemplateForDisposables = false
        settings.defaultDisposable = template.name
        settings.autostart = false
        do throws(Errno) {
            let qube = try lab.add(settings, isRemovedWhenHalted: true)
            if !PathStatus.exists(template.files.root) { try template.files.prepare(share: nil) }
            try PathStatus.makeDirectory(qube.files.directory, mode: 0o755)
            let now = CurrentProcess.wallClock
            madeAt[ObjectIdentifier(qube)] = now.seconds * 1_000_000_000 + now.nanoseconds
            try lab.workers.start(
                TreeCopy(from: template.files, to: qube.files).arguments
            ) { [weak self] status in
                guard let self else { return }
                if status == TreeCopy.noRoom {
                    self.lab.remove(qube)
                    return completion(.failure(.failed("no room for a disposable's files")))
                }
                // A file that could not be copied is missing there; the log of the lab says which.
                if status != 0 { self.lab.logs.note(qube.name, "some files could not be copied") }
                completion(.success(qube))
            }
        } catch {
            completion(.failure(.failed("cannot make a disposable: \(error)")))
        }
    }

    private func newName() -> String {
        while true {
            let name = "disp\(Int.random(in: 0...9999))"
            if lab[name] != nil || recentNames.contains(name) { continue }
            recentNames.append(name)
            if recentNames.count > Self.rememberedNames { recentNames.removeFirst() }
            return name
        }
    }

    // MARK: Who asked

    /// A call's disposable ends with the call. What ends it is the daemon that made it for the
    /// call; when that daemon dies, the lab does.
    private func watch(_ process: OwnedDescriptor, for qube: Qube) {
        let key = ObjectIdentifier(qube)
        let number = process.descriptor.number
        watched[key] = process
        try? loop.watch(number, .readable) { [weak self, weak qube] _ in
            guard let self else { return }
            self.loop.unwatch(number)
            self.watched[key] = nil
            guard let qube else { return }
            self.lab.logs.note(qube.name, "who asked for it is gone, and so is it")
            if qube.powerState == .halted {
                self.lab.remove(qube)
            } else {
                self.lab.stop(qube) { $0.kill() }
            }
        }
    }

    /// A disposable was removed.
    func forget(_ qube: Qube) {
        let key = ObjectIdentifier(qube)
        madeAt[key] = nil
        if let process = watched.removeValue(forKey: key) {
            loop.unwatch(process.descriptor.number)
        }
        if qube.isPooled { scheduleFill() }
    }

    // MARK: The pool

    /// The feature of a template, which dom0 overrides for the default one.
    private func feature(_ name: String, of template: Qube) -> UInt64? {
        let isDefault = lab.dom0.settings.defaultDisposable == template.name
        let own = template.settings.features[name]
        return ((isDefault ? lab.dom0.settings.features[name] : nil) ?? own).flatMap { UInt64($0) }
    }

    private func pooled(_ template: Qube) -> [Qube] {
        lab.table.filter { $0.isPooled && $0.settings.defaultDisposable == template.name }
    }

    private func wanted(_ template: Qube) -> Int {
        Int(min(feature("preload-dispvm-max", of: template) ?? 0, Self.maximumPool))
    }

    /// The names of those that can be used at once.
    func ready(of template: Qube) -> [String] {
        pooled(template).filter { $0.powerState == .running && !$0.isStopping }.map(\.name)
    }

    /// A feature of a qube was set: pools become smaller or larger.
    func featureChanged(_ key: String) {
        guard key.hasPrefix("preload-dispvm") else { return }
        for template in lab.table where template.settings.isTemplateForDisposables {
            for qube in pooled(template).dropFirst(wanted(template)) {
                lab.stop(qube) { $0.kill() }
            }
        }
        scheduleFill()
    }

    /// Whether as much memory is free as dom0's feature wants to stay free, in MiB.
    private var hasMemory: Bool {
        let key = "preload-dispvm-threshold"
        guard let limit = lab.dom0.settings.features[key].flatMap({ UInt64($0) }) else {
            return true
        }
        return limit <= (HostProcess.availableMemory ?? .max) >> 20
    }

    /// Starts what is missing in the pools, one after the other.
    func fill() {
        isFillScheduled = false
        // What is made ready now fills on when it is.
        guard !lab.isEnding, !isFilling else { return }
        for template in lab.table where template.settings.isTemplateForDisposables {
            guard pooled(template).count < wanted(template) else { continue }
            guard hasMemory else { return scheduleFill() }
            isFilling = true
            make(from: template) { [weak self] result in
                guard let self else { return }
                guard case .success(let qube) = result else {
                    self.isFilling = false
                    return self.scheduleFill()
                }
                qube.isPooled = true
                self.lab.start(qube.name) { [weak self] _ in
                    self?.isFilling = false
                    self?.scheduleFill()
                }
            }
            return
        }
    }

    private func scheduleFill() {
        guard !isFillScheduled else { return }
        isFillScheduled = true
        let delays = lab.table.compactMap { feature("preload-dispvm-delay", of: $0) }
        loop.schedule(after: seconds(delays.max() ?? Self.standardDelay)) { [weak self] in
            self?.fill()
        }
    }

    /// The oldest ready one; those whose template has changed since are thrown away.
    private func takePooled(_ template: Qube) -> Qube? {
        for qube in pooled(template) where qube.powerState == .running && !qube.isStopping {
            let made = madeAt[ObjectIdentifier(qube)] ?? 0
            if TreeCopy.changedAt(template.files) > made {
                lab.stop(qube) { $0.kill() }
                continue
            }
            qube.isPooled = false
            lab.onEvent?(
                QubeEvent(
                    subject: qube.name, name: "domain-feature-delete:internal",
                    details: [("feature", "internal")]))
            scheduleFill()
            return qube
        }
        return nil
    }
}

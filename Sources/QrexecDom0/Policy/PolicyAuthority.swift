import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// What came of a request.
public struct PolicyVerdict: Sendable {
    /// The answer of section 12.7 with the keys `rule` and `reason`.
    public let answer: [UInt8]
    public let isAllowed: Bool
}

/// The one place of dom0 where calls are decided: policy and qubes in memory, both kept current.
public final class PolicyAuthority {
    private let loop: EventLoop
    private let log: Log
    private let store: PolicyStore
    private let feed: SystemInformationFeed
    private var engine: PolicyEngine?
    private var engineGeneration = -1
    private var informationIsNew = true
    private let statusPath: String?
    private let prompts: PolicyPrompts
    private var refusalLimit = RateLimiter(burst: 200, perSecond: 20)
    private var isWrittenAsKnown = false
    private var writtenStatus = ""
    /// Requests that wait until a change of the qubes is fetched.
    private var waiting: [Waiting] = []

    /// Requests that may wait at a time; more are denied.
    static let maximumWaiting = 4096
    /// Nanoseconds that one may wait.
    static let waitingTime = seconds(5)

    /// Where the others are that it talks to.
    public struct Paths: Sendable {
        /// Where `admin.Events` is asked for.
        public var qubesd = "/var/run/qubesd.sock"
        /// Where system information is asked for.
        public var qubesdInternal = "/var/run/qubesd.internal.sock"
        /// A file that tells the state to `qubes-policy status`; nil writes none.
        public var status: String?
        /// The program that calls policy.Ask in a GUI qube.
        public var client = "/usr/bin/qrexec-client"
        /// Directories with the socket services policy.Ask and policy.Notify of dom0.
        public var services = ServiceLookup.configured.directories

        /// The usual places, or those that QUBESD_SOCKET and QUBESD_INTERNAL_SOCKET name.
        public init() {
            if let path = CurrentProcess.variable("QUBESD_SOCKET") { qubesd = path }
            if let path = CurrentProcess.variable("QUBESD_INTERNAL_SOCKET") {
                qubesdInternal = path
            }
        }
    }

    public init(
        _ loop: EventLoop, _ directories: PolicyDirectories, log: Log, paths: Paths = Paths()
    ) throws(Errno) {
        statusPath = paths.status
        self.loop = loop
        self.log = log
        prompts = PolicyPrompts(loop, log: log, paths: paths)
        store = try PolicyStore(directories, log: log)
        feed = SystemInformationFeed(
            loop, log: log, eventsPath: paths.qubesd, internalPath: paths.qubesdInternal)
        feed.onChange = { [unowned self] in
            self.informationIsNew = true
            self.answerWaiting()
            // The number of qubes may be a little old, whether they are known never is.
            if self.isWrittenAsKnown != self.feed.isKnown { self.writeStatus() }
        }
        store.onLoad = { [unowned self] in self.writeStatus() }
        try loop.watch(store.descriptor, .readable) { [unowned self] _ in self.store.refresh() }
        writeStatus()
        feed.start()
    }

    /// Ends the service of this object: it decides no more and tells so.
    public func close() {
        loop.unwatch(store.descriptor)
        if let statusPath { try? FileStatus.remove(statusPath) }
    }

    deinit { close() }

    private func writeStatus() {
        guard let statusPath else { return }
        isWrittenAsKnown = feed.isKnown
        let text = PolicyStatus.text(
            policy: store.policy, loadedAt: store.loadedAt, errors: store.errors, feed: feed)
        // Its directory may be one that is watched: writing for nothing would never end.
        if text == writtenStatus { return }
        writtenStatus = text
        // That it cannot be written changes nothing.
        try? FileChange.replace(statusPath, with: Array(text.utf8), mode: 0o644)
    }

    /// Reads all policy files again.
    public func reload() { store.reload() }

    /// Whether the qubes are known; until then calls wait or are denied.
    var knowsQubes: Bool { feed.isKnown }

    /// Whether two qubes are shown by a GUI qube: they have its tag (section 13.2).
    func isShown(by guiQube: String, _ qubes: String...) -> Bool {
        feed.refresh()
        if !feed.isKnown { return false }
        return qubes.allSatisfy { name in
            feed.information.qube(named: name)?.tags.contains("guivm-" + guiQube) ?? false
        }
    }

    /// Decides a request: at once, or when a change of the qubes that is being fetched is known, or
    /// when a person has answered.
    ///
    /// - Parameter reply: called exactly once, unless the request is given up.
    /// - Returns: what gives the request up when the client has gone, to be kept until `reply`; nil
    ///   when it is answered.
    public func decide(
        _ query: PolicyQuery, _ reply: @escaping (PolicyVerdict) -> Void
    ) -> (() -> Void)? {
        decide(query, hasWaited: false, reply)
    }

    /// - Parameter hasWaited: whether everything that happened before the request is known already,
    ///   whatever is changing meanwhile.
    private func decide(
        _ query: PolicyQuery, hasWaited: Bool, _ reply: @escaping (PolicyVerdict) -> Void
    ) -> (() -> Void)? {
        store.refresh()
        feed.refresh()
        updateEngine()
        switch feed.state {
        case .current: break
        case .changing where hasWaited: break
        case .starting, .changing: return wait(query, reply)
        case .unknown:
            reply(unable(query, "the qubes are not known: \(feed.problem)"))
            return nil
        }
        guard let engine else {
            reply(unable(query, "no policy could be loaded"))
            return nil
        }
        let decision = decide(engine, query)
        // It may have been started just now.
        if decision.reason == .notRunning && feed.isRefreshing && !hasWaited {
            return wait(query, reply)
        }
        if decision.outcome == .ask && !query.assumesYes && !query.justEvaluates {
            return ask(engine, decision, query, reply)
        }
        reply(finish(engine, decision, query))
        return nil
    }

    private func decide(_ engine: PolicyEngine, _ query: PolicyQuery) -> Decision {
        engine.decide(
            source: query.source.span, target: query.target.span, service: query.service.span,
            claimedSource: query.claimedSource.span)
    }

    private func updateEngine() {
        guard let policy = store.policy else { return }
        if engine == nil || engineGeneration != store.generation {
            engine = PolicyEngine(policy, feed.information)
            engineGeneration = store.generation
        } else if informationIsNew {
            engine!.update(feed.information)
        }
        informationIsNew = false
    }

    // MARK: Waiting for a change to be known

    /// A request that waits, until it is answered or given up.
    private final class Waiting {
        let query: PolicyQuery
        /// The fetch with which all is known that happened before it.
        let fetch: Int
        let since = CurrentProcess.now
        let reply: (PolicyVerdict) -> Void
        var isGivenUp = false
        /// What it waits for after it was decided: a person.
        var cancel: (() -> Void)?

        init(_ query: PolicyQuery, fetch: Int, _ reply: @escaping (PolicyVerdict) -> Void) {
            self.query = query
            self.fetch = fetch
            self.reply = reply
        }

        func giveUp() {
            isGivenUp = true
            cancel?()
            cancel = nil
        }
    }

    private func wait(
        _ query: PolicyQuery, _ reply: @escaping (PolicyVerdict) -> Void
    ) -> (() -> Void)? {
        if waiting.count >= Self.maximumWaiting {
            reply(unable(query, "too many requests wait for system information"))
            return nil
        }
        if waiting.isEmpty {
            loop.schedule(after: Self.waitingTime) { [weak self] in self?.dropWaiting() }
        }
        let entry = Waiting(query, fetch: feed.neededFetch, reply)
        waiting.append(entry)
        return { [weak entry] in entry?.giveUp() }
    }

    /// Answers those that have waited long enough. A flood of changes, which a qube may cause, holds
    /// up nobody for longer than two fetches.
    private func answerWaiting() {
        if waiting.isEmpty || feed.state == .starting { return }
        let isReady = { [feed] (entry: Waiting) in
            feed.state != .changing || entry.fetch <= feed.completedFetch
        }
        let ready = waiting.filter(isReady)
        waiting.removeAll(where: isReady)
        for entry in ready where !entry.isGivenUp {
            // The one who gives up knows this entry; it lives on for as long as somebody is asked.
            entry.cancel = decide(entry.query, hasWaited: true) { verdict in
                entry.cancel = nil
                entry.reply(verdict)
            }
        }
    }

    private func dropWaiting() {
        let now = CurrentProcess.now
        let late = waiting.filter { now - $0.since >= Self.waitingTime }
        waiting.removeAll { now - $0.since >= Self.waitingTime }
        for entry in late where !entry.isGivenUp {
            entry.reply(unable(entry.query, "a change of the qubes was not told in time"))
        }
        if let first = waiting.first {
            loop.schedule(after: first.since + Self.waitingTime - now) { [weak self] in
                self?.dropWaiting()
            }
        }
    }

    // MARK: Answers

    /// A denial without a decision, because what is needed for one is missing.
    private func unable(_ query: PolicyQuery, _ reason: String) -> PolicyVerdict {
        if isWorthALine(query) {
            log.error("\(Self.call(query)): error loading policy: \(reason)")
        }
        let text = LogText.line(reason)
        return PolicyVerdict(answer: Array("result=deny\nreason=\(text)\n".utf8), isAllowed: false)
    }

    /// Makes the answer of a decision, and tells the log and people.
    private func finish(
        _ engine: PolicyEngine, _ decision: Decision, _ query: PolicyQuery
    ) -> PolicyVerdict {
        var decision = decision
        if decision.outcome == .ask {
            decision =
                query.assumesYes
                ? engine.assumingYes(decision) : engine.refused(decision, .noPrompt)
        }
        if !query.justEvaluates {
            // Nobody waits for the log.
            loop.defer { [self, decision] in record(engine, decision, query) }
            if decision.notify && !decision.reason.isInvalidRequest {
                let target =
                    decision.outcome == .allow
                    ? engine.text(of: decision.target) : Self.text(query.target)
                prompts.notify(
                    engine, decision, service: Self.text(query.service), target: target)
            }
        }
        return verdict(engine, decision, query)
    }

    // MARK: Asking

    private func ask(
        _ engine: PolicyEngine, _ decision: Decision, _ query: PolicyQuery,
        _ reply: @escaping (PolicyVerdict) -> Void
    ) -> (() -> Void)? {
        if decision.question?.isDefaultMissing == true {
            log.warning(
                "default_target is not among the targets", ["rule": rule(engine, decision)])
        }
        return prompts.ask(engine, decision, service: Self.text(query.service)) {
            [weak self] answer in
            guard let self else { return }
            switch answer {
            case .allow(let target):
                self.whenCurrent {
                    reply(self.consented(engine, decision, query, target))
                }
            case .deny:
                reply(self.finish(engine, engine.refused(decision, .deniedByUser), query))
            case .none(let reason):
                reply(self.finish(engine, engine.refused(decision, reason), query))
            }
        }
    }

    /// Does something when no change of the qubes is being fetched, after a second in any case.
    private func whenCurrent(attempts: Int = 100, _ action: @escaping () -> Void) {
        feed.refresh()
        if feed.state != .changing || attempts == 0 { return action() }
        loop.schedule(after: milliseconds(10)) { [weak self] in
            self?.whenCurrent(attempts: attempts - 1, action)
        }
    }

    /// A person has allowed a call. Meanwhile policy or the qubes may have changed: what was
    /// allowed must still be allowed by asking, and be about the same two qubes.
    private func consented(
        _ asked: PolicyEngine, _ decision: Decision, _ query: PolicyQuery, _ target: String
    ) -> PolicyVerdict {
        store.refresh()
        feed.refresh()
        updateEngine()
        let chosen = asked.answered(decision, target: target)
        guard chosen.outcome == .allow else { return finish(asked, chosen, query) }
        guard let engine, feed.state == .current else {
            return unable(query, "the qubes are not known: \(feed.problem)")
        }
        let again = decide(engine, query)
        var now = again
        if again.outcome == .ask { now = engine.answered(again, target: target) }
        guard again.outcome == .ask, now.outcome == .allow,
            isSame(asked, chosen.source, engine, now.source),
            isSame(asked, chosen.target.qube, engine, now.target.qube)
        else { return finish(engine, engine.refused(again, .changedMeanwhile), query) }
        return finish(engine, now, query)
    }

    /// Whether two numbers mean the same qube: its uuid, which no other will ever have.
    private func isSame(
        _ first: PolicyEngine, _ index: Int32, _ second: PolicyEngine, _ other: Int32
    ) -> Bool {
        guard index >= 0, other >= 0 else { return false }
        let before = first.system.qubes[Int(index)]
        let after = second.system.qubes[Int(other)]
        return before.name == after.name && before.uuid == after.uuid
    }

    private func verdict(
        _ engine: PolicyEngine, _ decision: Decision, _ query: PolicyQuery
    ) -> PolicyVerdict {
        let isAllowed = decision.outcome == .allow
        if query.justEvaluates {
            return PolicyVerdict(
                answer: Array((isAllowed ? "result=allow\n" : "result=deny\n").utf8),
                isAllowed: isAllowed)
        }
        var answer: [UInt8] = []
        answer.reserveCapacity(512)
        engine.appendAnswer(to: decision, service: query.service.span, to: &answer)
        return PolicyVerdict(answer: answer, isAllowed: isAllowed)
    }

    private func rule(_ engine: PolicyEngine, _ decision: Decision) -> String {
        if decision.rule < 0 { return "none" }
        let location = engine.policy.location(of: Int(decision.rule))
        return "\(location.file.path):\(location.line)"
    }

    /// The line of the log that people look for (section 13.1), with the rule that decided. A qube
    /// that is refused all the time does not fill the log.
    private func record(_ engine: PolicyEngine, _ decision: Decision, _ query: PolicyQuery) {
        if decision.outcome == .allow {
            let source = Self.text(query.source)
            let requested = engine.text(of: decision.requested)
            log.info(
                "qrexec: \(Self.fullService(query)): \(source) -> \(requested): "
                    + "allowed to \(engine.text(of: decision.target))" + Self.id(query),
                ["rule": rule(engine, decision)])
            return
        }
        guard isWorthALine(query) else { return }
        if decision.reason.isInvalidRequest {
            log.info(
                "\(Self.call(query)): error loading policy: \(decision.reason.text)"
                    + Self.id(query))
        } else {
            log.info(
                "\(Self.call(query)): denied: \(decision.reason.text)" + Self.id(query),
                ["rule": rule(engine, decision)])
        }
    }

    /// Whether a refusal is told in the log.
    private func isWorthALine(_ query: PolicyQuery) -> Bool {
        switch refusalLimit.admit(Self.text(query.source)) {
        case .admitted: return true
        case .refusedFirst:
            log.warning(
                "too many refused calls: left out of the log for now",
                ["source": Self.text(query.source)])
            return false
        case .refused: return false
        }
    }

    /// Ties the line to those of other programs about the same call.
    private static func id(_ query: PolicyQuery) -> String {
        query.trace.isEmpty ? "" : " id=\(LogText.value(query.trace))"
    }

    private static func call(_ query: PolicyQuery) -> String {
        "qrexec: \(text(query.service)): \(text(query.source)) -> \(text(query.target))"
    }

    private static func fullService(_ query: PolicyQuery) -> String {
        text(query.service) + (query.service.contains(UInt8(ascii: "+")) ? "" : "+")
    }

    /// What a qube sent, cut to what is needed to recognise it.
    private static func text(_ bytes: [UInt8]) -> String {
        let text = String(decoding: bytes.prefix(200), as: UTF8.self)
        return bytes.count > 200 ? text + "..." : text
    }
}

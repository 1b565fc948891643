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
    private var isWrittenAsKnown = false
    /// Requests that wait until a change of the qubes is fetched.
    private var waiting: [(query: PolicyQuery, since: UInt64, reply: (PolicyVerdict) -> Void)] = []

    /// Requests that may wait at a time; more are denied.
    static let maximumWaiting = 4096
    /// Nanoseconds that one may wait.
    static let waitingTime = seconds(5)

    /// - Parameters:
    ///   - qubesdSocket: where `admin.Events` is asked for.
    ///   - internalSocket: where system information is asked for.
    ///   - statusPath: a file that tells the state to `qubes-policy status`.
    public init(
        _ loop: EventLoop, _ directories: PolicyDirectories, log: Log,
        qubesdSocket: String, internalSocket: String, statusPath: String? = nil
    ) throws(Errno) {
        self.statusPath = statusPath
        self.loop = loop
        self.log = log
        store = try PolicyStore(directories, log: log)
        feed = SystemInformationFeed(
            loop, log: log, eventsPath: qubesdSocket, internalPath: internalSocket)
        feed.onChange = { [unowned self] in
            self.informationIsNew = true
            self.answerWaiting()
            // The number of qubes may be a little old, whether they are known never is.
            if self.isWrittenAsKnown != (self.feed.state != .unknown) { self.writeStatus() }
        }
        store.onLoad = { [unowned self] in self.writeStatus() }
        try loop.watch(store.descriptor, .readable) { [unowned self] _ in self.store.refresh() }
        writeStatus()
        feed.start()
    }

    deinit {
        loop.unwatch(store.descriptor)
        if let statusPath { try? FileStatus.remove(statusPath) }
    }

    private func writeStatus() {
        guard let statusPath else { return }
        isWrittenAsKnown = feed.state != .unknown
        PolicyStatus.write(
            to: statusPath, policy: store.policy, loadedAt: store.loadedAt, errors: store.errors,
            feed: feed)
    }

    /// Reads all policy files again.
    public func reload() { store.reload() }

    /// Decides a request: at once, or when a change of the qubes that is being fetched is known.
    ///
    /// - Parameter reply: called exactly once.
    public func decide(_ query: PolicyQuery, _ reply: @escaping (PolicyVerdict) -> Void) {
        store.refresh()
        feed.refresh()
        updateEngine()
        switch feed.state {
        case .current: break
        case .changing: return wait(query, reply)
        case .unknown:
            return reply(unable(query, "the qubes are not known: \(feed.problem)"))
        }
        guard let engine else { return reply(unable(query, "no policy could be loaded")) }
        let decision = engine.decide(
            source: query.source.span, target: query.target.span, service: query.service.span,
            claimedSource: query.claimedSource.span)
        // It may have been started just now.
        if decision.reason == .notRunning && feed.isRefreshing { return wait(query, reply) }
        finish(engine, decision, query, reply)
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

    private func wait(_ query: PolicyQuery, _ reply: @escaping (PolicyVerdict) -> Void) {
        if waiting.count >= Self.maximumWaiting {
            return reply(unable(query, "too many requests wait for system information"))
        }
        if waiting.isEmpty {
            loop.schedule(after: Self.waitingTime) { [unowned self] in self.dropWaiting() }
        }
        waiting.append((query, CurrentProcess.now, reply))
    }

    private func answerWaiting() {
        if waiting.isEmpty || feed.state == .changing { return }
        let ready = waiting
        waiting = []
        for entry in ready { decide(entry.query, entry.reply) }
    }

    private func dropWaiting() {
        let now = CurrentProcess.now
        let late = waiting.filter { now - $0.since >= Self.waitingTime }
        waiting.removeAll { now - $0.since >= Self.waitingTime }
        for entry in late {
            entry.reply(unable(entry.query, "a change of the qubes was not told in time"))
        }
        if let first = waiting.first {
            loop.schedule(after: first.since + Self.waitingTime - now) { [unowned self] in
                self.dropWaiting()
            }
        }
    }

    // MARK: Answers

    /// A denial without a decision, because what is needed for one is missing.
    private func unable(_ query: PolicyQuery, _ reason: String) -> PolicyVerdict {
        log.error("\(Self.call(query)): error loading policy: \(reason)")
        let text = LogText.line(reason)
        return PolicyVerdict(answer: Array("result=deny\nreason=\(text)\n".utf8), isAllowed: false)
    }

    private func finish(
        _ engine: PolicyEngine, _ decision: Decision, _ query: PolicyQuery,
        _ reply: @escaping (PolicyVerdict) -> Void
    ) {
        var decision = decision
        if decision.outcome == .ask {
            decision =
                query.assumesYes
                ? engine.assumingYes(decision) : engine.refused(decision, .noPrompt)
        }
        if !query.justEvaluates { record(engine, decision, query) }
        reply(verdict(engine, decision, query))
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

    /// The line of the log that people look for (section 13.1), with the rule that decided.
    private func record(_ engine: PolicyEngine, _ decision: Decision, _ query: PolicyQuery) {
        var rule = "none"
        if decision.rule >= 0 {
            let location = engine.policy.location(of: Int(decision.rule))
            rule = "\(location.file.path):\(location.line)"
        }
        if decision.outcome == .allow {
            let source = Self.text(query.source)
            let requested = engine.text(of: decision.requested)
            log.info(
                "qrexec: \(Self.fullService(query)): \(source) -> \(requested): "
                    + "allowed to \(engine.text(of: decision.target))", ["rule": rule])
        } else if decision.reason.isInvalidRequest {
            log.info("\(Self.call(query)): error loading policy: \(decision.reason.text)")
        } else {
            log.info("\(Self.call(query)): denied: \(decision.reason.text)", ["rule": rule])
        }
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

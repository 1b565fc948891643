import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// Asks and tells people about calls, in the qube that shows the source's windows (section 13.3),
/// within limits: no qube can fill the screen.
final class PolicyPrompts {
    private let loop: EventLoop
    private let log: Log
    private var askLimit = RateLimiter(burst: 20, perSecond: 0.5)
    private var notifyLimit = RateLimiter(burst: 10, perSecond: 0.5)
    /// Open prompts of each source.
    private var open: [String: Int] = [:]
    /// Notifications that are on their way.
    private var notifications: [ObjectIdentifier: GUIQubeCall] = [:]
    private let paths: PolicyAuthority.Paths

    /// Open prompts of one source.
    static let maximumOpen = 5
    /// Notifications on their way, of all sources.
    static let maximumNotifications = 64
    /// Nanoseconds that a person has to answer.
    static let askTime = seconds(600)
    private static let notifyTime = seconds(10)

    init(_ loop: EventLoop, log: Log, paths: PolicyAuthority.Paths) {
        self.loop = loop
        self.log = log
        self.paths = paths
    }

    /// What a person said.
    enum Answer: Equatable {
        case allow(String)
        case deny
        /// Nobody could be asked, or the answer was none.
        case none(DenialReason)
    }

    /// Asks.
    ///
    /// - Parameter reply: called once, never before this returns, unless it is cancelled.
    /// - Returns: what gives the prompt up when the caller has gone; nil when `reply` was called
    ///   already because nobody can be asked.
    func ask(
        _ engine: PolicyEngine, _ decision: Decision, service: String,
        _ reply: @escaping (Answer) -> Void
    ) -> RequestServer.Cancel? {
        let source = engine.system.qubes[Int(decision.source)]
        guard let guiQube = source.guiQube else {
            reply(.none(.noPrompt))
            return nil
        }
        switch askLimit.admit(source.name) {
        case .admitted: break
        case .refusedFirst:
            log.warning("too many calls to ask about: denied for now", ["source": source.name])
            reply(.none(.tooManyPrompts))
            return nil
        case .refused:
            reply(.none(.tooManyPrompts))
            return nil
        }
        if open[source.name, default: 0] >= Self.maximumOpen {
            log.warning("too many open prompts: denied", ["source": source.name])
            reply(.none(.tooManyPrompts))
            return nil
        }
        do throws(Errno) {
            let payload = Self.question(engine, decision, service)
            let call = try GUIQubeCall(
                loop, guiQube: guiQube, service: "policy.Ask", payload: payload.text,
                time: Self.askTime, paths: paths
            ) { [weak self] answer in
                self?.close(source.name)
                reply(Self.read(answer))
            }
            open[source.name, default: 0] += 1
            return { [weak self] in
                call.cancel()
                self?.close(source.name)
            }
        } catch {
            log.error("cannot ask in \(guiQube): \(error)")
            reply(.none(.noPrompt))
            return nil
        }
    }

    private func close(_ source: String) {
        let count = open[source, default: 1] - 1
        open[source] = count > 0 ? count : nil
    }

    private static func read(_ answer: [UInt8]?) -> Answer {
        guard let answer, answer.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            return .none(.badAnswer)
        }
        let text = String(decoding: answer, as: UTF8.self)
        if text == "deny" { return .deny }
        if text.hasPrefix("allow:") { return .allow(String(text.dropFirst(6))) }
        return .none(.badAnswer)
    }

    private static func split(_ service: String) -> (service: String, argument: String) {
        let plus = service.firstIndex(of: "+") ?? service.endIndex
        return (
            String(service[..<plus]), plus == service.endIndex ? "+" : String(service[plus...])
        )
    }

    private static func question(
        _ engine: PolicyEngine, _ decision: Decision, _ service: String
    ) -> JSONValue {
        let (name, argument) = split(service)
        let source = engine.system.qubes[Int(decision.source)]
        let targets = engine.shownTargets(of: decision)
        var icons: [(name: String, value: JSONValue)] = [(source.name, .string(source.icon))]
        for target in targets {
            let qube = target.hasPrefix("@dispvm:") ? String(target.dropFirst(8)) : target
            guard let icon = engine.system.qube(named: qube)?.icon, target != source.name else {
                continue
            }
            icons.append((target, .string(icon)))
        }
        return .object([
            ("source", .string(source.name)), ("service", .string(name)),
            ("argument", .string(argument)), ("targets", .array(targets.map { .string($0) })),
            ("default_target", .string(decision.question?.defaultTarget ?? "")),
            ("icons", .object(icons)),
        ])
    }

    // MARK: Notifications

    /// Tells what came of a call; nobody waits for it.
    ///
    /// - Parameter target: as requested for a denied call, the final one for an allowed call.
    func notify(
        _ engine: PolicyEngine, _ decision: Decision, service: String, target: String
    ) {
        guard decision.source >= 0 else { return }
        let source = engine.system.qubes[Int(decision.source)]
        guard let guiQube = source.guiQube, notifications.count < Self.maximumNotifications else {
            return
        }
        switch notifyLimit.admit(source.name) {
        case .admitted: break
        case .refusedFirst:
            log.warning("too many notifications: left out for now", ["source": source.name])
            return
        case .refused: return
        }
        let (name, argument) = Self.split(service)
        let payload = JSONValue.object([
            ("resolution", .string(decision.outcome == .allow ? "allow" : "deny")),
            ("service", .string(name)), ("argument", .string(argument)),
            ("source", .string(source.name)), ("target", .string(target)),
        ])
        var identifier: ObjectIdentifier?
        let call = try? GUIQubeCall(
            loop, guiQube: guiQube, service: "policy.Notify", payload: payload.text,
            time: Self.notifyTime, paths: paths
        ) { [weak self] _ in
            guard let self, let identifier else { return }
            // Not at once: the call is still in its own handler.
            self.loop.defer { [weak self] in self?.notifications[identifier] = nil }
        }
        guard let call else {
            log.debug("cannot notify in \(guiQube)")
            return
        }
        identifier = ObjectIdentifier(call)
        notifications[ObjectIdentifier(call)] = call
    }
}

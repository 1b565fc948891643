import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// One request of a confined daemon, at the dispatcher: decided, carried out, and in the end
/// cleaned up.
final class DispatchedCall {
    struct Request {
        /// The daemon's number for it.
        let id: UInt32
        let caller: AllowedCall.Caller
        let target: String
        /// nil where the qube's message has no field for it.
        let claimed: String?
        let user: UInt32
        let errors: HeldDescriptor
    }

    private let request: Request
    private let authority: PolicyAuthority
    private let directory: TargetDirectory
    private let log: Log
    private let trace: CallTrace
    private let send: (DispatchMessage, [HeldDescriptor]) -> Void
    private var giveUp: (() -> Void)?
    private var answer: PolicyAnswer?
    private var call: AllowedCall?
    private var service: Dom0Service?
    private var isDecided = false
    private var wasReached = false
    private var hasEnded = false

    /// It is over, and its id free; once.
    var onEnd: () -> Void = {}

    init(
        _ request: Request, authority: PolicyAuthority, directory: TargetDirectory, log: Log,
        send: @escaping (DispatchMessage, [HeldDescriptor]) -> Void
    ) {
        self.request = request
        self.authority = authority
        self.directory = directory
        self.log = log
        self.send = send
        trace = CallTrace(id: "\(request.caller.name)-\(request.id)")
    }

    func start() {
        var query = PolicyQuery(
            source: Array(request.caller.name.utf8), target: Array(request.target.utf8),
            service: Array(request.caller.service.utf8),
            claimedSource: Array((request.claimed ?? "").utf8))
        query.trace = trace.id
        let cancel = authority.decide(query) { [weak self] in self?.decided($0) }
        if !isDecided { giveUp = cancel }
    }

    /// The daemon does not wait for it any more, or tells that its qube's side is over.
    func callerEnded() {
        if let giveUp {
            giveUp()
            return end()
        }
        service?.hangUp()
        guard call != nil, !hasEnded else { return }
        directory.loop.schedule(after: AllowedCall.endTime) { [weak self] in self?.end() }
    }

    func daemonIsGone() {
        onEnd = {}
        if giveUp != nil { callerEnded() }
        service?.hangUp()
        // A disposable that was reached holds itself until its daemon hangs up.
        if wasReached { call?.removeDisposableUnlessPlaced() } else { end() }
    }

    private func end() {
        guard !hasEnded else { return }
        hasEnded = true
        giveUp = nil
        call?.end()
        call = nil
        let handler = onEnd
        onEnd = {}
        handler()
    }

    // MARK: Decision

    private func decided(_ verdict: PolicyVerdict) {
        isDecided = true
        giveUp = nil
        trace.end(stage: "policy")
        do throws(PolicyAnswer.Malformed) {
            let answer = try PolicyAnswer(bytes: verdict.answer)
            self.answer = answer
            guard let permission = answer.permission else {
                return refuse("denied", answer.refusal)
            }
            let call = AllowedCall(
                permission, of: request.caller, in: directory, log: log, trace: trace)
            self.call = call
            call.start { [self] in carriedOut($0) }
        } catch {
            refuse("failed", "policy: \(error)")
        }
    }

    private func refuse(_ outcome: String, _ reason: String) {
        reply("refused", ["outcome": outcome, "reason": reason])
        end()
    }

    private func reply(
        _ word: String, _ fields: [String: String], _ descriptors: [HeldDescriptor] = []
    ) {
        var message = DispatchMessage(word, ["id": "\(request.id)"])
        for (key, value) in fields { message.set(key, value) }
        message.set("times", trace.stageTimes)
        message.set("target", answer?.permission?.target ?? request.target)
        if let rule = answer?.rule { message.set("rule", rule) }
        send(message, descriptors)
    }

    private func carriedOut(_ outcome: AllowedCall.Outcome) {
        trace.end(stage: "reach")
        switch outcome {
        case .failed(let reason): refuse("failed", reason)
        case .reached(let connection):
            wasReached = true
            reply("reached", [:], [connection])
            guard let call, call.usesDisposable else { return end() }
            call.onDisposableEnd = { [weak self] in self?.end() }
        case .inDom0(let command):
            Dom0Session.whenReady(for: command, loop: directory.loop, log: log) { [weak self] in
                self?.startService(command)
            }
        }
    }

    // MARK: dom0

    private func startService(_ command: Command) {
        if hasEnded { return }
        let service = Dom0Service(
            loop: directory.loop, log: log, user: request.user, errors: request.errors)
        self.service = service
        service.onEnd = { [weak self] status in
            guard let self else { return }
            if let status {
                self.send(
                    DispatchMessage(
                        "status", ["id": "\(self.request.id)", "status": "\(status)"]), [])
            }
            self.end()
        }
        service.start(command) { [weak self] started in
            guard let self else { return }
            self.trace.end(stage: "start")
            self.reply("dom0", started.fields, started.descriptors)
            if started.isOver { self.end() }
        }
    }
}

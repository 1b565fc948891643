import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Carries out a call that policy has allowed, as far as dom0 does: makes the disposable, starts
/// the qube, reaches its daemon and sends it the command (specification, section 6).
final class AllowedCall {
    enum Outcome {
        /// To be run here.
        case inDom0(Command)
        /// Connected to the target's daemon, which has been sent the command; it answers with
        /// where the call is, and closes when the call is over.
        case reached(HeldDescriptor)
        case failed(reason: String)
    }

    /// Who calls what.
    struct Caller {
        let name: String
        let domain: UInt32
        /// As called.
        let service: String
    }

    /// For what a caller that has ended called to end as well.
    static let endTime = seconds(10)

    private let caller: Caller
    private let permission: PolicyAnswer.Permission
    private let directory: TargetDirectory
    private let log: Log
    private let trace: CallTrace
    private var reach: TargetReach?
    private var disposable: Disposable?
    private var completion: ((Outcome) -> Void)?
    private var hasEnded = false

    init(
        _ permission: PolicyAnswer.Permission, of caller: Caller, in directory: TargetDirectory,
        log: Log, trace: CallTrace
    ) {
        self.permission = permission
        self.caller = caller
        self.directory = directory
        self.log = log
        self.trace = trace
    }

    /// Whether the call's end is waited for.
    var usesDisposable: Bool { disposable != nil }

    /// Called when the disposable has been killed.
    var onDisposableEnd: () -> Void = {} {
        didSet { disposable?.onRemoved = onDisposableEnd }
    }

    /// - Parameter completion: called once, maybe at once; not after `end`.
    func start(_ completion: @escaping (Outcome) -> Void) {
        self.completion = completion
        let service = permission.service ?? Self.withPlus(caller.service)
        let source = permission.policySource ?? caller.name
        if Self.isDom0(permission.target) {
            let call = ServiceCall(
                descriptor: service, source: source,
                requestedTarget: .init(requested: permission.requestedTarget))
            return finish(.inDom0(Command(user: nil, kind: .service(call))))
        }
        let call = ServiceCall(descriptor: service, source: source)
        let command = Command(user: permission.user, kind: .service(call))
        if permission.target.hasPrefix("@") {
            makeDisposable(command)
        } else {
            let start: TargetReach.Start = permission.autostart ? .whenNeeded : .never
            connect(to: permission.targetUUID ?? permission.target, command, start: start)
        }
    }

    /// The call is over, or nobody waits for it: what was made for it goes.
    func end() {
        hasEnded = true
        completion = nil
        reach?.cancel()
        reach = nil
        disposable?.remove()
        disposable = nil
    }

    /// The caller's daemon has died. If it did so before it took the answer of the disposable's, the
    /// caller never hears of the call, and the disposable would wait for it.
    func removeDisposableUnlessPlaced() { disposable?.removeAtAnswer() }

    /// The caller's side is over: what it called has some time to end.
    func endAfterCaller() {
        directory.loop.schedule(after: Self.endTime) { [self] in end() }
    }

    private func finish(_ outcome: Outcome) {
        let handler = completion
        completion = nil
        if case .failed = outcome { end() }
        handler?(outcome)
    }

    /// The daemon always sends a `+` (5.7).
    private static func withPlus(_ service: String) -> String {
        service.contains("+") ? service : service + "+"
    }

    static func isDom0(_ target: String) -> Bool {
        target == "@adminvm" || target == "dom0"
            || target == "uuid:00000000-0000-0000-0000-000000000000"
    }

    // MARK: Target

    private func makeDisposable(_ command: Command) {
        guard permission.autostart else {
            return finish(.failed(reason: "a disposable needs autostart=True"))
        }
        let prefix = "@dispvm:"
        let target = permission.targetUUID ?? permission.target
        guard target.hasPrefix(prefix) else {
            return finish(.failed(reason: "'\(LogText.line(target))' cannot be called"))
        }
        Disposable.make(
            from: String(target.dropFirst(prefix.count)), in: directory, log: log
        ) { [self] result in
            trace.end(stage: "create")
            switch result {
            case .failure(let reason): finish(.failed(reason: reason.text))
            case .success(let made):
                // It may have come too late.
                if hasEnded { return made.remove() }
                disposable = made
                connect(to: made.name, command, start: .first)
            }
        }
    }

    private func connect(to target: String, _ command: Command, start: TargetReach.Start) {
        // However it is spelled: a qube has no channel to itself, and both ends would wait.
        if target == caller.name || directory.isName(target, of: caller.domain) {
            return finish(.failed(reason: "a qube cannot call itself"))
        }
        let reach = TargetReach(target, in: directory, start: start)
        self.reach = reach
        reach.onStarted = { [trace] in trace.end(stage: "start") }
        reach.connect { [self] in reached($0, command) }
    }

    private func reached(
        _ result: Result<HeldDescriptor, TargetReach.Failure>, _ command: Command
    ) {
        reach = nil
        switch result {
        case .failure(let failure): finish(.failed(reason: failure.description))
        case .success(let connection):
            let request = ExecRequest(
                connect: ConnectParameters(domain: caller.domain, port: 0), command: command.bytes)
            do throws(Errno) {
                try DaemonConnection.send(.execCommandLine, request.body, to: connection)
                try disposable?.endWith(connection)
                finish(.reached(connection))
            } catch {
                finish(.failed(reason: "the target's daemon is going away: \(error)"))
            }
        }
    }
}

extension PolicyAnswer {
    /// Why a call is not allowed.
    var refusal: String { reason ?? "denied by policy" }
}

import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// One request of the daemon's qube, from the question to the policy until both ends know where
/// their data channel is. Every stage has a deadline, and its time is kept for the log.
final class RequestedCall {
    /// What became of it.
    enum Outcome {
        /// The caller is to serve a data channel there.
        case connected(ConnectParameters)
        case refused(reason: String)
        /// Allowed, but it cannot be carried out.
        case failed(reason: String)
    }

    /// What the call needs of its daemon.
    struct Context {
        let loop: EventLoop
        let log: Log
        let socketDirectory: String
        let policySocket: String
        let qubesd: QubesdCall
        /// The daemon's qube.
        let ownDomain: UInt32
        let ownName: String
        /// Starts a call to dom0: allocates a port and joins its channel, or says why not.
        let startInDom0: (Command) -> Result<ConnectParameters, StartFailure>
    }

    /// Answers may need a person.
    private static let policyTime = seconds(1800)
    private static let startTime = seconds(180)
    /// How long a running qube's daemon or agent that is started again may be away.
    private static let returnTime = seconds(10)
    private static let returnInterval: UInt64 = 20_000_000
    private static let answerLimit = Limits.policyAnswer + 1

    let request: ServiceRequest
    private let context: Context
    private let completion: (Outcome) -> Void
    private let began = CurrentProcess.now
    private var stageBegan: UInt64
    private var stages: [(name: String, nanoseconds: UInt64)] = []
    private var answer: PolicyAnswer?
    private var connection: DaemonConnection?
    private var done = false
    /// When a running target that cannot be reached is given up.
    private var returnDeadline: UInt64 = 0
    private var retry: EventLoop.Timer?

    init(
        _ request: ServiceRequest, context: Context, completion: @escaping (Outcome) -> Void
    ) {
        self.request = request
        self.context = context
        self.completion = completion
        stageBegan = began
    }

    /// Gives up silently: the qube is gone.
    func abandon() {
        done = true
        if let retry { context.loop.cancel(retry) }
        retry = nil
        connection?.close()
        connection = nil
    }

    func start() {
        let question = PolicyQuestion(
            source: context.ownName,
            claimedSource: request.claimedSource, target: request.target,
            service: request.service)
        Exchange.ask(
            loop: context.loop, path: context.policySocket, request: question.bytes,
            shutsDown: false, limit: Self.answerLimit, timeout: Self.policyTime
        ) { [self] result in
            endStage("policy")
            if !done { decided(result) }
        }
    }

    private func endStage(_ name: String) {
        let now = CurrentProcess.now
        stages.append((name, now - stageBegan))
        stageBegan = now
    }

    // MARK: Decision

    private func decided(_ result: Result<[UInt8], Exchange.Failure>) {
        switch result {
        case .failure(let failure):
            finish(.failed(reason: "policy service: \(failure)"))
        case .success([]):
            finish(.failed(reason: "policy service: no answer; see its log"))
        case .success(let bytes):
            do throws(PolicyAnswer.Malformed) {
                let answer = try PolicyAnswer(bytes: bytes)
                self.answer = answer
                guard let permission = answer.permission else {
                    finish(.refused(reason: answer.reason ?? "denied by policy"))
                    return
                }
                carryOut(permission)
            } catch {
                finish(.failed(reason: "policy service: \(error)"))
            }
        }
    }

    private func carryOut(_ permission: PolicyAnswer.Permission) {
        let service = permission.service ?? withPlus(request.service)
        let source = permission.policySource ?? context.ownName
        if Self.isDom0(permission.target) {
            let call = ServiceCall(
                descriptor: service, source: source,
                requestedTarget: .init(requested: permission.requestedTarget))
            switch context.startInDom0(Command(user: nil, kind: .service(call))) {
            case .success(let place):
                endStage("connect")
                finish(.connected(place))
            case .failure(let failure):
                finish(.failed(reason: failure.reason))
            }
            return
        }
        if permission.target.hasPrefix("@dispvm") {
            finish(.failed(reason: "disposables are not supported yet"))
            return
        }
        let call = ServiceCall(descriptor: service, source: source)
        let command = Command(user: permission.user, kind: .service(call))
        connect(to: permission.targetUUID ?? permission.target, command, permission, started: false)
    }

    /// The daemon always sends a `+` (5.7).
    private func withPlus(_ service: String) -> String {
        service.contains("+") ? service : service + "+"
    }

    static func isDom0(_ target: String) -> Bool {
        target == "@adminvm" || target == "dom0"
            || target == "uuid:00000000-0000-0000-0000-000000000000"
    }

    // MARK: Target

    private func connect(
        to target: String, _ command: Command, _ permission: PolicyAnswer.Permission, started: Bool
    ) {
        let path = "\(context.socketDirectory)/qrexec.\(target)"
        let exec = ExecRequest(
            connect: ConnectParameters(domain: context.ownDomain, port: 0), command: command.bytes)
        do throws(DaemonConnection.Failure) {
            connection = try DaemonConnection(
                loop: context.loop, path: path, type: .execCommandLine, request: exec
            ) { [self] in answered($0) }
        } catch {
            guard case .unreachable(_, let reason) = error,
                reason == .noSuchFileOrDirectory || reason == .connectionRefused,
                permission.autostart
            else {
                finish(.failed(reason: error.description))
                return
            }
            if !started {
                startTarget(target, command, permission)
            } else if CurrentProcess.now < returnDeadline {
                retry = context.loop.schedule(after: Self.returnInterval) { [self] in
                    retry = nil
                    connect(to: target, command, permission, started: true)
                }
            } else {
                finish(.failed(reason: error.description))
            }
        }
    }

    private func startTarget(
        _ target: String, _ command: Command, _ permission: PolicyAnswer.Permission
    ) {
        context.qubesd.call("admin.vm.Start", destination: target, timeout: Self.startTime) {
            [self] result in
            endStage("start")
            if done { return }
            switch result {
            case .success: break
            case .failure(.refused(type: "QubesVMNotHaltedError", text: _)): break
            case .failure(let failure):
                finish(.failed(reason: "\(target) cannot be started: \(failure)"))
                return
            }
            returnDeadline = CurrentProcess.now + Self.returnTime
            connect(to: target, command, permission, started: true)
        }
    }

    private func answered(_ result: Result<ConnectParameters, DaemonConnection.Failure>) {
        endStage("connect")
        switch result {
        case .success(let place): finish(.connected(place))
        case .failure(let failure): finish(.failed(reason: failure.description))
        }
    }

    // MARK: End

    private func finish(_ outcome: Outcome) {
        guard !done else { return }
        done = true
        logLine(outcome)
        completion(outcome)
        // The call goes on without us; only disposables are waited for.
        context.loop.defer { [self] in
            connection?.close()
            connection = nil
        }
    }

    /// The one line of this call.
    private func logLine(_ outcome: Outcome) {
        let what: String
        var reason = ""
        switch outcome {
        case .connected: what = "allowed"
        case .refused(let text):
            what = "denied"
            reason = text
        case .failed(let text):
            what = "failed"
            reason = text
        }
        var times = ""
        for stage in stages { times += "\(stage.name)=\(Self.milliseconds(stage.nanoseconds)) " }
        times += "total=\(Self.milliseconds(CurrentProcess.now - began))"
        let target = answer?.permission?.target ?? request.target
        let text =
            "call source=\(LogText.value(context.ownName))"
            + (request.claimedSource.isEmpty
                ? "" : " claimed_source=\(LogText.value(request.claimedSource))")
            + " service=\(LogText.value(request.service))"
            + " requested_target=\(LogText.value(request.target))"
            + " target=\(LogText.value(target)) outcome=\(what)"
            + (answer?.rule.map { " rule=\(LogText.value($0))" } ?? " rule=none")
            + (reason.isEmpty ? "" : " reason=\(LogText.value(reason))")
            + " ms: \(times)"
        switch outcome {
        case .connected, .refused: context.log.info(text)
        case .failed: context.log.warning(text)
        }
    }

    private static func milliseconds(_ nanoseconds: UInt64) -> String {
        let hundredths = nanoseconds / 10_000
        let rest = hundredths % 100
        return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
    }
}

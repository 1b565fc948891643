import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// One request of the daemon's qube where the daemon does everything itself: from the question to
/// the policy until both ends know where their data channel is. Every stage has a deadline.
final class RequestedCall: PendingRequest {
    /// What the call needs of its daemon.
    struct Context {
        let log: Log
        let directory: TargetDirectory
        let policy: PolicyAsker
        /// The daemon's qube.
        let ownDomain: UInt32
        let ownName: String
        /// Starts a call to dom0: allocates a port and joins its channel, or says why not.
        let startInDom0: (Command) -> Result<ConnectParameters, StartFailure>
    }

    private let request: ServiceRequest
    private let namesSource: Bool
    private let context: Context
    private let answer: RequestAnswer
    private var call: AllowedCall?

    /// - Parameters:
    ///   - namesSource: whether the qube's message has a field for a claimed source.
    ///   - completion: called once, unless the request is abandoned.
    init(
        _ request: ServiceRequest, namesSource: Bool, context: Context, trace: CallTrace,
        completion: @escaping (RequestOutcome) -> Void
    ) {
        self.request = request
        self.namesSource = namesSource
        self.context = context
        answer = RequestAnswer(
            to: request, of: (context.ownName, context.ownDomain), trace: trace,
            loop: context.directory.loop, log: context.log, completion: completion)
    }

    var usesDisposable: Bool { call?.usesDisposable ?? false }

    func callerEnded() { call?.endAfterCaller() }

    func start() {
        let question = PolicyQuestion(
            source: context.ownName, claimedSource: namesSource ? request.claimedSource : nil,
            target: request.target, service: request.service)
        context.policy.ask(question) { [self] result in
            answer.trace.end(stage: "policy")
            if answer.isAwaited { decided(result) }
        }
    }

    func abandon() {
        answer.abandon()
        call?.end()
        call = nil
    }

    private func decided(_ result: Result<PolicyAnswer, PolicyAsker.Unanswered>) {
        switch result {
        case .failure(let unanswered): finish(.failed(reason: unanswered.reason))
        case .success(let decision):
            answer.decision = CallTrace.Decision(
                target: decision.permission?.target, rule: decision.rule)
            guard let permission = decision.permission else {
                return finish(.refused(reason: decision.refusal))
            }
            let caller = AllowedCall.Caller(
                name: context.ownName, domain: context.ownDomain, service: request.service)
            let call = AllowedCall(
                permission, of: caller, in: context.directory, log: context.log,
                trace: answer.trace)
            self.call = call
            call.start { [self] in carriedOut($0) }
        }
    }

    private func carriedOut(_ outcome: AllowedCall.Outcome) {
        switch outcome {
        case .failed(let reason): finish(.failed(reason: reason))
        case .inDom0(let command):
            let started = context.startInDom0(command)
            answer.trace.end(stage: "connect")
            switch started {
            case .success(let place): finish(.connected(place))
            case .failure(let failure): finish(.failed(reason: failure.reason))
            }
        case .reached(let held):
            answer.take(from: held, stage: "connect") { [self] in finish($0) }
        }
    }

    private func finish(_ outcome: RequestOutcome) {
        guard answer.isAwaited else { return }
        if case .connected = outcome {} else { call?.end() }
        answer.give(outcome)
    }
}

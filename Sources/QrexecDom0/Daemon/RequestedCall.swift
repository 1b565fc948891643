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
    private let trace: CallTrace
    private var completion: ((RequestOutcome) -> Void)?
    private var answer: PolicyAnswer?
    private var call: AllowedCall?
    private var connection: DaemonConnection?

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
        self.trace = trace
        self.completion = completion
    }

    var usesDisposable: Bool { call?.usesDisposable ?? false }

    /// For the service to end after its caller has.
    static let endTime = seconds(10)

    func callerEnded() {
        context.directory.loop.schedule(after: Self.endTime) { [self] in call?.end() }
    }

    func start() {
        let question = PolicyQuestion(
            source: context.ownName, claimedSource: namesSource ? request.claimedSource : nil,
            target: request.target, service: request.service)
        context.policy.ask(question) { [self] result in
            trace.end(stage: "policy")
            if completion != nil { decided(result) }
        }
    }

    func abandon() {
        completion = nil
        connection?.close()
        connection = nil
        call?.end()
        call = nil
    }

    private func decided(_ result: Result<PolicyAnswer, PolicyAsker.Unanswered>) {
        switch result {
        case .failure(let unanswered): finish(.failed(reason: unanswered.reason))
        case .success(let answer):
            self.answer = answer
            guard let permission = answer.permission else {
                return finish(.refused(reason: answer.reason ?? "denied by policy"))
            }
            let caller = AllowedCall.Caller(
                name: context.ownName, domain: context.ownDomain, service: request.service)
            let call = AllowedCall(
                permission, of: caller, in: context.directory, log: context.log, trace: trace)
            self.call = call
            call.start { [self] in carriedOut($0) }
        }
    }

    private func carriedOut(_ outcome: AllowedCall.Outcome) {
        switch outcome {
        case .failed(let reason): finish(.failed(reason: reason))
        case .inDom0(let command):
            let started = context.startInDom0(command)
            trace.end(stage: "connect")
            switch started {
            case .success(let place): finish(.connected(place))
            case .failure(let failure): finish(.failed(reason: failure.reason))
            }
        case .reached(let held):
            do throws(DaemonConnection.Failure) {
                let connection = try DaemonConnection(
                    loop: context.directory.loop, sent: .execCommandLine, on: held
                ) { [self] in answered($0) }
                self.connection = connection
                // Of the end, disposables are told by a descriptor of their own.
                connection.onCallEnd = { [unowned self] in self.connection = nil }
            } catch {
                finish(.failed(reason: error.description))
            }
        }
    }

    private func answered(_ result: Result<ConnectParameters, DaemonConnection.Failure>) {
        trace.end(stage: "connect")
        switch result {
        case .success(let place): finish(.connected(place))
        case .failure(let failure): finish(.failed(reason: failure.description))
        }
    }

    private func finish(_ outcome: RequestOutcome) {
        guard let handler = completion else { return }
        completion = nil
        let decision = CallTrace.Decision(
            target: answer?.permission?.target, rule: answer?.rule)
        trace.report(
            request, of: (context.ownName, context.ownDomain), decision, outcome, to: context.log)
        if case .connected = outcome {
            // The call goes on without us; a disposable holds its connection itself.
            context.directory.loop.defer { [self] in
                connection?.close()
                connection = nil
            }
        } else {
            call?.end()
        }
        handler(outcome)
    }
}

import LinuxSystem
import QrexecProtocol
import QrexecRuntime

/// What the daemon's qube is answered to its request: once, with one line in the log. Whoever decides
/// the request and carries it out (`RequestedCall`, `DispatchedRequest`) leaves the rest to this.
final class RequestAnswer {
    private let loop: EventLoop
    private let log: Log
    private let source: (name: String, domain: UInt32)
    private let request: ServiceRequest
    let trace: CallTrace
    /// What is known of the decision, for the line in the log.
    var decision = CallTrace.Decision()
    private var completion: ((RequestOutcome) -> Void)?
    /// To the target's daemon, until that has answered.
    private var connection: DaemonConnection?

    /// - Parameter completion: called once, unless the request is abandoned.
    init(
        to request: ServiceRequest, of source: (name: String, domain: UInt32), trace: CallTrace,
        loop: EventLoop, log: Log, completion: @escaping (RequestOutcome) -> Void
    ) {
        self.loop = loop
        self.log = log
        self.source = source
        self.request = request
        self.trace = trace
        self.completion = completion
    }

    /// Nobody was answered yet, and somebody waits for it.
    var isAwaited: Bool { completion != nil }

    /// Nobody waits for it any more.
    func abandon() {
        completion = nil
        close()
    }

    /// Waits for the answer of the target's daemon, which has been sent the command over `held`.
    ///
    /// - Parameters:
    ///   - stage: the trace's name for that.
    ///   - onAnswer: gets the outcome, to be passed to `give`.
    func take(
        from held: HeldDescriptor, stage: String, _ onAnswer: @escaping (RequestOutcome) -> Void
    ) {
        do throws(DaemonConnection.Failure) {
            let connection = try DaemonConnection(
                loop: loop, sent: .execCommandLine, on: held
            ) { [trace] in
                trace.end(stage: stage)
                switch $0 {
                case .success(let place): onAnswer(.connected(place))
                case .failure(let failure): onAnswer(.failed(reason: failure.description))
                }
            }
            self.connection = connection
            // Of the end, disposables are told by a descriptor of their own.
            connection.onCallEnd = { [unowned self] in self.connection = nil }
        } catch {
            onAnswer(.failed(reason: error.description))
        }
    }

    /// Answers, if somebody waits for it.
    func give(_ outcome: RequestOutcome) {
        guard let handler = completion else { return }
        completion = nil
        // The call goes on without us; a disposable's connection has a copy elsewhere.
        loop.defer { [self] in close() }
        handler(outcome)
        // Nobody waits for the log.
        trace.report(request, of: source, decision, outcome, to: log)
    }

    private func close() {
        connection?.close()
        connection = nil
    }
}

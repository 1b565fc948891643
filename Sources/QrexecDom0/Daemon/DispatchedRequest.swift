import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// One request of a confined daemon's qube: the dispatcher decides it and does what there is to do
/// in dom0; the daemon reads the target's answer, or moves the data of a service of dom0.
final class DispatchedRequest: PendingRequest {
    /// A service of dom0 that the dispatcher has started.
    struct Service {
        enum Kind {
            case program
            case socket(exitOnClientEOF: Bool, exitOnServiceEOF: Bool)
            /// It could not be started.
            case none(status: Int32)
        }

        let kind: Kind
        let descriptors: [HeldDescriptor]
        let request: DispatchedRequest
    }

    private let link: DispatcherLink
    private let sourceName: String
    private let request: ServiceRequest
    private let answer: RequestAnswer
    private var id: UInt32 = 0
    private var serve: ((Service) -> Result<ConnectParameters, StartFailure>)?
    /// The service's exit status; for the session that moves its data.
    var onStatus: ((Int32) -> Void)?
    private var earlyStatus: Int32?
    private var isInDom0 = false

    init(
        _ request: ServiceRequest, of source: (name: String, domain: UInt32),
        over link: DispatcherLink, loop: EventLoop,
        log: Log, serve: @escaping (Service) -> Result<ConnectParameters, StartFailure>,
        completion: @escaping (RequestOutcome) -> Void
    ) {
        self.request = request
        sourceName = source.name
        self.link = link
        self.serve = serve
        answer = RequestAnswer(
            to: request, of: source, trace: CallTrace(id: ""), loop: loop, log: log,
            completion: completion)
    }

    func start(namesSource: Bool) {
        id = link.send(self, request, namesSource: namesSource)
        answer.trace.id = "\(sourceName)-\(id)"
    }

    /// Whether there is one the dispatcher knows.
    var usesDisposable: Bool { request.target.hasPrefix("@dispvm") || isToDisposable }
    private var isToDisposable: Bool { answer.decision.target?.hasPrefix("@dispvm") ?? false }

    func abandon() {
        answer.abandon()
        serve = nil
        link.end(id)
        link.forget(id)
    }

    func callerEnded() { link.end(id) }

    /// The session of a service of dom0 is over: its program has nobody left to talk to.
    func sessionEnded() {
        onStatus = nil
        link.end(id)
        link.forget(id)
    }

    /// Calls back with the program's exit status, which may have come already.
    func whenEnded(_ handler: @escaping (Int32) -> Void) {
        if let earlyStatus { return handler(earlyStatus) }
        onStatus = handler
    }

    func received(
        _ message: DispatchMessage, _ descriptors: [HeldDescriptor]
    ) throws(DispatchMessage.Malformed) {
        if message.word == "status" {
            let status = Int32(truncatingIfNeeded: try message.number("status"))
            earlyStatus = status
            onStatus?(status)
            return
        }
        answer.decision = CallTrace.Decision(
            target: message["target"], rule: message["rule"], times: message["times"] ?? "")
        switch message.word {
        case "refused":
            let reason = message["reason"] ?? "denied"
            finish(
                message["outcome"] == "denied" ? .refused(reason: reason) : .failed(reason: reason))
        case "reached": try reached(descriptors)
        case "dom0": try serveInDom0(message, descriptors)
        default: throw DispatchMessage.Malformed(description: "an unknown word")
        }
    }

    private func reached(_ descriptors: [HeldDescriptor]) throws(DispatchMessage.Malformed) {
        guard let held = descriptors.first else {
            throw DispatchMessage.Malformed(description: "no connection to the target's daemon")
        }
        answer.take(from: held, stage: "answer") { [self] in finish($0) }
    }

    private func serveInDom0(
        _ message: DispatchMessage, _ descriptors: [HeldDescriptor]
    ) throws(DispatchMessage.Malformed) {
        let kind: Service.Kind
        let expected: Int
        switch message["kind"] {
        case "program": (kind, expected) = (.program, 2)
        case "socket":
            kind = .socket(
                exitOnClientEOF: message["client-eof"] == "1",
                exitOnServiceEOF: message["service-eof"] == "1")
            expected = 1
        default:
            let status = Int32(truncatingIfNeeded: try message.number("status"))
            (kind, expected) = (.none(status: status), 0)
        }
        guard descriptors.count == expected else {
            throw DispatchMessage.Malformed(description: "a service without its descriptors")
        }
        guard let serve else { return }
        self.serve = nil
        isInDom0 = true
        switch serve(Service(kind: kind, descriptors: descriptors, request: self)) {
        case .success(let place): finish(.connected(place))
        case .failure(let failure):
            link.end(id)
            finish(.failed(reason: failure.reason))
        }
    }

    private func finish(_ outcome: RequestOutcome) {
        guard answer.isAwaited else { return }
        // A service of dom0 still tells its end.
        if case .connected = outcome, isInDom0 {} else { link.forget(id) }
        answer.give(outcome)
    }
}

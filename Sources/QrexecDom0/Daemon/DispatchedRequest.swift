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

    private let loop: EventLoop
    private let log: Log
    private let link: DispatcherLink
    private let source: (name: String, domain: UInt32)
    private let request: ServiceRequest
    private let trace: CallTrace
    private var id: UInt32 = 0
    private var completion: ((RequestOutcome) -> Void)?
    private var serve: ((Service) -> Result<ConnectParameters, StartFailure>)?
    private var connection: DaemonConnection?
    private var decision = CallTrace.Decision()
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
        self.source = source
        self.link = link
        self.loop = loop
        self.log = log
        self.serve = serve
        self.completion = completion
        trace = CallTrace(id: "")
    }

    func start(namesSource: Bool) {
        id = link.send(self, request, namesSource: namesSource)
        trace.id = "\(source.name)-\(id)"
    }

    /// Whether there is one the dispatcher knows.
    var usesDisposable: Bool { request.target.hasPrefix("@dispvm") || isToDisposable }
    private var isToDisposable: Bool { decision.target?.hasPrefix("@dispvm") ?? false }

    func abandon() {
        completion = nil
        serve = nil
        connection?.close()
        connection = nil
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
        decision.target = message["target"]
        decision.rule = message["rule"]
        decision.times = message["times"] ?? ""
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
        do throws(DaemonConnection.Failure) {
            connection = try DaemonConnection(loop: loop, sent: .execCommandLine, on: held) {
                [self] in
                trace.end(stage: "answer")
                switch $0 {
                case .success(let place): finish(.connected(place))
                case .failure(let failure): finish(.failed(reason: failure.description))
                }
            }
        } catch {
            finish(.failed(reason: error.description))
        }
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
        guard let handler = completion else { return }
        completion = nil
        trace.report(request, of: source, decision, outcome, to: log)
        // The dispatcher has its own copy of a disposable's connection.
        loop.defer { [self] in
            connection?.close()
            connection = nil
        }
        if case .connected = outcome {
            // A service of dom0 still tells its end.
            if !isInDom0 { link.forget(id) }
        } else {
            link.forget(id)
        }
        handler(outcome)
    }
}

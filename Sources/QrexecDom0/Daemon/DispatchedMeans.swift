import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// Everything by the dispatcher: for a confined daemon.
final class DispatchedMeans: DaemonMeans {
    private let loop: EventLoop
    private let log: Log
    private let source: (name: String, domain: UInt32)
    private let link: DispatcherLink
    private let sessions: Dom0Sessions

    init(
        _ options: Daemon.Options, over link: DispatcherLink, loop: EventLoop, log: Log,
        sessions: Dom0Sessions
    ) {
        self.loop = loop
        self.log = log
        source = (options.name, UInt32(options.domain.rawValue))
        self.link = link
        self.sessions = sessions
    }

    func connectControl(_ completion: @escaping (consuming ChannelAnswer) -> Void) {
        link.openChannel(port: Limits.controlPort, completion)
    }

    func listen(_ completion: @escaping (Result<HeldDescriptor, StartFailure>) -> Void) {
        link.listen(completion)
    }

    func unlisten() { link.unlisten() }

    func begin(
        _ request: ServiceRequest, namesSource: Bool,
        _ completion: @escaping (RequestOutcome) -> Void
    ) -> any PendingRequest {
        let call = DispatchedRequest(
            request, of: source, over: link, loop: loop, log: log,
            serve: { [unowned self] in self.serve($0) }, completion: completion)
        call.start(namesSource: namesSource)
        return call
    }

    private func serve(
        _ service: DispatchedRequest.Service
    ) -> Result<ConnectParameters, StartFailure> {
        let place = sessions.newPlace()
        if case .success(let place) = place {
            link.openChannel(port: place.port) { [unowned self] answer in
                switch consume answer {
                case .channel(let channel, _): self.begin(service, at: place, channel)
                case .failed(let reason):
                    self.log.warning("a call to dom0 cannot be served", ["reason": reason])
                    service.request.sessionEnded()
                }
            }
        }
        return place
    }

    private func begin(
        _ service: DispatchedRequest.Service, at place: ConnectParameters,
        _ channel: consuming Channel
    ) {
        let session = HandedSession(loop: loop, channel: channel, service: service, log: log) {
            [unowned self] in self.sessions.drop(place)
        }
        sessions.keep(place) { session.cancel() }
        do throws(VchanError) {
            try session.start()
        } catch {
            log.warning("a call to dom0 cannot be served", ["reason": error.description])
            session.cancel()
        }
    }
}

import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// What a daemon needs outside its own process. By itself it takes it (`OwnMeans`); confined, it
/// asks the dispatcher for it (`DispatchedMeans`).
protocol DaemonMeans: AnyObject {
    /// Connects to the agent; the completion may be called at once.
    func connectControl(_ completion: @escaping (consuming ChannelAnswer) -> Void)
    /// Makes the socket for local clients, under all its names.
    func listen(_ completion: @escaping (Result<HeldDescriptor, StartFailure>) -> Void)
    func unlisten()
    /// Has a request decided and carried out; the completion is not called before this returns.
    func begin(
        _ request: ServiceRequest, namesSource: Bool,
        _ completion: @escaping (RequestOutcome) -> Void
    ) -> any PendingRequest
}

/// A channel to the daemon's qube, or why there is none.
enum ChannelAnswer: ~Copyable {
    case channel(Channel, isByteStream: Bool)
    case failed(String)
}

/// The calls to dom0 that run: each has a port of the daemon's qube.
final class Dom0Sessions {
    private let allocate: () -> UInt32?
    private let free: (ConnectParameters) -> Void
    /// What ends each; holds the session.
    private var cancels: [UInt32: () -> Void] = [:]

    init(allocate: @escaping () -> UInt32?, free: @escaping (ConnectParameters) -> Void) {
        self.allocate = allocate
        self.free = free
    }

    /// Takes a port for a session that is to begin.
    func newPlace() -> Result<ConnectParameters, StartFailure> {
        guard let port = allocate() else {
            return .failure(StartFailure(reason: "no free port"))
        }
        return .success(ConnectParameters(domain: 0, port: port))
    }

    func keep(_ place: ConnectParameters, cancel: @escaping () -> Void) {
        cancels[place.port] = cancel
    }

    /// The session is over; the agent frees its port.
    func drop(_ place: ConnectParameters) { cancels[place.port] = nil }

    /// The session did not begin: nobody else frees its port.
    func giveBack(_ place: ConnectParameters) {
        drop(place)
        free(place)
    }

    func cancelAll() {
        for cancel in Array(cancels.values) { cancel() }
    }
}

/// Everything by the daemon itself: for systems without a dispatcher, mixed ones among them.
final class OwnMeans: DaemonMeans {
    private let loop: EventLoop
    private let log: Log
    private let options: Daemon.Options
    private let transport: Transport
    private let sockets: DaemonSockets
    private let directory: TargetDirectory
    private let policy: PolicyAsker
    private let host = Dom0Host.make()
    private let sessions: Dom0Sessions
    private var traces: TraceNumbers
    private var isListening = false

    init(
        _ options: Daemon.Options, loop: EventLoop, log: Log, sessions: Dom0Sessions
    ) throws {
        self.loop = loop
        self.log = log
        self.options = options
        self.sessions = sessions
        transport = try Transport.selected()
        sockets = DaemonSockets(
            directory: options.socketDirectory, domain: UInt32(options.domain.rawValue),
            name: options.name, uuid: options.uuid)
        directory = TargetDirectory(
            loop: loop, socketDirectory: options.socketDirectory, qubesd: QubesdCall(loop: loop))
        policy = PolicyAsker(
            loop: loop, socket: options.policySocket, program: options.policyProgram, log: log)
        traces = TraceNumbers(options.name)
    }

    func connectControl(_ completion: @escaping (consuming ChannelAnswer) -> Void) {
        do throws(VchanError) {
            let channel = try transport.connect(
                to: options.domain, port: Port(Limits.controlPort)!)
            completion(.channel(channel, isByteStream: transport.isByteStream))
        } catch {
            completion(.failed(error.description))
        }
    }

    func listen(_ completion: @escaping (Result<HeldDescriptor, StartFailure>) -> Void) {
        do throws(Errno) {
            let socket = HeldDescriptor(try sockets.open())
            isListening = true
            completion(.success(socket))
        } catch {
            completion(.failure(StartFailure(reason: error.description)))
        }
    }

    func unlisten() {
        guard isListening else { return }
        isListening = false
        sockets.remove()
    }

    func begin(
        _ request: ServiceRequest, namesSource: Bool,
        _ completion: @escaping (RequestOutcome) -> Void
    ) -> any PendingRequest {
        let context = RequestedCall.Context(
            log: log, directory: directory, policy: policy,
            ownDomain: UInt32(options.domain.rawValue), ownName: options.name,
            startInDom0: { [unowned self] in self.startInDom0($0) })
        let call = RequestedCall(
            request, namesSource: namesSource, context: context,
            trace: CallTrace(id: traces.next()), completion: completion)
        call.start()
        return call
    }

    /// A call to dom0: the qube serves the data channel, dom0 joins it.
    private func startInDom0(_ command: Command) -> Result<ConnectParameters, StartFailure> {
        sessions.newPlace().flatMap { place in
            do throws(VchanError) {
                // From here the qube is the peer.
                let channel = try transport.connect(to: options.domain, port: Port(place.port)!)
                let session = ServiceSession(
                    loop: loop, host: host,
                    request: ExecRequest(connect: place, command: command.bytes), justExec: false,
                    channel: channel, log: log
                ) { [unowned self] in self.sessions.drop(place) }
                sessions.keep(place) { session.cancel() }
                Dom0Session.whenReady(for: command, loop: loop, log: log) { [unowned self] in
                    self.start(session, at: place)
                }
                return .success(place)
            } catch {
                sessions.giveBack(place)
                return .failure(StartFailure(reason: error.description))
            }
        }
    }

    private func start(_ session: ServiceSession, at place: ConnectParameters) {
        do throws(VchanError) {
            try session.start()
        } catch {
            log.warning("a call to dom0 cannot be served", ["reason": error.description])
            sessions.drop(place)
        }
    }
}

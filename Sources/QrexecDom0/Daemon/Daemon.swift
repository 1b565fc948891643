import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// `qrexec-daemon`: stands in dom0 for one qube (specification, section 6). One thread, no process
/// per call but a dom0 service itself; nothing that the qube does makes it wait.
final class Daemon {
    struct Options {
        var domain = DomainID.dom0
        var name = ""
        var uuid: String?
        var defaultUser = "user"
        var socketDirectory = "/var/run/qubes"
        var policySocket =
            CurrentProcess.variable("QREXEC_POLICY_SOCKET") ?? "/run/qubes/policy.sock"
        /// Asked when the policy service does not answer; nil asks nobody then.
        var policyProgram: String?
    }

    private let loop: EventLoop
    private let options: Options
    private let log: Log
    private let transport: Transport
    private var link: ControlLink?
    private var version: ProtocolVersion?
    private var listener: Descriptor?
    private var sockets: DaemonSockets
    private var ports: PortTable
    private var clients: [UInt64: LocalClient] = [:]
    private var nextClient: UInt64 = 0
    /// Whose call a port serves.
    private var portClients: [UInt32: UInt64] = [:]
    private var pending: [[UInt8]: any PendingRequest] = [:]
    /// Calls of this qube to disposables, by where their data channel is.
    private var disposableCalls: [ConnectParameters: any PendingRequest] = [:]
    private var sessions: [UInt32: ServiceSession] = [:]
    private let host = Dom0Host.make()
    private let directory: TargetDirectory
    private let policy: PolicyAsker
    private var traces: TraceNumbers
    private var wasReady = false
    private var exitStatus: Int32 = 0

    /// The agent is connected for the first time.
    var onReady: () -> Void = {}

    init(options: Options, log: Log) throws {
        loop = try EventLoop()
        self.options = options
        self.log = log
        transport = try Transport.selected()
        ports = PortTable(ownDomain: UInt32(options.domain.rawValue))
        sockets = DaemonSockets(
            directory: options.socketDirectory, domain: options.domain, name: options.name,
            uuid: options.uuid)
        directory = TargetDirectory(
            loop: loop, socketDirectory: options.socketDirectory, qubesd: QubesdCall(loop: loop))
        policy = PolicyAsker(
            loop: loop, socket: options.policySocket, program: options.policyProgram, log: log)
        traces = TraceNumbers(options.name)
        try loop.onSignals([SIGTERM, SIGINT]) { [unowned self] _ in self.stop(status: 0) }
    }

    /// Runs until a signal comes or the agent does not connect in time.
    ///
    /// - Parameter startupTimeout: seconds for the agent's first connection.
    /// - Returns: the exit status: 0, or 3 when that time is over.
    func run(startupTimeout: UInt64) throws(Errno) -> Int32 {
        let timer = loop.schedule(after: seconds(startupTimeout)) { [unowned self] in
            self.log.error("the agent did not connect within \(startupTimeout) s")
            self.stop(status: 3)
        }
        let ready = onReady
        onReady = { [unowned self] in
            self.loop.cancel(timer)
            ready()
        }
        join()
        try loop.run()
        return exitStatus
    }

    private func stop(status: Int32) {
        exitStatus = status
        closeSockets()
        for session in sessions.values { session.cancel() }
        link?.close()
        loop.stop()
    }

    // MARK: Control channel

    private static let retryTime = milliseconds(100)

    private func join() {
        do throws(VchanError) {
            let channel = try transport.connect(
                to: options.domain, port: Port(Limits.controlPort)!)
            let link = ControlLink(loop: loop, channel: channel) {
                (type, length) throws(ProtocolError) in try Daemon.checkLength(type, length)
            }
            link.onMessage = { [unowned self] in self.received($0, $1) }
            link.onEnd = { [unowned self] in self.linkEnded($0) }
            self.link = link
            try link.start()
        } catch {
            linkEnded(.failed(error))
        }
    }

    private static func checkLength(_ type: MessageType, _ length: Int) throws(ProtocolError) {
        switch type {
        case .hello:
            guard length == Hello.size else {
                throw .badLength(type, length: length, expected: "4")
            }
        case .connectionTerminated:
            guard length == ConnectParameters.size else {
                throw .badLength(type, length: length, expected: "8")
            }
        case .triggerService, .triggerService3, .triggerService4:
            try ServiceRequest.checkLength(length, of: type)
        default: throw .unexpectedType(type, state: "from an agent")
        }
    }

    /// The agent is gone, or broke the protocol: everything of this connection ends, and a new one
    /// is waited for. Ports stay taken: their calls may go on.
    private func linkEnded(_ end: ControlLink.End) {
        log.warning("the agent's connection ended", ["reason": end.description])
        if case .protocolError = end, !wasReady {
            // It is no agent of ours, or one that is too old: waiting would not help.
            return stop(status: 1)
        }
        link?.close()
        link = nil
        version = nil
        closeSockets()
        for call in pending.values { call.abandon() }
        pending = [:]
        for client in clients.values { client.close() }
        clients = [:]
        portClients = [:]
        disposableCalls = [:]
        loop.schedule(after: Self.retryTime) { [unowned self] in
            if self.link == nil { self.join() }
        }
    }

    private func received(_ type: MessageType, _ body: [UInt8]) {
        do throws(ProtocolError) {
            guard let version else {
                guard type == .hello else { throw .unexpectedType(type, state: "before HELLO") }
                try greet(Hello(body: body))
                return
            }
            switch type {
            case .triggerService where version < .v3, .triggerService3 where version >= .v3,
                .triggerService4 where version >= .v4:
                request(try ServiceRequest.parse(type, body), by: type)
            case .connectionTerminated:
                try terminated(ConnectParameters(body: body, of: type))
            default:
                throw .unexpectedType(type, state: "at version \(version.rawValue)")
            }
        } catch {
            linkEnded(.protocolError(error))
        }
    }

    private func greet(_ hello: Hello) throws(ProtocolError) {
        let negotiated = try ProtocolVersion.negotiated(theirs: hello.version)
        version = negotiated
        link?.send(.hello, Hello(version: negotiated).body)
        openSockets()
        log.info("the agent is connected", ["version": "\(negotiated.rawValue)"])
        wasReady = true
        onReady()
        onReady = {}
    }

    // MARK: Requests of the qube

    private func request(
        _ parsed: Result<ServiceRequest, RequestRefusal>, by type: MessageType
    ) {
        switch parsed {
        case .failure(let refusal):
            log.warning("a malformed request is refused", ["reason": "\(refusal.reason)"])
            link?.send(.serviceRefused, ServiceRefused(identField: refusal.identField).body)
        case .success(let raw):
            let request = raw.sanitised
            guard pending.count < Limits.pendingRequests, pending[request.identField] == nil else {
                log.warning(
                    "a request is refused: too many wait, or its ident is in use",
                    ["service": request.service])
                link?.send(.serviceRefused, ServiceRefused(identField: request.identField).body)
                return
            }
            let context = RequestedCall.Context(
                log: log, directory: directory, policy: policy,
                ownDomain: UInt32(options.domain.rawValue), ownName: options.name,
                startInDom0: { [unowned self] in self.startInDom0($0) })
            let call = RequestedCall(
                request, namesSource: type == .triggerService4, context: context,
                trace: CallTrace(id: traces.next())
            ) { [unowned self] in self.finished(request, $0) }
            pending[request.identField] = call
            call.start()
        }
    }

    private func finished(_ request: ServiceRequest, _ outcome: RequestOutcome) {
        let call = pending.removeValue(forKey: request.identField)
        guard let ident = request.ident else { return }
        switch outcome {
        case .connected(let place):
            if let call, call.usesDisposable { disposableCalls[place] = call }
            link?.send(.serviceConnect, ServiceConnect(connect: place, ident: ident).body)
        case .refused, .failed:
            link?.send(.serviceRefused, ServiceRefused(ident: ident).body)
        }
    }

    /// A call to dom0: the qube serves the data channel, dom0 joins it.
    private func startInDom0(_ command: Command) -> Result<ConnectParameters, StartFailure> {
        guard let port = ports.allocate(peer: 0) else {
            return .failure(StartFailure(reason: "no free port"))
        }
        let place = ConnectParameters(domain: 0, port: port)
        do throws(VchanError) {
            // The session joins the qube's channel: from here the qube is the peer.
            let channel = try transport.connect(to: options.domain, port: Port(port)!)
            let session = ServiceSession(
                loop: loop, host: host,
                request: ExecRequest(connect: place, command: command.bytes), justExec: false,
                channel: channel, log: log
            ) { [unowned self] in self.sessions[port] = nil }
            sessions[port] = session
            Dom0Session.whenReady(for: command, loop: loop, log: log) { [weak self] in
                self?.start(session, at: place)
            }
            return .success(place)
        } catch {
            sessions[port] = nil
            ports.free(place)
            return .failure(StartFailure(reason: error.description))
        }
    }

    private func start(_ session: ServiceSession, at place: ConnectParameters) {
        do throws(VchanError) {
            try session.start()
        } catch {
            log.warning("a call to dom0 cannot be served", ["reason": error.description])
            sessions[place.port] = nil
        }
    }

    private func terminated(_ place: ConnectParameters) throws(ProtocolError) {
        guard PortTable.isDataPort(place.port) else {
            throw .badText(field: "port", reason: "\(place.port) is no data port")
        }
        // Of a call to another qube both sides tell: its port is the other one's.
        guard ports.free(place) else {
            disposableCalls.removeValue(forKey: place)?.callerEnded()
            return
        }
        if let number = portClients.removeValue(forKey: place.port) {
            clients.removeValue(forKey: number)?.close()
        }
    }

    // MARK: Local clients

    private func openSockets() {
        do throws(Errno) {
            let socket = try sockets.open()
            let number = socket.number
            listener = consume socket
            try loop.watch(number, .readable) { [unowned self] _ in self.acceptClient() }
        } catch {
            log.error("no local socket", ["reason": error.description])
            stop(status: 1)
        }
    }

    private func closeSockets() {
        guard let taken = listener.take() else { return }
        loop.unwatch(taken.number)
        sockets.remove()
    }

    private func acceptClient() {
        do throws(Errno) {
            guard listener != nil else { return }
            let connection = try UnixSocket.accept(listener!)
            guard clients.count < 2 * Limits.connections else {
                log.warning("too many local clients: one is refused")
                return
            }
            let number = nextClient
            nextClient += 1
            let client = try LocalClient(
                loop: loop, taking: connection, number: number,
                onRequest: { [unowned self] in self.requested($0, by: number) },
                onEnd: { [unowned self] in self.clientEnded(number, $0) })
            // One that left before its HELLO must not hold a place for ever.
            if !client.isClosed { clients[number] = client }
        } catch .resourceTemporarilyUnavailable {
        } catch {
            log.warning("a local client cannot be served", ["reason": error.description])
        }
    }

    private func clientEnded(_ number: UInt64, _ reason: String?) {
        clients.removeValue(forKey: number)?.close()
        if let reason { log.warning("a local client is dropped", ["reason": reason]) }
    }

    private func requested(_ request: LocalClient.Request, by number: UInt64) {
        guard let client = clients[number] else { return }
        switch request {
        case .execute(let type, let exec):
            execute(type, exec, for: client)
        case .connect(let connect):
            forward(connect, for: client)
        }
    }

    private func execute(_ type: MessageType, _ exec: ExecRequest, for client: LocalClient) {
        var exec = exec
        exec.command = withUser(exec.command)
        guard exec.body.count <= longestBody else {
            drop(client, "its command of \(exec.command.count) bytes is too long for an agent")
            return
        }
        if exec.connect.port == 0 {
            guard let port = ports.allocate(peer: exec.connect.domain) else {
                drop(client, "no free port")
                return
            }
            exec.connect.port = port
            portClients[port] = client.number
            client.answer(
                type, ConnectParameters(domain: UInt32(options.domain.rawValue), port: port))
            if client.isClosed {
                ports.free(exec.connect)
                portClients[port] = nil
                return
            }
        }
        link?.send(type, exec.body)
    }

    /// What an agent takes: those over a ring read a body in one piece out of it (5.3).
    private var longestBody: Int {
        transport.isByteStream ? Limits.localBody : Limits.controlBody
    }

    /// SERVICE_CONNECT of another implementation's helper: only for a request that waits.
    private func forward(_ connect: ServiceConnect, for client: LocalClient) {
        guard let call = pending.removeValue(forKey: connect.ident.field) else {
            drop(client, "no request waits under this ident")
            return
        }
        call.abandon()
        var place = connect.connect
        if place.port == 0 {
            guard let port = ports.allocate(peer: place.domain) else {
                drop(client, "no free port")
                link?.send(.serviceRefused, ServiceRefused(ident: connect.ident).body)
                return
            }
            place.port = port
            portClients[port] = client.number
            client.answer(
                .serviceConnect,
                ConnectParameters(domain: UInt32(options.domain.rawValue), port: port))
            if client.isClosed {
                ports.free(place)
                portClients[port] = nil
                link?.send(.serviceRefused, ServiceRefused(ident: connect.ident).body)
                return
            }
        }
        link?.send(
            .serviceConnect, ServiceConnect(connect: place, ident: connect.ident).body)
    }

    private func drop(_ client: LocalClient, _ reason: String) {
        log.warning("a local client is refused", ["reason": reason])
        clients.removeValue(forKey: client.number)?.close()
    }

    private func withUser(_ command: [UInt8]) -> [UInt8] {
        let placeholder = Array("DEFAULT:".utf8)
        guard command.starts(with: placeholder) else { return command }
        return Array(options.defaultUser.utf8) + [0x3A] + command.dropFirst(placeholder.count)
    }
}

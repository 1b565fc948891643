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
    private var means: any DaemonMeans
    private let dom0Sessions: Dom0Sessions
    private var link: ControlLink?
    private var isByteStream = false
    private var conversation = AgentConversation()
    private var listener: Descriptor?
    private let ports: PortTable
    private var clients: [UInt64: LocalClient] = [:]
    private var nextClient: UInt64 = 0
    /// Whose call a port serves.
    private var portClients: [UInt32: UInt64] = [:]
    private var pending: [[UInt8]: any PendingRequest] = [:]
    /// Calls of this qube to disposables, by where their data channel is.
    private var disposableCalls: [ConnectParameters: any PendingRequest] = [:]
    private var refusals = RateLimiter(burst: 200, perSecond: 20)
    private var wasReady = false
    private var exitStatus: Int32 = 0

    /// The agent is connected for the first time.
    var onReady: () -> Void = {}

    /// - Parameter dispatcher: asked for everything outside this process; nil does it all here.
    init(options: Options, log: Log, dispatcher: consuming Descriptor? = nil) throws {
        let loop = try EventLoop()
        let ports = PortTable(ownDomain: UInt32(options.domain.rawValue))
        let sessions = Dom0Sessions(
            allocate: { ports.allocate(peer: 0) }, free: { ports.free($0) })
        self.loop = loop
        self.options = options
        self.log = log
        self.ports = ports
        dom0Sessions = sessions
        if let socket = dispatcher {
            let line = try DispatcherLink(loop: loop, taking: socket, domain: options.domain)
            means = DispatchedMeans(
                options, over: line, loop: loop, log: log, sessions: sessions)
            line.onEnd { [unowned self] reason in
                self.log.error("the dispatcher is gone", ["reason": reason])
                self.stop(status: 1)
            }
        } else {
            means = try OwnMeans(options, loop: loop, log: log, sessions: sessions)
        }
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
        dom0Sessions.cancelAll()
        link?.close()
        loop.stop()
    }

    // MARK: Control channel

    private static let retryTime = milliseconds(100)

    private func join() {
        means.connectControl { [weak self] answer in
            switch consume answer {
            case .channel(let channel, let isByteStream):
                self?.isByteStream = isByteStream
                self?.begin(channel)
            case .failed(let reason): self?.linkEnded(reason)
            }
        }
    }

    private func begin(_ channel: consuming Channel) {
        let link = ControlLink(loop: loop, channel: channel) {
            (type, length) throws(ProtocolError) in try AgentConversation.checkLength(type, length)
        }
        link.onMessage = { [unowned self] in self.received($0, $1) }
        link.onEnd = { [unowned self] end in
            if case .protocolError = end {
                self.linkEnded(end.description, isBroken: true)
            } else {
                self.linkEnded(end.description)
            }
        }
        self.link = link
        do throws(VchanError) { try link.start() } catch { linkEnded(error.description) }
    }

    /// The agent is gone, or broke the protocol: everything of this connection ends, and a new one
    /// is waited for. Ports stay taken: their calls may go on.
    private func linkEnded(_ reason: String, isBroken: Bool = false) {
        if isWorthALine() {
            log.warning("the agent's connection ended", ["reason": reason])
        }
        if isBroken, !wasReady {
            // It is no agent of ours, or one that is too old: waiting would not help.
            return stop(status: 1)
        }
        link?.close()
        link = nil
        conversation = AgentConversation()
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
            switch try conversation.receive(type, body) {
            case .greeted(let version): greeted(version)
            case .request(let request, let namesSource):
                begin(request, namesSource: namesSource)
            case .malformed(let refusal):
                if isWorthALine() {
                    log.warning(
                        "a malformed request is refused", ["reason": "\(refusal.reason)"])
                }
                link?.send(.serviceRefused, ServiceRefused(identField: refusal.identField).body)
            case .terminated(let place): terminated(place)
            }
        } catch {
            linkEnded("\(error)", isBroken: true)
        }
    }

    private func greeted(_ version: ProtocolVersion) {
        link?.send(.hello, Hello(version: version).body)
        openSockets()
        log.info("the agent is connected", ["version": "\(version.rawValue)"])
        if !wasReady { CurrentProcess.letGoOfCode() }
        wasReady = true
    }

    /// Whether a refusal is told in the log: no qube may fill it.
    private func isWorthALine() -> Bool {
        switch refusals.admit("") {
        case .admitted: return true
        case .refusedFirst:
            log.warning("too many refused requests: left out of the log for now")
            return false
        case .refused: return false
        }
    }

    // MARK: Requests of the qube

    private func begin(_ request: ServiceRequest, namesSource: Bool) {
        guard pending.count < Limits.pendingRequests, pending[request.identField] == nil else {
            if isWorthALine() {
                log.warning(
                    "a request is refused: too many wait, or its ident is in use",
                    ["service": request.service])
            }
            link?.send(.serviceRefused, ServiceRefused(identField: request.identField).body)
            return
        }
        pending[request.identField] = means.begin(request, namesSource: namesSource) {
            [unowned self] in self.finished(request, $0)
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

    private func terminated(_ place: ConnectParameters) {
        // Of a call to another qube both sides tell: its port is the other one's.
        guard ports.free(place) else {
            disposableCalls.removeValue(forKey: place)?.callerEnded()
            return
        }
        log.info(
            "call ended domain=\(place.domain) port=\(place.port) "
                + "ms: total=\(CallTrace.milliseconds(ports.age(of: place.port)))")
        if let number = portClients.removeValue(forKey: place.port) {
            clients.removeValue(forKey: number)?.close()
        }
    }

    // MARK: Local clients

    private func openSockets() {
        means.listen { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let held): self.listen(on: held)
            case .failure(let failure):
                self.log.error("no local socket", ["reason": failure.reason])
                self.stop(status: 1)
            }
        }
    }

    private func listen(on held: HeldDescriptor) {
        // The agent may have gone meanwhile.
        guard conversation.version != nil, let socket = held.take() else { return }
        let number = socket.number
        listener = consume socket
        do throws(Errno) {
            try loop.watch(number, .readable) { [unowned self] _ in self.acceptClient() }
        } catch {
            log.error("no local socket", ["reason": error.description])
            stop(status: 1)
        }
        onReady()
        onReady = {}
    }

    private func closeSockets() {
        if let taken = listener.take() { loop.unwatch(taken.number) }
        means.unlisten()
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

    private func requested(_ request: ClientConversation.Command, by number: UInt64) {
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
        if exec.connect.domain == 0 {
            let command = String(decoding: exec.command, as: UTF8.self)
            log.info(
                "call source=dom0 command=\(LogText.value(command)) outcome=allowed "
                    + "place=\(options.domain):\(exec.connect.port) domain=0")
        }
        link?.send(type, exec.body)
    }

    /// What an agent takes: those over a ring read a body in one piece out of it (5.3).
    private var longestBody: Int {
        isByteStream ? Limits.localBody : Limits.controlBody
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

import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// `qrexec-agent`: serves the control channel of this qube (specification, section 8). Local
/// programs ask it for services; dom0 tells it which services to start, which its data process does.
final class Agent {
    struct Options {
        var triggerSocket = AgentPaths.trigger
        var calls = CallOptions()
    }

    /// Between two attempts to serve the control channel when that fails at once.
    private static let retryTime = seconds(1)

    /// As in every agent; a number follows.
    private static let identPrefix = "SOCKET"

    /// More ends than there are ports are of no use to any daemon.
    private static let maximumUnreported = 2 * Limits.dataPorts

    private let loop: EventLoop
    private let options: Options
    private let log: Log
    private let transport: Transport
    private var link: ControlLink?
    private var version: ProtocolVersion?
    private var acceptor: Acceptor?
    private var clients: [RequestIdent: TriggerClient] = [:]
    /// As they came; only of use when there are too many.
    private var order: [RequestIdent] = []
    private var nextClient: UInt64 = 0
    /// Calls that ended while dom0 was away.
    private var unreported: [[UInt8]] = []
    private var wasReady = false
    private var wasCalled = false
    private var data: AgentLink?

    init(options: Options, log: Log) throws {
        loop = try EventLoop()
        self.options = options
        self.log = log
        transport = try Transport.selected()
        try loop.onSignals([SIGTERM, SIGINT]) { [unowned self] _ in self.stop() }
    }

    func run() throws(Errno) {
        // The data process may hold calls of an agent before us, whose ends are to be reported.
        connectData()
        serve()
        try loop.run()
    }

    /// Leaves in order: calls under way go on without us.
    private func stop() {
        closeListener()
        for client in clients.values { client.leave() }
        data?.leave()
        link?.close()
        loop.stop()
    }

    // MARK: Control channel

    private func serve() {
        do throws(VchanError) {
            let size = RingSize(atLeast: Limits.controlRing)!
            let channel = try transport.listen(
                for: .dom0, port: Port(Limits.controlPort)!, read: size, write: size)
            let link = ControlLink(
                loop: loop, channel: channel, checkLength: MessagesFromDom0.checkLength)
            link.onOpen = { [unowned self] in
                self.link?.send(.hello, Hello(version: .ours).body)
            }
            link.onMessage = { [unowned self] in self.received($0, $1) }
            link.onEnd = { [unowned self] in self.linkEnded($0) }
            self.link = link
            try link.start()
        } catch {
            log.error("the control channel cannot be served", ["reason": error.description])
            link = nil
            loop.schedule(after: Self.retryTime) { [unowned self] in self.serve() }
        }
    }

    private func received(_ type: MessageType, _ body: [UInt8]) {
        do throws(ProtocolError) {
            if version == nil {
                guard type == .hello else { throw .unexpectedType(type, state: "before HELLO") }
                version = try ProtocolVersion.negotiated(theirs: Hello(body: body).version)
                log.info("connected to dom0", ["version": "\(version!.rawValue)"])
                openListener()
                for body in unreported { link?.send(.connectionTerminated, body) }
                unreported = []
                return
            }
            switch type {
            case .execCommandLine, .justExec:
                execute(type, try ExecRequest(body: body, of: type), body)
            case .serviceConnect: accepted(try ServiceConnect(body: body))
            case .serviceRefused: refused(try ServiceRefused(body: body))
            default: throw .unexpectedType(type, state: "after HELLO")
            }
        } catch {
            linkEnded(.protocolError(error))
        }
    }

    private func linkEnded(_ end: ControlLink.End) {
        log.warning("the control channel ended", ["reason": end.description])
        link?.close()
        link = nil
        version = nil
        closeListener()
        var orderly = false
        if case .closed = end { orderly = true }
        for client in clients.values where client.place == nil || !orderly { client.breakOff() }
        clients = clients.filter { !$0.value.isClosed }
        if !orderly {
            // Nobody controls these calls any more: the data process ends them.
            data?.close()
            data = nil
            connectData()
        }
        loop.schedule(after: orderly ? 0 : Self.retryTime / 10) { [unowned self] in
            if self.link == nil { self.serve() }
        }
    }

    // MARK: Calls into this qube

    private func execute(_ type: MessageType, _ request: ExecRequest, _ body: [UInt8]) {
        if data == nil { connectData() }
        if !wasCalled {
            wasCalled = true
            MeminfoWriter.wake()
        }
        guard let data else {
            log.error("a call is dropped: the data process cannot be started")
            link?.send(.connectionTerminated, request.connect.body)
            return
        }
        data.send(type, body)
        log.about(domain: request.connect.domain, port: request.connect.port).info(
            "call", ["command": String(decoding: request.command, as: UTF8.self)])
    }

    private func connectData() {
        do throws(Errno) {
            let path = AgentPaths.data(trigger: options.triggerSocket)
            data = try AgentLink(
                loop: loop,
                taking: AgentDataStarter.connection(path, options.calls, loop: loop)
            ) { [unowned self] in self.dataSaid($0) }
        } catch {
            log.error("no connection to the data process", ["reason": error.description])
        }
    }

    private func dataSaid(_ event: AgentLink.Event) {
        switch event {
        case .message(.connectionTerminated, let body): report(body)
        case .message, .farewell, .lost:
            log.error("the data process is gone: its calls have ended")
            data?.close()
            data = nil
            connectData()
        }
    }

    /// Tells dom0 of the end of a call, now or when it is back. One that dom0's daemon does not
    /// know by then is ignored there.
    private func report(_ body: [UInt8]) {
        if version != nil {
            link?.send(.connectionTerminated, body)
        } else if unreported.count < Self.maximumUnreported {
            unreported.append(body)
        }
    }

    // MARK: Calls out of this qube

    private func openListener() {
        do throws(Errno) {
            try FileStatus.remove(options.triggerSocket)
            // Every local user may ask: dom0's policy decides.
            let socket = try UnixSocket.listen(options.triggerSocket, mode: 0o666)
            acceptor = try Acceptor(loop: loop, taking: socket, log: log) { [unowned self] in
                self.acceptClient($0)
            }
            if !wasReady {
                wasReady = true
                ServiceManager.tell("READY=1")
                CurrentProcess.letGoOfCode()
            }
        } catch {
            log.error(
                "local programs cannot ask for services",
                ["socket": options.triggerSocket, "reason": error.description])
        }
    }

    private func closeListener() {
        guard let taken = acceptor.take() else { return }
        taken.close()
        try? FileStatus.remove(options.triggerSocket)
    }

    private func acceptClient(_ connection: consuming Descriptor) {
        do throws(Errno) {
            if clients.count >= Limits.connections, !dropSilentClient() {
                log.warning("too many calls at a time: one is refused")
                return
            }
            let ident = RequestIdent("\(Self.identPrefix)\(nextClient)")!
            nextClient += 1
            let client = try TriggerClient(loop: loop, taking: connection, ident: ident)
            client.onRequest = { [unowned self] in self.request($0, of: ident) }
            client.onEnd = { [unowned self] in self.clientEnded(ident, $0) }
            clients[ident] = client
            order.append(ident)
        } catch {
            log.warning("a local client cannot be served", ["reason": error.description])
        }
    }

    /// Makes room for a client that may have something to say: one that has been silent until now,
    /// the oldest, goes.
    private func dropSilentClient() -> Bool {
        order.removeAll { clients[$0] == nil }
        guard let ident = order.first(where: { clients[$0]?.hasAsked == false }) else {
            return false
        }
        log.warning("too many local clients: one that asks for nothing is dropped")
        clients.removeValue(forKey: ident)?.close()
        return true
    }

    private func request(_ request: ServiceRequest, of ident: RequestIdent) {
        guard let version, let link else {
            clients[ident]?.close()
            clients[ident] = nil
            return
        }
        let body = request.body(version.triggerType)
        var problem: String?
        if !request.claimedSource.isEmpty, version < .v4 {
            problem = "dom0 does not know claimed sources: it speaks version \(version.rawValue)"
        } else if body.count > Limits.controlBody {
            problem = "the service name is too long: \(request.service.utf8.count) bytes"
        } else if version < .v3,
            request.service.utf8.count > Limits.serviceVersion2
                || request.target.utf8.count > Limits.targetNameVersion2
        {
            problem = "dom0 speaks version 2, which has no room for these names"
        }
        if let problem {
            log.warning("a request is refused here", ["reason": problem])
            clients[ident]?.close()
            clients[ident] = nil
            return
        }
        link.send(version.triggerType, body)
    }

    private func accepted(_ message: ServiceConnect) {
        guard let client = clients[message.ident] else {
            log.info("an allowed call's client is gone", ["ident": message.ident.text])
            if wasGiven(message.ident) { report(message.connect.body) }
            return
        }
        let place = message.connect
        client.accept(place)
        log.about(domain: place.domain, port: place.port).info(
            "call placed",
            [
                "service": client.request?.service ?? "", "target": client.request?.target ?? "",
                "decided-us": "\((CurrentProcess.now - client.askTime) / 1000)",
            ])
    }

    /// Whether an ident is one of this agent's.
    private func wasGiven(_ ident: RequestIdent) -> Bool {
        guard ident.text.hasPrefix(Self.identPrefix),
            let number = UInt64(ident.text.dropFirst(Self.identPrefix.count))
        else { return false }
        return number < nextClient
    }

    private func refused(_ message: ServiceRefused) {
        guard let ident = message.ident else { return }
        clients[ident]?.close()
        clients[ident] = nil
    }

    private func clientEnded(_ ident: RequestIdent, _ reason: String?) {
        guard let client = clients.removeValue(forKey: ident) else { return }
        if order.count > 2 * Limits.connections { order.removeAll { clients[$0] == nil } }
        if let reason { log.warning("a local client is refused", ["reason": reason]) }
        if let place = client.place { report(place.body) }
    }
}

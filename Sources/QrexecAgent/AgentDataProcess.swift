import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// `qrexec-agent-data`: one long-lived process a qube that owns the data channels and the services'
/// descriptors, so that calls go on while the agent is restarted.
///
/// It listens on a socket that only the agent's user may open. The agent sends EXEC_CMDLINE and
/// JUST_EXEC as they came, and gets CONNECTION_TERMINATED for each. An agent that leaves in order
/// says so (`AgentLink.farewell`); one that dies takes its calls with it: each ends with an error at
/// the caller, as nobody would be there to account for it.
final class AgentDataProcess {
    /// Calls at a time; more than dom0 has ports for one qube.
    static let maximumCalls = 2 * Limits.dataPorts
    /// Further ones that are told so, with status 126.
    static let maximumRefusals = 64
    /// Without agent and calls, but with ends to report, it ends after this long: time for a
    /// restarted agent to come back.
    static let idleTime = seconds(10)
    /// Descriptors that all of that can need.
    private static let descriptors = 8192

    /// A call of which nothing is started yet, or that runs here or in a fork server.
    private enum Call {
        case waiting
        case session(ServiceSession)
        case forkServer(ForkServerCall)
    }

    private let loop: EventLoop
    private let log: Log
    private let path: String
    private let options: CallOptions
    private let transport: Transport
    private let host: ServiceHost
    private let waiter: SessionWaiter
    private var acceptor: Acceptor?
    private var agent: AgentLink?
    private var calls: [UInt64: Call] = [:]
    /// The calls that run here, by where their callers are.
    private var places: [ConnectParameters: UInt64] = [:]
    private var nextCall: UInt64 = 0
    /// Ends of calls that no agent has been told.
    private var unreported: [ConnectParameters] = []
    private var idleTimer: EventLoop.Timer?

    init(listener: consuming Descriptor, path: String, options: CallOptions, log: Log) throws {
        loop = try EventLoop()
        self.log = log
        self.path = path
        self.options = options
        transport = try Transport.selected()
        host = QubeHost.make(options)
        waiter = SessionWaiter(loop: loop, log: log)
        CurrentProcess.raiseOwnDescriptorLimit(to: Self.descriptors)
        acceptor = try Acceptor(loop: loop, taking: listener, log: log) { [unowned self] in
            self.acceptAgent($0)
        }
        try loop.onSignalArrivals([SIGTERM, SIGINT, SIGUSR1]) { [unowned self] in
            if $0.signal == SIGUSR1 {
                SingleSocketSwitch.apply($0, to: self.sessions)
            } else {
                self.stop()
            }
        }
        armIdleTimer()
    }

    func run() throws(Errno) {
        CurrentProcess.letGoOfCode()
        try loop.run()
    }

    private var sessions: [ServiceSession] {
        calls.values.compactMap { if case .session(let session) = $0 { session } else { nil } }
    }

    private func stop() {
        waiter.cancel()
        for session in sessions { session.cancel() }
        loop.stop()
    }

    private func armIdleTimer() {
        if let timer = idleTimer { loop.cancel(timer) }
        idleTimer = loop.schedule(after: Self.idleTime) { [unowned self] in self.endIfIdle() }
    }

    private func endIfIdle() {
        guard agent == nil, calls.isEmpty, waiter.isEmpty else { return }
        try? FileStatus.remove(path)
        loop.stop()
    }

    // MARK: The agent

    private func acceptAgent(_ connection: consuming Descriptor) {
        do throws(Errno) {
            let peer = try UnixSocket.peer(of: connection)
            guard peer.uid == CurrentProcess.effectiveUser else {
                log.warning("a connection by another user is refused", ["uid": "\(peer.uid)"])
                return
            }
            if agent != nil { agentLeft(orderly: false) }
            agent = try AgentLink(loop: loop, taking: connection) { [unowned self] in
                self.received($0)
            }
        } catch {
            log.error("the agent's connection failed", ["reason": error.description])
            return
        }
        for ended in unreported { agent?.send(.connectionTerminated, ended.body) }
        unreported = []
    }

    private func received(_ event: AgentLink.Event) {
        switch event {
        case .message(let type, let body):
            do throws(ProtocolError) {
                guard type == .execCommandLine || type == .justExec else {
                    throw .unexpectedType(type, state: "from the agent")
                }
                begin(try ExecRequest(body: body, of: type), type)
            } catch {
                log.error("the agent sent a bad message", ["reason": error.description])
                agentLeft(orderly: false)
            }
        case .farewell:
            agentLeft(orderly: true)
        case .lost:
            agentLeft(orderly: false)
        }
    }

    private func agentLeft(orderly: Bool) {
        agent?.close()
        agent = nil
        if !orderly, !calls.isEmpty {
            log.warning("the agent died: its calls end", ["calls": "\(calls.count)"])
            // What waits is found to be gone when its session is there.
            calls = calls.filter { if case .waiting = $0.value { false } else { true } }
            for session in sessions { session.cancel() }
        }
        // An agent that comes back with other settings gets a process with these.
        if unreported.isEmpty { loop.defer { [unowned self] in self.endIfIdle() } }
        armIdleTimer()
    }

    // MARK: Calls

    private func begin(_ request: ExecRequest, _ type: MessageType) {
        let number = nextCall
        nextCall += 1
        guard calls.count < Self.maximumCalls else {
            log.warning("too many calls at a time: one is refused")
            guard calls.count < Self.maximumCalls + Self.maximumRefusals else {
                terminated(request.connect)
                return
            }
            let refusal = StartFailure(
                status: CallStatus.refused, reason: "too many calls at a time")
            runHere(number, request, type, .failure(refusal))
            return
        }
        do throws(StartFailure) {
            let call = try PreparedCall(request.command, hasUser: true, log: log)
            guard call.config.waitForSession, !call.command.noGUI, let user = call.user else {
                start(number, request, type, call)
                return
            }
            calls[number] = .waiting
            waiter.whenSessionIsThere(of: user) { [unowned self] in
                guard self.calls[number] != nil else { return self.terminated(request.connect) }
                self.start(number, request, type, call)
            }
        } catch {
            runHere(number, request, type, .failure(error))
        }
    }

    private func start(
        _ number: UInt64, _ request: ExecRequest, _ type: MessageType, _ call: PreparedCall
    ) {
        if handOver(number, request, type, call) { return }
        runHere(number, request, type, .success(call))
    }

    private func runHere(
        _ number: UInt64, _ request: ExecRequest, _ type: MessageType,
        _ call: Result<PreparedCall, StartFailure>
    ) {
        supersede(request.connect)
        do throws(VchanError) {
            let session = ServiceSession(
                loop: loop, host: host, request: request, justExec: type == .justExec,
                prepared: call, channel: try connect(request.connect), log: log
            ) { [unowned self] in
                // Of one whose place is another's by now, nobody is told.
                guard self.calls.removeValue(forKey: number) != nil else { return }
                self.places[request.connect] = nil
                self.terminated(request.connect)
            }
            calls[number] = .session(session)
            places[request.connect] = number
            try session.start()
        } catch {
            log.warning("a data channel cannot be joined", ["reason": error.description])
            calls[number] = nil
            places[request.connect] = nil
            terminated(request.connect)
        }
    }

    /// Ends a call that still waits for its caller at a place that is another call's now: a daemon
    /// that was killed begins again with the same ports, and the new caller would be joined to the
    /// service of the old one, which nobody will join any more.
    private func supersede(_ place: ConnectParameters) {
        guard let number = places[place], case .session(let old)? = calls[number],
            old.isAwaitingCaller
        else { return }
        log.warning(
            "a call that was never joined ends: its place is another's",
            ["domain": "\(place.domain)", "port": "\(place.port)"])
        calls[number] = nil
        old.cancel()
    }

    private func connect(_ place: ConnectParameters) throws(VchanError) -> Channel {
        guard let domain = DomainID(place.domain), let port = Port(place.port) else {
            throw .badOffer("domain \(place.domain), port \(place.port)")
        }
        return try transport.connect(to: domain, port: port)
    }

    /// Lets the user's fork server run a call, if there is one and it can (section 9).
    private func handOver(
        _ number: UInt64, _ request: ExecRequest, _ type: MessageType, _ call: PreparedCall
    ) -> Bool {
        let config = call.config
        guard let pattern = options.forkServer, !call.command.noGUI, !config.skipServiceDescriptor,
            !config.exitOnClientEOF, !config.exitOnServiceEOF, let user = call.user,
            let socket = AgentPaths.forkServer(pattern, user: user), PathStatus.exists(socket)
        else { return false }
        var command = call.command
        command.user = nil
        do throws(Errno) {
            let call = try ForkServerCall(
                loop: loop, socket: socket, owner: UserAccount.named(user)?.identity.uid,
                request: ForkServerRequest(
                    type: type, connect: request.connect, command: command.bytes)
            ) { [unowned self] in
                self.calls[number] = nil
                self.terminated(request.connect)
            }
            calls[number] = .forkServer(call)
            return true
        } catch .noSuchFileOrDirectory {
        } catch .connectionRefused {
        } catch {
            log.warning(
                "a fork server cannot be used", ["socket": socket, "reason": error.description])
        }
        return false
    }

    private func terminated(_ place: ConnectParameters) {
        if let agent {
            agent.send(.connectionTerminated, place.body)
        } else {
            unreported.append(place)
            armIdleTimer()
        }
    }
}

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
    static let maximumSessions = 2 * Limits.dataPorts
    /// Without agent and calls it ends after this long: time for a restarted agent to come back.
    static let idleTime = seconds(10)

    private let loop: EventLoop
    private let log: Log
    private let path: String
    private let transport: Transport
    private let host: ServiceHost
    private let listener: Descriptor
    private var agent: AgentLink?
    private var sessions: [UInt64: ServiceSession] = [:]
    private var nextSession: UInt64 = 0
    /// Ends of calls that no agent has been told.
    private var unreported: [ConnectParameters] = []
    private var idleTimer: EventLoop.Timer?

    init(listener: consuming Descriptor, path: String, log: Log) throws {
        loop = try EventLoop()
        self.log = log
        self.path = path
        transport = try Transport.selected()
        host = QubeHost.make()
        let number = listener.number
        self.listener = consume listener
        try loop.watch(number, .readable) { [unowned self] _ in self.acceptAgent() }
        try loop.onSignals([SIGTERM, SIGINT]) { [unowned self] _ in self.stop() }
        armIdleTimer()
    }

    func run() throws(Errno) { try loop.run() }

    private func stop() {
        for session in sessions.values { session.cancel() }
        loop.stop()
    }

    private func armIdleTimer() {
        if let timer = idleTimer { loop.cancel(timer) }
        idleTimer = loop.schedule(after: Self.idleTime) { [unowned self] in self.endIfIdle() }
    }

    private func endIfIdle() {
        guard agent == nil, sessions.isEmpty else { return }
        try? FileStatus.remove(path)
        loop.stop()
    }

    // MARK: The agent

    private func acceptAgent() {
        do throws(Errno) {
            let connection = try UnixSocket.accept(listener)
            let peer = try UnixSocket.peer(of: connection)
            guard peer.uid == CurrentProcess.effectiveUser else {
                log.warning("a connection by another user is refused", ["uid": "\(peer.uid)"])
                return
            }
            if agent != nil { agentLeft(orderly: false) }
            agent = try AgentLink(loop: loop, taking: connection) { [unowned self] in
                self.received($0)
            }
        } catch .resourceTemporarilyUnavailable {
            return
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
                begin(try ExecRequest(body: body, of: type), justExec: type == .justExec)
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
        if !orderly, !sessions.isEmpty {
            log.warning("the agent died: its calls end", ["calls": "\(sessions.count)"])
            for session in sessions.values { session.cancel() }
        }
        armIdleTimer()
    }

    // MARK: Calls

    private func begin(_ request: ExecRequest, justExec: Bool) {
        guard sessions.count < Self.maximumSessions else {
            log.warning("too many calls at a time: one is refused")
            terminated(request.connect)
            return
        }
        let number = nextSession
        nextSession += 1
        do throws(VchanError) {
            let channel = try connect(request.connect)
            let session = ServiceSession(
                loop: loop, host: host, request: request, justExec: justExec, channel: channel,
                log: log
            ) { [unowned self] in
                self.sessions[number] = nil
                self.terminated(request.connect)
            }
            sessions[number] = session
            try session.start()
        } catch {
            log.warning("a data channel cannot be joined", ["reason": error.description])
            sessions[number] = nil
            terminated(request.connect)
        }
    }

    private func connect(_ place: ConnectParameters) throws(VchanError) -> Channel {
        guard let domain = DomainID(place.domain), let port = Port(place.port) else {
            throw .badOffer("domain \(place.domain), port \(place.port)")
        }
        return try transport.connect(to: domain, port: port)
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

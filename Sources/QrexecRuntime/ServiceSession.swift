import Glibc
import LinuxSystem
public import QrexecProtocol
import SystemPackage
public import Vchan

/// The service's side of one call: joins the data channel, starts the service, moves its data,
/// reports its exit status.
public final class ServiceSession {
    /// Where the call stands; for the log.
    public private(set) var status: Int32?

    private let loop: EventLoop
    private let host: ServiceHost
    private let request: ExecRequest
    private let justExec: Bool
    private let log: Log
    private let pump: DataPump
    private var connectTimer: EventLoop.Timer?
    private var child: ChildProcess?
    private var socket: PendingConnection?
    private var openSources: Set<UInt32> = []
    private var config = RPCConfig()
    private var ended = false
    private var hungUp = false
    private var onEnd: () -> Void

    /// Grace between the hang-up signal and the kill of a service whose caller is gone.
    static let hangupGrace = seconds(3)

    /// - Parameters:
    ///   - channel: the data channel, which is being connected.
    ///   - onEnd: the call is over and its process reaped. Called once.
    public init(
        loop: EventLoop, host: ServiceHost, request: ExecRequest, justExec: Bool,
        channel: consuming Channel, log: Log, onEnd: @escaping () -> Void
    ) {
        self.loop = loop
        self.host = host
        self.request = request
        self.justExec = justExec
        self.log = log
        self.onEnd = onEnd
        pump = DataPump(loop: loop, channel: channel, role: .service, log: log)
    }

    public func start() throws(VchanError) {
        pump.onOpen = { [unowned self] in self.opened() }
        pump.onSourceEnd = { [unowned self] in self.sourceEnded($0) }
        pump.onMainSinkClosed = { [unowned self] in self.inputClosed() }
        pump.onEnd = { [unowned self] in self.pumpEnded($0) }
        connectTimer = loop.schedule(after: seconds(host.connectTimeout)) { [weak self] in
            self?.log.warning("the caller did not connect in time")
            self?.hangUp()
        }
        try pump.start()
    }

    /// Ends the call with an error at the caller: its controlling party is gone.
    public func cancel() { hangUp() }

    // MARK: Start

    private func opened() {
        if let timer = connectTimer { loop.cancel(timer) }
        connectTimer = nil
        do throws(StartFailure) {
            try startService()
        } catch {
            log.warning(
                "a call cannot be started",
                [
                    "status": "\(error.status)", "reason": error.reason,
                    "command": String(decoding: request.command, as: UTF8.self),
                ])
            fail(error.status)
        }
    }

    private func fail(_ status: Int32) {
        self.status = status
        if !justExec {
            if !host.sendsError { pump.sendEnd(of: .dataStderr) }
            pump.sendEnd(of: .dataStdout)
            if host.sendsError { pump.sendEnd(of: .dataStderr) }
        }
        pump.closeMainSink()
        pump.finish(exitCode: status)
    }

    private func startService() throws(StartFailure) {
        let command: Command
        do throws(ProtocolError) {
            command = try Command(request.command, hasUser: host.commandsNameUser)
        } catch {
            throw StartFailure(reason: error.description)
        }
        switch command.kind {
        case .shell(let line):
            try startProgram(.shell(line), user: command.user)
        case .service(let call):
            try start(call, user: command.user)
        }
    }

    private func start(_ call: ServiceCall, user: String?) throws(StartFailure) {
        do throws(RPCConfig.Invalid) {
            config = try RPCConfig.load(for: call) { [log] key in
                log.warning("unknown key in the service's configuration", ["key": key])
            }
        } catch {
            throw StartFailure(reason: error.description)
        }
        let service: ServiceLookup.Service
        do throws(ServiceLookup.Failure) {
            service = try host.lookup.find(call)
        } catch {
            throw StartFailure(status: error.status, reason: error.description)
        }
        switch service {
        case .executable(let path):
            try startProgram(
                .executable(path: path, call: call), user: config.forceUser ?? user)
        case .unixSocket(let path):
            try connect(call) { () throws(Errno) in try UnixSocket.connect(path) }
        case .tcp(let host, let port):
            try connect(call) { () throws(Errno) in
                try TCPSocket.connect(host: host, port: port)
            }
        }
    }

    // MARK: Programs

    private func startProgram(
        _ program: ServiceProgram, user: String?
    ) throws(StartFailure) {
        var spawn = try host.request(program, user)
        spawn.newSession = true
        do throws(Errno) {
            if justExec {
                try startDetached(spawn)
            } else {
                try startAttached(&spawn)
            }
        } catch {
            let notFound = error == .noSuchFileOrDirectory
            throw StartFailure(
                status: notFound ? CallStatus.notFound : CallStatus.problem,
                reason: "\(spawn.path): \(error)")
        }
    }

    private func startDetached(_ request: SpawnRequest) throws(Errno) {
        var request = request
        let null = try Descriptor.open("/dev/null", O_RDWR)
        request.descriptors = [null.number, null.number, 2]
        try adopt(ChildProcess.spawn(request))
        status = 0
        pump.finish(exitCode: 0)
    }

    private func startAttached(_ request: inout SpawnRequest) throws(Errno) {
        let input = try UnixSocket.pair()
        let output = try UnixSocket.pair()
        let error = try Descriptor.pipe()
        request.descriptors = [
            input.second.number, output.second.number, host.sendsError ? error.second.number : 2,
        ]
        try adopt(ChildProcess.spawn(request))
        try pump.attachMainSink(input.first, isSocket: true)
        openSources = [MessageType.dataStdout.rawValue]
        if host.sendsError {
            try error.first.setNonblocking(true)
            openSources.insert(MessageType.dataStderr.rawValue)
            try pump.attachSource(.dataStderr, error.first, isSocket: false)
        } else {
            pump.sendEnd(of: .dataStderr)
        }
        try pump.attachSource(.dataStdout, output.first, isSocket: true)
    }

    private func adopt(_ new: consuming ChildProcess) throws(Errno) {
        let number = new.pidfd.number
        child = consume new
        // Holds this session until the process is reaped, whoever else lets go of it.
        try loop.watch(number, .readable) { _ in self.childExited() }
    }

    private func childExited() {
        guard let ended = child.take() else { return }
        loop.unwatch(ended.pidfd.number)
        let code = (try? ended.reap()) ?? CallStatus.problem
        if justExec || hungUp {
            finishIfOver()
            return
        }
        status = code
        pump.closeMainSink()
        finishIfOver()
    }

    // MARK: Socket services

    private func connect(
        _ call: ServiceCall, _ open: () throws(Errno) -> Descriptor
    ) throws(StartFailure) {
        do throws(Errno) {
            let connection = try open()
            let header = config.skipServiceDescriptor ? [] : Array(call.words.utf8) + [0]
            socket = try PendingConnection(
                loop: loop, taking: connection, header: header
            ) { [unowned self] in self.connected($0) }
        } catch {
            throw StartFailure(reason: "\(call.service): cannot connect: \(error)")
        }
    }

    private func connected(_ error: Errno?) {
        guard var pending = socket.take() else { return }
        do throws(Errno) {
            if let error { throw error }
            let connection = pending.take()
            if justExec {
                status = 0
                pump.finish(exitCode: 0)
                return
            }
            let copy = try connection.duplicate()
            pump.sendEnd(of: .dataStderr)
            openSources = [MessageType.dataStdout.rawValue]
            try pump.attachMainSink(connection, isSocket: true)
            try pump.attachSource(.dataStdout, copy, isSocket: true)
        } catch {
            log.warning("a service's socket cannot be used", ["reason": error.description])
            fail(CallStatus.problem)
        }
    }

    // MARK: The end

    private func sourceEnded(_ type: MessageType) {
        openSources.remove(type.rawValue)
        if type == .dataStdout, config.exitOnServiceEOF, child == nil { status = 0 }
        finishIfOver()
    }

    private func inputClosed() {
        guard config.exitOnClientEOF, child == nil, status == nil else {
            finishIfOver()
            return
        }
        status = 0
        openSources = []
        pump.endSources()
        finishIfOver()
    }

    private var isSocketService: Bool { child == nil && status == nil && !justExec }

    private func finishIfOver() {
        if ended {
            if child == nil { report() }
            return
        }
        guard openSources.isEmpty, child == nil else { return }
        if isSocketService, pump.mainSinkIsClosed { status = 0 }
        guard let status else { return }
        pump.finish(exitCode: status)
    }

    private func pumpEnded(_ end: DataPump.End) {
        switch end {
        case .finished: break
        case .closedEarly: log.info("the caller is gone")
        case .protocolError(let error):
            log.warning("the caller broke the protocol", ["reason": error.description])
        case .failed(let error):
            log.warning("the data channel failed", ["reason": error.description])
        }
        if case .finished = end { over() } else { hangUp() }
    }

    /// A service whose caller is gone is treated as by a terminal that hangs up: SIGHUP, and some
    /// seconds later SIGKILL, to its process group; what wants to go on leaves that group.
    private func hangUp() {
        guard !hungUp else { return }
        hungUp = true
        pump.close()
        if child != nil, !justExec {
            child!.signalGroup(SIGHUP)
            loop.schedule(after: Self.hangupGrace) { [weak self] in
                guard let self, self.child != nil else { return }
                self.child!.signalGroup(SIGKILL)
            }
        }
        over()
    }

    private func over() {
        ended = true
        if let timer = connectTimer { loop.cancel(timer) }
        socket = nil
        if child == nil || justExec && !hungUp { report() }
    }

    private func report() {
        let handler = onEnd
        onEnd = {}
        handler()
    }
}

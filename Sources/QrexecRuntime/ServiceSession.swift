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
    private var prepared: Result<PreparedCall, StartFailure>?
    private let justExec: Bool
    private let log: Log
    private let channel: ServiceChannel
    private var pump: DataPump { channel.pump }
    private var child: ChildProcess?
    private var socket: PendingConnection?
    private var openSources: Set<UInt32> = []
    private var config = RPCConfig()
    private var errorLog: LineCollector?
    private var ended = false
    private var hungUp = false
    private var reported = false
    private var onEnd: () -> Void
    private let beginTime = CurrentProcess.now
    private var startTime: UInt64?

    /// - Parameters:
    ///   - prepared: what is known of the call already; found out here otherwise.
    ///   - channel: the data channel, which is being connected.
    ///   - onEnd: the call is over and its process reaped. Called once.
    public init(
        loop: EventLoop, host: ServiceHost, request: ExecRequest, justExec: Bool,
        prepared: Result<PreparedCall, StartFailure>? = nil,
        channel: consuming Channel, log: Log, onEnd: @escaping () -> Void
    ) {
        self.prepared = prepared
        self.loop = loop
        self.host = host
        self.request = request
        self.justExec = justExec
        self.log = log.about(domain: request.connect.domain, port: request.connect.port)
        self.onEnd = onEnd
        self.channel = ServiceChannel(loop: loop, channel: channel, log: log)
    }

    public func start() throws(VchanError) {
        pump.onSourceEnd = { [unowned self] in self.sourceEnded($0) }
        pump.onMainSinkClosed = { [unowned self] in self.inputClosed() }
        try channel.start(
            patience: host.connectTimeout, onOpen: {},
            onEnd: { [unowned self] isOrderly in isOrderly ? self.over() : self.hangUp() })
        // The service starts while the channel is being connected; what it says waits for that.
        begin()
    }

    /// Whether the caller has not joined so far.
    public var isAwaitingCaller: Bool { channel.openTime == nil && !ended }

    /// Ends the call with an error at the caller: its controlling party is gone.
    public func cancel() { hangUp() }

    /// Whether a process belongs to this call: it is in the session that the service leads.
    public func hasProcesses(inSession session: Int32) -> Bool {
        child?.pid == session
    }

    /// The service moves its output to its input socket (5.4, SIGUSR1).
    ///
    /// - Parameter certain: whether it was this service that said so.
    public func useInputForOutput(certain: Bool) {
        guard child != nil, !justExec else { return }
        if certain {
            pump.readMainSink(as: .dataStdout)
        } else {
            pump.readMainSinkOnceItSpeaks(as: .dataStdout)
        }
    }

    // MARK: Start

    private func begin() {
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
        let call: PreparedCall
        switch prepared.take() {
        case .success(let known)?: call = known
        case .failure(let failure)?: throw failure
        case nil:
            call = try PreparedCall(request.command, hasUser: host.commandsNameUser, log: log)
        }
        config = call.config
        switch call.command.kind {
        case .shell(let line):
            try startProgram(.shell(line), user: call.user)
        case .service(let service):
            try start(service, user: call.user)
        }
    }

    private func start(_ call: ServiceCall, user: String?) throws(StartFailure) {
        let service: ServiceLookup.Service
        do throws(ServiceLookup.Failure) {
            service = try host.lookup.find(call)
        } catch {
            throw StartFailure(status: error.status, reason: error.description)
        }
        switch service {
        case .executable(let path):
            warnOfSocketSettings(path)
            if host.errorLog != nil {
                errorLog = host.errorLog?.lines(
                    of: ServiceLogTag(descriptor: call.descriptor, source: call.source))
            }
            try startProgram(.executable(path: path, call: call), user: user)
        case .unixSocket(let path):
            try connect(call) { () throws(Errno) in try UnixSocket.connect(path) }
        case .tcp(let host, let port):
            try connect(call) { () throws(Errno) in
                try TCPSocket.connect(host: host, port: port)
            }
        }
    }

    private func warnOfSocketSettings(_ path: String) {
        guard
            config.skipServiceDescriptor || config.exitOnClientEOF || config.exitOnServiceEOF
        else { return }
        log.warning("an executable's settings for sockets are ignored", ["service": path])
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
            // A program that starts the service's is a part of this system, not of the call.
            var notFound = error == .noSuchFileOrDirectory
            if case .executable(let path, _) = program, path != spawn.path { notFound = false }
            throw StartFailure(
                status: notFound ? CallStatus.notFound : CallStatus.problem,
                reason: "\(spawn.path): \(error)")
        }
    }

    private func startDetached(_ request: SpawnRequest) throws(Errno) {
        var request = request
        let null = try Descriptor.open("/dev/null", O_RDWR)
        request.descriptors.replaceSubrange(..<3, with: [null.number, null.number, 2])
        if let lines = errorLog {
            let pipe = try Descriptor.pipe()
            request.descriptors[2] = pipe.second.number
            try adopt(ChildProcess.spawn(request))
            try LoggedPipe.follow(pipe.first, in: loop, to: lines)
        } else {
            try adopt(ChildProcess.spawn(request))
        }
        startTime = CurrentProcess.now
        status = 0
        pump.finish(exitCode: 0)
    }

    private func startAttached(_ request: inout SpawnRequest) throws(Errno) {
        let input = try UnixSocket.pair()
        let output = try UnixSocket.pair()
        UnixSocket.enlargeSendBuffer(of: input.first)
        UnixSocket.enlargeSendBuffer(of: output.second)
        let error = try Descriptor.pipe()
        // What the host wants to be there beside the streams stays.
        request.descriptors.replaceSubrange(
            ..<3,
            with: [
                input.second.number, output.second.number,
                host.sendsError ? error.second.number : 2,
            ])
        try adopt(ChildProcess.spawn(request))
        startTime = CurrentProcess.now
        try pump.attachMainSink(input.first, isSocket: true)
        openSources = [MessageType.dataStdout.rawValue]
        if host.sendsError {
            try error.first.setNonblocking(true)
            openSources.insert(MessageType.dataStderr.rawValue)
            try pump.attachSource(.dataStderr, error.first, isSocket: false, copy: errorLog)
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
            startTime = CurrentProcess.now
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
        // One that could not be started has its status already.
        if type == .dataStdout, config.exitOnServiceEOF, child == nil, status == nil {
            status = 0
        }
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

    private func hangUp() {
        guard !hungUp else { return }
        hungUp = true
        channel.close()
        if child != nil, !justExec {
            HangUp.begin(in: loop) { [weak self] signal in
                guard let self, self.child != nil else { return }
                self.child!.signalGroup(signal)
            }
        }
        over()
    }

    private func over() {
        ended = true
        channel.stopWaiting()
        socket = nil
        if child == nil || justExec && !hungUp { report() }
    }

    private func report() {
        guard !reported else { return }
        reported = true
        logEnd()
        let handler = onEnd
        onEnd = {}
        handler()
    }

    /// One line a call, with the time of each of its stages.
    private func logEnd() {
        func since(_ start: UInt64, _ end: UInt64?) -> String {
            end.map { "\(($0 - start) / 1000)" } ?? "none"
        }
        log.info(
            hungUp ? "call broken off" : "call ended",
            [
                "status": status.map { "\($0)" } ?? "none",
                "started-us": since(beginTime, startTime),
                "connected-us": since(beginTime, channel.openTime),
                "first-byte-us": since(beginTime, pump.firstByteTime),
                "ended-us": since(beginTime, CurrentProcess.now),
            ])
    }
}

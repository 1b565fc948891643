import Glibc
public import LinuxSystem
public import QrexecProtocol
import SystemPackage
public import Vchan

/// The caller's side of one call: serves the data channel and joins it to this program's standard
/// streams, or to a local program's.
public final class CallerSession {
    public struct Options: Sendable {
        /// Started when the service's side has connected; its descriptors are set here.
        public var localProgram: SpawnRequest?
        /// Whether the local program also gets the original standard error.
        public var passesError = false
        /// Whether what a terminal cannot be trusted with is replaced.
        public var filtersOutput = false
        public var filtersError = false
        /// Goes to the service before standard input.
        public var prefix: [UInt8] = []
        /// Standard input is a stream socket to be used both ways.
        public var usesInputSocket = false
        /// JUST_EXEC: no data, only the start's status.
        public var startsOnly = false
        /// Seconds for the service's side to connect; nil waits for ever.
        public var connectTimeout: UInt64? = TimeLimits.qubeConnect
        /// The status when the service's side does not connect, or does not agree on a version.
        public var unconnectedStatus: Int32 = CallerSession.brokenStatus

        public init() {}
    }

    /// What a call needs before anybody knows where its channel will be, so that it can be made while
    /// dom0 decides. Standard streams have their mode back at the end of this value.
    public struct Preparation: ~Copyable {
        let transport: Transport
        let memory: ChannelMemory
        let streams: LocalStreams

        /// - Parameter ringSize: bytes each way.
        public init(ringSize: Int, options: Options) throws(VchanError) {
            guard let size = RingSize(atLeast: ringSize) else {
                throw .badOffer("a ring of \(ringSize) bytes")
            }
            let transport = try Transport.selected()
            let memory = try transport.memory(read: size, write: size)
            let streams = try Self.streams(options)
            self.transport = transport
            self.memory = memory
            self.streams = streams
        }

        private static func streams(_ options: Options) throws(VchanError) -> LocalStreams {
            do throws(Errno) {
                return try LocalStreams(options)
            } catch {
                throw .system(call: "take the standard streams", error)
            }
        }
    }

    /// The status when the service's side breaks the protocol (5.4).
    public static let brokenStatus: Int32 = 1

    private let loop: EventLoop
    private let options: Options
    private let log: Log
    private let pump: DataPump
    private var streams: LocalStreams
    private var connectTimer: EventLoop.Timer?
    private var child: ChildProcess?
    private var childStatus: Int32?
    private var status: Int32?
    private let onEnd: (Int32) -> Void

    private init(
        loop: EventLoop, channel: consuming Channel, streams: consuming LocalStreams,
        options: Options, log: Log, onEnd: @escaping (Int32) -> Void
    ) {
        self.loop = loop
        self.streams = streams
        self.options = options
        self.log = log
        self.onEnd = onEnd
        pump = DataPump(loop: loop, channel: channel, role: .caller, log: log)
    }

    /// Serves the data channel at a place and starts the session.
    ///
    /// - Parameter onEnd: gets the call's exit status: the service's, or the local program's when
    ///   the service's is 0, or 255 when the channel closed before the exit status came.
    /// - Throws: `badOffer` for a place that cannot be one.
    public static func serving(
        _ place: ConnectParameters, _ preparation: consuming Preparation, loop: EventLoop,
        options: Options, log: Log, onEnd: @escaping (Int32) -> Void
    ) throws(VchanError) -> CallerSession {
        let transport = preparation.transport
        let memory = preparation.memory
        let streams = preparation.streams
        guard let domain = DomainID(place.domain), let port = Port(place.port) else {
            throw .badOffer("domain \(place.domain), port \(place.port)")
        }
        let channel = try transport.listen(for: domain, port: port, memory: memory)
        let session = CallerSession(
            loop: loop, channel: channel, streams: streams, options: options, log: log,
            onEnd: onEnd)
        try session.start()
        return session
    }

    private func start() throws(VchanError) {
        pump.onOpen = { [unowned self] in self.opened() }
        pump.onEnd = { [unowned self] in self.pumpEnded($0) }
        if let limit = options.connectTimeout {
            connectTimer = loop.schedule(after: seconds(limit)) { [weak self] in
                self?.abort(
                    "the other side did not connect within \(limit) s", unconnected: true)
            }
        }
        try pump.start()
    }

    /// Ends the call at once, with status 255 or that of a call that was never connected.
    public func abort(_ reason: String, unconnected: Bool = false) {
        log.error(reason)
        pump.close()
        finish(unconnected ? options.unconnectedStatus : CallStatus.closedEarly)
    }

    /// The local program moves its output to the socket that it gets its input from (5.4, SIGUSR1).
    public func useInputForOutput() {
        if options.localProgram != nil { pump.readMainSink(as: .dataStdin) }
    }

    /// Gives shared streams their mode back; for programs that end by a signal.
    public func restoreStreams() { streams.restore() }

    private func opened() {
        if let timer = connectTimer { loop.cancel(timer) }
        connectTimer = nil
        do throws(Errno) {
            if options.startsOnly {
                pump.closeMainSink()
            } else if options.localProgram != nil {
                try attachLocalProgram()
            } else {
                try attachOwnStreams()
            }
            if !options.prefix.isEmpty { pump.prependToSource(options.prefix) }
            if let error = streams.error.take() {
                let isSocket = error.isSocket
                try pump.attachErrorSink(
                    error.descriptor, isSocket: isSocket, filter: options.filtersError)
            }
        } catch {
            abort("the local streams cannot be used: \(error)")
        }
    }

    private func attachOwnStreams() throws(Errno) {
        if let output = streams.output.take() {
            let isSocket = output.isSocket
            try pump.attachMainSink(
                output.descriptor, isSocket: isSocket,
                filter: options.filtersOutput && !options.usesInputSocket)
        }
        if let input = streams.input.take() {
            let isSocket = input.isSocket
            try pump.attachSource(.dataStdin, input.descriptor, isSocket: isSocket)
        }
    }

    private func attachLocalProgram() throws(Errno) {
        guard var request = options.localProgram else { return }
        let input = try UnixSocket.pair()
        let output = try UnixSocket.pair()
        UnixSocket.enlargeSendBuffer(of: input.first)
        UnixSocket.enlargeSendBuffer(of: output.second)
        // The original streams follow behind 0, 1 and 2 (SAVED_FD_0, …).
        request.descriptors = [input.second.number, output.second.number, 2, 0, 1]
        request.environment += ["SAVED_FD_0=3", "SAVED_FD_1=4"]
        if options.passesError {
            request.descriptors.append(2)
            request.environment.append("SAVED_FD_2=5")
        }
        let started = try ChildProcess.spawn(request)
        let number = started.pidfd.number
        child = consume started
        try loop.watch(number, .readable) { [unowned self] _ in self.childExited() }
        try pump.attachMainSink(input.first, isSocket: true)
        try pump.attachSource(.dataStdin, output.first, isSocket: true)
    }

    private func childExited() {
        guard let ended = child.take() else { return }
        loop.unwatch(ended.pidfd.number)
        childStatus = (try? ended.reap()) ?? CallStatus.problem
        if let status { finish(status) }
    }

    private func pumpEnded(_ end: DataPump.End) {
        switch end {
        case .finished:
            finish(pump.exitCode ?? CallStatus.closedEarly)
            return
        case .closedEarly:
            log.error("the connection was closed before the service ended")
            if !pump.hasAgreed { return finish(options.unconnectedStatus) }
        case .protocolError(let error):
            log.error("the other side broke the protocol: \(error)")
            return finish(pump.hasAgreed ? Self.brokenStatus : options.unconnectedStatus)
        case .failed(let error): log.error("\(error)")
        }
        finish(CallStatus.closedEarly)
    }

    private func finish(_ remote: Int32) {
        if let timer = connectTimer { loop.cancel(timer) }
        connectTimer = nil
        status = remote
        // The local program sees the end of its input and ends by itself.
        if child != nil { return }
        streams.restore()
        onEnd(remote != 0 ? remote : childStatus ?? 0)
    }
}

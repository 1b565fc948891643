public import LinuxSystem
public import QrexecProtocol
public import SystemPackage
public import Vchan

/// Moves the data of one call between a data vchan and local descriptors, in an event loop
/// (specification 5.4). Both roles: the caller's and the service's side.
public final class DataPump {
    public enum Role: Sendable {
        /// Sends standard input, receives output, error and exit status.
        case caller
        /// Receives standard input, sends output, error and exit status.
        case service
    }

    public enum End: Sendable {
        /// The call is over: the exit status went out, or came with all output.
        case finished
        /// The vchan ended before that.
        case closedEarly
        case protocolError(ProtocolError)
        case failed(VchanError)
    }

    let loop: EventLoop
    private let role: Role
    private let log: Log
    private var watched: WatchedChannel!
    private var version: ProtocolVersion?
    /// Whether both sides have said HELLO, and speak a version in common.
    public var hasAgreed: Bool { version != nil }
    private var helloSent = false
    private var ended = false
    private var pumping = false
    /// There is something to take from the channel's descriptor.
    private var channelSpoke = true
    /// Bytes that this turn has moved so far.
    private var bytesThisTurn = 0

    private(set) var sources: [DataSource] = []
    private(set) var mainSink = DataSink()
    /// The main sink's socket is read too; or would be if it spoke.
    var readsMainSink = false
    var standby: Descriptor?
    private var errorSink = DataSink()
    private var incoming = Incoming.header
    private var exitCodeToSend: Int32?
    private var warnedOfSwappedType = false

    /// When the first local bytes went out (`CurrentProcess.now`).
    public private(set) var firstByteTime: UInt64?

    /// The exit status that came (caller).
    public private(set) var exitCode: Int32?

    /// The vchan is connected; HELLO may still be under way. Called once.
    public var onOpen: () -> Void = {}
    /// No more data goes to the main sink: its reader is gone or the peer's end has been delivered.
    public var onMainSinkClosed: () -> Void = {}
    /// A source's end has been sent.
    public var onSourceEnd: (MessageType) -> Void = { _ in }
    /// The pump stopped by itself; not called after `close`.
    public var onEnd: (End) -> Void = { _ in }

    private enum Incoming {
        case header
        case payload(toError: Bool, rest: Int)
        case end(toError: Bool)
        case exitCode(bytes: [UInt8], rest: Int)
        case skip(rest: Int)
    }

    public init(loop: EventLoop, channel: consuming Channel, role: Role, log: Log) {
        self.loop = loop
        self.role = role
        self.log = log
        watched = WatchedChannel(loop: loop, channel: channel) { [unowned self] in
            self.channelSpoke = true
            self.pump()
        }
    }

    public func start() throws(VchanError) { try watched.start() }

    // MARK: Local ends

    /// Sends what comes from a descriptor, which must not block (sockets may), as messages of a
    /// type; its end as an empty one.
    ///
    /// - Parameter copy: gets all of it too.
    public func attachSource(
        _ type: MessageType, _ descriptor: consuming Descriptor, isSocket: Bool,
        copy: LineCollector? = nil
    ) throws(Errno) {
        let source = DataSource(type: type, taking: descriptor, isSocket: isSocket)
        source.copy = copy
        sources.append(source)
        try watch(source, source.number!)
        again()
    }

    func watch(_ source: DataSource, _ number: Int32) throws(Errno) {
        try loop.watch(number, []) { [weak self, weak source] _ in
            source?.isReady = true
            self?.pump()
        }
    }

    /// Bytes to send before the first of a source (`--prefix-data`).
    public func prependToSource(_ bytes: [UInt8]) { sources.first?.prefix = bytes }

    /// Sends the end of a stream that this side does not have.
    public func sendEnd(of type: MessageType) {
        sources.append(DataSource(ended: type))
        pump()
    }

    /// Where data from the peer goes: standard input of a service, standard output of a caller.
    public func attachMainSink(
        _ descriptor: consuming Descriptor, isSocket: Bool, filter: Bool = false
    ) throws(Errno) {
        try attach(sink: mainSink, descriptor, isSocket: isSocket, filter: filter)
    }

    /// Where standard error from the peer goes (caller).
    public func attachErrorSink(
        _ descriptor: consuming Descriptor, isSocket: Bool, filter: Bool = false
    ) throws(Errno) {
        try attach(sink: errorSink, descriptor, isSocket: isSocket, filter: filter)
    }

    private func attach(
        sink: DataSink, _ descriptor: consuming Descriptor, isSocket: Bool, filter: Bool
    ) throws(Errno) {
        sink.attach(descriptor, isSocket: isSocket, filter: filter)
        try loop.watch(sink.number!, []) { [weak self, weak sink] _ in
            sink?.isReady = true
            self?.pump()
        }
        again()
    }

    /// Service: takes no more input; what still comes is dropped.
    public func closeMainSink() {
        close(sink: mainSink)
        mainSink.release()
    }

    private func close(sink: DataSink) {
        guard !sink.isClosed else { return }
        if let number = sink.number { loop.unwatch(number) }
        sink.close()
        if sink === mainSink { onMainSinkClosed() }
    }

    /// The peer's end of the stream is passed on.
    private func end(sink: DataSink) {
        guard !sink.isClosed else { return }
        if let number = sink.number { loop.unwatch(number) }
        sink.endWriting()
        if sink === mainSink { onMainSinkClosed() }
    }

    func close(source: DataSource) {
        if let number = source.number { loop.unwatch(number) }
        source.close()
    }

    public var mainSinkIsClosed: Bool { mainSink.isClosed }

    /// Takes no more local input, and tells the peer so.
    public func endSources() {
        for source in sources where !source.isEnded {
            close(source: source)
            source.state = .endToSend
        }
        pump()
    }

    /// Service: sends the exit status after all that its sources gave, then ends.
    public func finish(exitCode: Int32) {
        exitCodeToSend = exitCode
        pump()
    }

    /// Closes the vchan and all local ends at once.
    public func close() {
        guard !ended else { return }
        ended = true
        for source in sources { close(source: source) }
        onMainSinkClosed = {}
        close(sink: mainSink)
        close(sink: errorSink)
        mainSink.release()
        errorSink.release()
        if let socket = standby.take() { loop.unwatch(socket.number) }
        watched.close()
        onOpen = {}
        onSourceEnd = { _ in }
        onEnd = { _ in }
    }

    private func end(_ reason: End) {
        let handler = onEnd
        close()
        handler(reason)
    }

    // MARK: Moving

    /// Rounds of one turn; more would let one busy call starve the others of its process.
    private static let roundsPerTurn = 8

    func pump() {
        guard !ended, !pumping else { return }
        pumping = true
        defer { pumping = false }
        bytesThisTurn = 0
        do throws(VchanError) {
            try takeNotice()
            if watched.channel.state == .waiting { return }
            try greet()
            var rounds = 0
            var moved = true
            while moved, rounds < Self.roundsPerTurn {
                moved = try receiveSome()
                if ended { return }
                if version != nil, try sendSome() { moved = true }
                if ended { return }
                if !moved { moved = try linger() }
                rounds += 1
            }
            try watched.channel.flush()
            if try finishIfDone() { return }
            if moved {
                again()
            } else {
                try sleep()
            }
        } catch {
            if !ended { end(.failed(error)) }
        }
    }

    func again() {
        loop.defer { [weak self] in self?.pump() }
    }

    /// Makes the system call for what happened on the channel, when something has: that there are
    /// bytes or room is seen in memory.
    private func takeNotice() throws(VchanError) {
        guard channelSpoke || watched.channel.isByteStream else { return }
        channelSpoke = false
        try watched.progress()
    }

    /// Looks for a moment whether the peer goes on at once, while a stream is under way and nobody
    /// else waits for this loop: a sleep and a wake-up cost as much as moving the bytes.
    ///
    /// - Returns: whether there is a reason for another round.
    private func linger() throws(VchanError) -> Bool {
        guard bytesThisTurn >= Self.streaming, !loop.isBusy, watched.channel.state == .open,
            exitCodeToSend == nil
        else { return false }
        if sources.contains(where: \.waitsForRoom) {
            return try watched.channel.lingerForSpace(atLeast: usefulRoom)
        }
        guard mainSink.isReady, mainSink.number != nil,
            try watched.channel.bytesReady() < minimumToRead
        else { return false }
        return try watched.channel.lingerForData(atLeast: minimumToRead)
    }

    /// So many bytes at once are part of a stream.
    private static let streaming = 16 << 10

    private func greet() throws(VchanError) {
        guard !helloSent else { return }
        helloSent = true
        let body = Hello(version: .ours).body
        do throws(VchanError) {
            _ = try watched.channel.send(type: MessageType.hello.rawValue, body.span)
        } catch .closed {
            // Left at once; what it said before is still read.
        }
        onOpen()
    }

    /// Asks for the notifications that are needed and looks a last time.
    private func sleep() throws(VchanError) {
        let blockedOnSink = updateSinks()
        if watched.channel.state == .closed {
            // A service's caller never closes first: there is nobody left to serve.
            if role == .service {
                peerGone()
                return
            }
            if blockedOnSink {
                // The hang-up would wake us for as long as the local reader takes its time.
                watched.stopWatching()
                return
            }
            if try watched.channel.bytesReady() > 0, try canParse() {
                again()
            } else {
                peerGone()
            }
            return
        }
        var awake = false
        if !blockedOnSink, try watched.channel.armForData(atLeast: minimumToRead) {
            awake = true
        }
        if try updateSources() { awake = true }
        if awake { again() }
    }

    /// Whether what is in the ring of a closed channel is enough to go on.
    private func canParse() throws(VchanError) -> Bool {
        try watched.channel.bytesReady() >= minimumToRead
    }

    private var minimumToRead: Int {
        if case .header = incoming { return MessageHeader.size }
        return 1
    }

    private func peerGone() {
        if role == .caller, exitCode != nil {
            end(.finished)
        } else {
            end(.closedEarly)
        }
    }

    /// Watches the sinks that did not take everything.
    ///
    /// - Returns: whether incoming data has to wait for one of them.
    private func updateSinks() -> Bool {
        let mainWaits = update(mainSink)
        let errorWaits = update(errorSink)
        let blocked = mainWaits || errorWaits
        // A socket service that is being connected: the data waits in the ring.
        switch incoming {
        case .payload(let toError, _), .end(let toError):
            let sink = toError ? errorSink : mainSink
            return blocked || !sink.isClosed && sink.number == nil
        case .header, .exitCode, .skip:
            return blocked
        }
    }

    /// - Returns: whether the sink is watched, because it did not take everything.
    private func update(_ sink: DataSink) -> Bool {
        if sink.isReady, !sink.filtered.isEmpty { _ = writeFiltered(sink) }
        guard let number = sink.number else { return false }
        let waits = !sink.isReady
        loop.setInterest(number, waits ? .writable : [])
        return waits
    }

    /// Watches the sources that gave nothing, and asks for room for the others.
    ///
    /// - Returns: whether there is room already.
    private func updateSources() throws(VchanError) -> Bool {
        var needsRoom = exitCodeToSend != nil
        var isBulk = !needsRoom
        for source in sources {
            if source.state == .endToSend { (needsRoom, isBulk) = (true, false) }
            if source.waitsForRoom { needsRoom = true }
            guard let number = source.number else { continue }
            loop.setInterest(number, source.isReady ? [] : .readable)
        }
        if version == nil || !needsRoom { return false }
        return try watched.channel.armForSpace(
            atLeast: isBulk ? usefulRoom : Self.smallestUsefulRoom)
    }

    /// Header and one byte; EXIT_CODE needs 12, so a little more than both.
    private static let smallestUsefulRoom = 16

    /// Room that is worth a wake-up for data that waits: the peer gives back half a ring at a time, and
    /// all that it has read before it sleeps.
    private var usefulRoom: Int { watched.channel.writeCapacity / 2 }

    // MARK: Out

    /// One message of each source that has something; whether anything went out.
    private func sendSome() throws(VchanError) -> Bool {
        guard watched.channel.state == .open else {
            return false
        }
        var moved = false
        do throws(VchanError) {
            for source in sources where !source.isEnded {
                if try send(from: source) { moved = true }
            }
        } catch .closed {
            // The peer closed in between; what it wrote before that is still to be read.
        }
        return moved
    }

    private func send(from source: DataSource) throws(VchanError) -> Bool {
        if source.state == .endToSend { return try sendEnd(source) }
        if !source.prefix.isEmpty { return try sendPrefix(source) }
        guard source.isReady, let number = source.number else { return false }
        let limit = version!.maximumDataChunk
        let result =
            source.copy == nil
            ? try watched.channel.send(
                type: source.type.rawValue, from: number, isSocket: source.isSocket, limit: limit)
            : try sendCopied(source, limit: limit)
        switch result {
        case .moved(let count):
            if firstByteTime == nil { firstByteTime = CurrentProcess.now }
            bytesThisTurn += count
            // Much came, but less than there was room for: there is no more now.
            if count >= Self.streaming, count < limit, try watched.channel.bytesFree() > 0 {
                source.isReady = false
            }
            return true
        case .noRoom:
            return false
        case .wouldBlock:
            source.isReady = false
            return false
        case .endOfFile:
            // A program that moves its output says so before it closes the old place.
            if source.isSocket, !readsMainSink {
                if loop.takeSignals(), readsMainSink { return true }
                if holdsBack(source) { return false }
            }
            return try sendEnd(source)
        case .failed(let error):
            // A terminal that hung up, a service that died with unread input: the stream is over.
            log.debug("a local stream ended", ["error": error.description])
            return try sendEnd(source)
        }
    }

    /// Sends what a source has and copies it; for the little that goes to a log.
    private func sendCopied(_ source: DataSource, limit: Int) throws(VchanError) -> FillResult {
        let room = min(limit, 4096, try watched.channel.bytesFree() - MessageHeader.size)
        guard room > 0 else { return .noRoom }
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try source.read(limit: room)
        } catch .resourceTemporarilyUnavailable {
            return .wouldBlock
        } catch {
            return .failed(error)
        }
        if bytes.isEmpty { return .endOfFile }
        source.copy?.append(bytes[...])
        _ = try watched.channel.send(type: source.type.rawValue, bytes.span)
        return .moved(bytes.count)
    }

    private func sendPrefix(_ source: DataSource) throws(VchanError) -> Bool {
        let room = try watched.channel.bytesFree() - MessageHeader.size
        let count = min(room, source.prefix.count, version!.maximumDataChunk)
        guard count > 0 else { return false }
        let bytes = Array(source.prefix.prefix(count))
        guard try watched.channel.send(type: source.type.rawValue, bytes.span) else {
            return false
        }
        source.prefix.removeFirst(count)
        return true
    }

    private func sendEnd(_ source: DataSource) throws(VchanError) -> Bool {
        source.state = .endToSend
        guard try watched.channel.send(type: source.type.rawValue, [UInt8]().span) else {
            return false
        }
        source.state = .ended
        close(source: source)
        onSourceEnd(source.type)
        return true
    }

    // MARK: In

    /// One step of the incoming stream; whether anything moved.
    private func receiveSome() throws(VchanError) -> Bool {
        switch incoming {
        case .header:
            return try receiveHeader()
        case .payload(let toError, let rest):
            return try receivePayload(toError: toError, rest: rest)
        case .end(let toError):
            return deliverEnd(toError ? errorSink : mainSink)
        case .exitCode(var bytes, let rest):
            var byte: [UInt8] = []
            guard try watched.channel.receive(into: &byte, count: 1) == 1 else { return false }
            if bytes.count < 4 { bytes.append(byte[0]) }
            if rest > 1 {
                incoming = .exitCode(bytes: bytes, rest: rest - 1)
            } else {
                incoming = .header
                received(exitCode: bytes)
            }
            return true
        case .skip(let rest):
            let count = try watched.channel.discard(rest)
            incoming = rest == count ? .header : .skip(rest: rest - count)
            return count > 0
        }
    }

    private func receiveHeader() throws(VchanError) -> Bool {
        guard let header = try watched.channel.receiveHeader() else { return false }
        do throws(ProtocolError) {
            try accept(header)
        } catch {
            end(.protocolError(error))
        }
        return true
    }

    /// Decides what a message is, by role; its length is checked before anything is waited for.
    private func accept(_ header: FrameHeader) throws(ProtocolError) {
        guard let type = MessageType(rawValue: header.type) else {
            throw .unknownType(header.type)
        }
        let length = Int(header.length)
        guard let version else {
            try acceptHello(type, length)
            return
        }
        guard length <= version.maximumDataChunk else {
            throw .tooLong(length: length, limit: version.maximumDataChunk)
        }
        switch (role, type) {
        case (_, .dataStdin), (_, .dataStdout):
            warnOfSwappedType(type)
            incoming = length == 0 ? .end(toError: false) : .payload(toError: false, rest: length)
        case (.caller, .dataStderr):
            incoming = length == 0 ? .end(toError: true) : .payload(toError: true, rest: length)
        case (.caller, .dataExitCode):
            if length == 0 {
                received(exitCode: [])
            } else {
                incoming = .exitCode(bytes: [], rest: length)
            }
        case (.service, .dataStderr), (.service, .dataExitCode):
            // QSB-087: never the caller's to send.
            incoming = length == 0 ? .header : .skip(rest: length)
        default:
            throw .unexpectedType(type, state: "on a data channel")
        }
    }

    private func acceptHello(_ type: MessageType, _ length: Int) throws(ProtocolError) {
        guard type == .hello else { throw .unexpectedType(type, state: "before HELLO") }
        guard length == Hello.size else {
            throw .badLength(.hello, length: length, expected: "4")
        }
        incoming = .exitCode(bytes: [], rest: length)
    }

    private func warnOfSwappedType(_ type: MessageType) {
        let expected: MessageType = role == .caller ? .dataStdout : .dataStdin
        if type != expected, !warnedOfSwappedType {
            warnedOfSwappedType = true
            log.warning("the peer sends \(type) where \(expected) is expected")
        }
    }

    /// Four bytes came: the peer's version, or the exit status.
    private func received(exitCode bytes: [UInt8]) {
        var value: UInt32 = 0
        for (index, byte) in bytes.enumerated() { value |= UInt32(byte) << (8 * index) }
        guard version != nil else {
            do throws(ProtocolError) {
                version = try ProtocolVersion.negotiated(theirs: value)
            } catch {
                end(.protocolError(error))
            }
            return
        }
        let code = Int32(bitPattern: value)
        exitCode = bytes.count < 4 || code < 0 ? CallStatus.closedEarly : code
        for source in sources where !source.isEnded {
            close(source: source)
            source.state = .endToSend
        }
    }

    private func receivePayload(toError: Bool, rest: Int) throws(VchanError) -> Bool {
        let sink = toError ? errorSink : mainSink
        if sink.isClosed {
            incoming = .skip(rest: rest)
            return true
        }
        guard sink.isReady, sink.number != nil else { return false }
        let count: Int
        if sink.filter {
            guard let moved = try receiveFiltered(sink, rest: rest) else { return false }
            count = moved
        } else {
            switch try watched.channel.drain(rest, to: sink.number!, isSocket: sink.isSocket) {
            case .moved(let moved):
                count = moved
                bytesThisTurn += count
                if count >= Self.streaming, count < rest,
                    try watched.channel.bytesReady() >= Self.streaming
                {
                    // It did not take what there was.
                    sink.isReady = false
                }
            case .wouldBlock:
                sink.isReady = false
                return false
            case .failed:
                // Its reader is gone; the rest is read and dropped.
                close(sink: sink)
                return true
            }
        }
        incoming = count == rest ? .header : .payload(toError: toError, rest: rest - count)
        return count > 0
    }

    /// Moves bytes through the filter of a terminal.
    ///
    /// - Returns: how many left the ring; nil when the sink takes no more.
    private func receiveFiltered(_ sink: DataSink, rest: Int) throws(VchanError) -> Int? {
        guard writeFiltered(sink) else { return nil }
        var bytes: [UInt8] = []
        let count = try watched.channel.receive(into: &bytes, count: min(rest, 4096))
        sink.filtered = bytes[..<count].map(TerminalFilter.safe)
        _ = writeFiltered(sink)
        return count
    }

    /// Whether nothing waits for the sink any more; one that failed takes nothing.
    private func writeFiltered(_ sink: DataSink) -> Bool {
        switch sink.writeFiltered() {
        case .done: return true
        case .wouldBlock: return false
        case .failed:
            close(sink: sink)
            return true
        }
    }

    private func deliverEnd(_ sink: DataSink) -> Bool {
        if !sink.isClosed, sink.number == nil || !writeFiltered(sink) { return false }
        incoming = .header
        sink.sawEnd = true
        end(sink: sink)
        return true
    }

    // MARK: The end

    /// Ends the call when its last message went out or came in; whether it did.
    private func finishIfDone() throws(VchanError) -> Bool {
        switch role {
        case .service:
            guard let code = exitCodeToSend, version != nil,
                sources.allSatisfy(\.isEnded), watched.channel.state == .open
            else { return false }
            var body: [UInt8] = []
            for shift in [0, 8, 16, 24] {
                body.append(UInt8(truncatingIfNeeded: code >> Int32(shift)))
            }
            do throws(VchanError) {
                guard
                    try watched.channel.send(
                        type: MessageType.dataExitCode.rawValue, body.span)
                else { return false }
                try watched.channel.flush()
                end(.finished)
            } catch .closed {
                end(.closedEarly)
            }
            return true
        case .caller:
            guard exitCode != nil, mainSink.sawEnd || mainSink.isClosed,
                sources.allSatisfy(\.isEnded)
            else { return false }
            end(.finished)
            return true
        }
    }
}

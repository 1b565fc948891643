import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Listens on a socket, reads one request a connection and writes its answer.
///
/// Connections are independent: one that sends slowly or does not read its answer holds up nobody,
/// and is closed when its time is over.
final class RequestServer {
    /// What the bytes that came so far are.
    enum Frame {
        case incomplete
        /// A complete request: this many bytes from the beginning.
        case complete(Int)
        /// The end came without a request.
        case nothing
    }

    /// Looks at all bytes that came, of which the first `seen` were looked at before.
    typealias Framing = (_ input: [UInt8], _ seen: Int, _ isEnd: Bool) -> Frame
    /// Answers a request; nil closes the connection without an answer.
    typealias Reply = ([UInt8]?) -> Void
    /// Ends the work on a request whose client has gone.
    typealias Cancel = () -> Void

    private let loop: EventLoop
    private let log: Log
    private let path: String
    private let limit: Int
    private let listener: Descriptor
    private let frame: Framing
    private let handle: (_ request: ArraySlice<UInt8>, _ reply: @escaping Reply) -> Cancel?
    private var connections: [Int32: Connection] = [:]
    private var scratch = [UInt8](repeating: 0, count: 16384)
    private var isAccepting = true
    private var isSweeping = false

    /// Connections at a time; further ones wait in the socket's queue.
    static let maximumConnections = 1024
    /// Nanoseconds for a request to arrive, and again for its answer to be taken.
    static let time = seconds(10)

    private final class Connection {
        let socket: Descriptor
        var input: [UInt8] = []
        var output: [UInt8] = []
        var deadline: UInt64
        /// The request is complete and its answer awaited; no deadline of ours then.
        var isDeciding = false
        var isWatched = false
        var cancel: Cancel?

        init(_ socket: consuming Descriptor) {
            self.socket = socket
            deadline = CurrentProcess.now + RequestServer.time
        }
    }

    /// - Parameters:
    ///   - path: a socket file that nobody listens on is replaced.
    ///   - limit: bytes of a request.
    init(
        _ loop: EventLoop, path: String, limit: Int, log: Log,
        frame: @escaping Framing,
        handle: @escaping (_ request: ArraySlice<UInt8>, _ reply: @escaping Reply) -> Cancel?
    ) throws(Errno) {
        self.loop = loop
        self.log = log
        self.path = path
        self.limit = limit
        self.frame = frame
        self.handle = handle
        listener = try Self.listen(path, mode: 0o660, group: UserGroup.number(of: "qubes"))
        try loop.watch(listener.number, .readable) { [unowned self] _ in self.accept() }
    }

    deinit {
        loop.unwatch(listener.number)
        for (number, connection) in connections {
            loop.unwatch(number)
            connection.cancel?()
        }
        try? FileStatus.remove(path)
    }

    /// Listens at a path; a socket file that nobody listens on is replaced.
    ///
    /// - Parameter group: of the socket file; nil leaves it that of this process.
    static func listen(
        _ path: String, kind: UnixSocket.Kind = .stream, mode: Int32, group: UInt32?
    ) throws(Errno) -> Descriptor {
        do throws(Errno) {
            return try open(path, kind, mode, group)
        } catch .addressInUse {
            if (try? UnixSocket.connect(path, kind)) != nil { throw .addressInUse }
            try FileStatus.remove(path)
            return try open(path, kind, mode, group)
        }
    }

    private static func open(
        _ path: String, _ kind: UnixSocket.Kind, _ mode: Int32, _ group: UInt32?
    ) throws(Errno) -> Descriptor {
        let listener = try UnixSocket.listen(path, kind, mode: mode)
        if let group { try? FileStatus.setGroup(path, group) }
        return listener
    }

    // MARK: Connections

    private func accept() {
        for _ in 0..<64 {
            if connections.count >= Self.maximumConnections {
                isAccepting = false
                loop.setInterest(listener.number, [])
                return
            }
            do throws(Errno) {
                add(Connection(try UnixSocket.accept(listener)))
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {
                // Out of descriptors: those that are open end and make room.
                log.error("cannot accept a connection: \(error)")
                isAccepting = false
                loop.setInterest(listener.number, [])
                loop.schedule(after: milliseconds(100)) { [weak self] in self?.resumeAccepting() }
                return
            }
        }
    }

    private func resumeAccepting() {
        if isAccepting || connections.count >= Self.maximumConnections { return }
        isAccepting = true
        loop.setInterest(listener.number, .readable)
    }

    private func add(_ connection: Connection) {
        let number = connection.socket.number
        connections[number] = connection
        // A daemon sends its request with the connection, mostly it is there already: then the
        // whole exchange is done without another round of the loop.
        receive(number)
        guard connections[number] != nil else { return }
        do throws(Errno) {
            connection.isWatched = true
            try loop.watch(number, interest(of: connection)) { [unowned self] readiness in
                self.handle(number, readiness)
            }
        } catch {
            connection.isWatched = false
            log.error("cannot watch a connection: \(error)")
            return close(number)
        }
        sweepLater()
    }

    private func interest(of connection: Connection) -> Readiness {
        if !connection.output.isEmpty { return .writable }
        return connection.isDeciding ? [] : .readable
    }

    private func close(_ number: Int32) {
        guard let connection = connections.removeValue(forKey: number) else { return }
        if connection.isWatched { loop.unwatch(number) }
        connection.cancel?()
        connection.cancel = nil
        resumeAccepting()
    }

    private func handle(_ number: Int32, _ readiness: Readiness) {
        guard let connection = connections[number] else { return }
        if !connection.output.isEmpty {
            send(number)
        } else if connection.isDeciding {
            // Nothing is read or written now, so only a client that is gone gets here.
            close(number)
        } else {
            receive(number)
        }
    }

    private func receive(_ number: Int32) {
        guard let connection = connections[number] else { return }
        while true {
            var isEnd = false
            let seen = connection.input.count
            do throws(Errno) {
                let count = try UnixSocket.receive(number, into: &scratch)
                isEnd = count == 0
                connection.input.append(contentsOf: scratch[..<count])
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {
                return close(number)
            }
            switch frame(connection.input, seen, isEnd) {
            case .complete(let count): return take(number, connection.input[..<count])
            case .nothing: return close(number)
            case .incomplete: if isEnd { return close(number) }
            }
            if connection.input.count > limit {
                log.warning("\(path): request refused: longer than \(limit) bytes")
                return close(number)
            }
        }
    }

    private func take(_ number: Int32, _ request: ArraySlice<UInt8>) {
        guard let connection = connections[number] else { return }
        connection.isDeciding = true
        if connection.isWatched { loop.setInterest(number, []) }
        let cancel = handle(request) { [weak self, weak connection] answer in
            guard let self, let connection, self.connections[number] === connection else { return }
            connection.cancel = nil
            guard let answer else { return self.close(number) }
            connection.output = answer
            connection.deadline = CurrentProcess.now + Self.time
            self.send(number)
        }
        // It may have been answered already.
        if connection.output.isEmpty, connections[number] === connection {
            connection.cancel = cancel
        }
    }

    private func send(_ number: Int32) {
        guard let connection = connections[number] else { return }
        do throws(Errno) {
            let count = try UnixSocket.send(number, connection.output.span)
            connection.output.removeFirst(count)
        } catch .resourceTemporarilyUnavailable {
        } catch {
            return close(number)
        }
        if connection.output.isEmpty { return close(number) }
        if connection.isWatched { loop.setInterest(number, .writable) }
    }

    // MARK: Deadlines

    /// One timer for all: their times are long and need not be exact.
    private func sweepLater() {
        if isSweeping { return }
        isSweeping = true
        loop.schedule(after: seconds(1)) { [weak self] in self?.sweep() }
    }

    private func sweep() {
        isSweeping = false
        let now = CurrentProcess.now
        for (number, connection) in connections where connection.deadline < now {
            if connection.isDeciding && connection.output.isEmpty { continue }
            log.warning("\(path): connection closed: its time is over")
            close(number)
        }
        if !connections.isEmpty { sweepLater() }
    }
}

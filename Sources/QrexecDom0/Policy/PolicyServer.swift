import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Listens on a socket, reads one request a connection and writes its answer (section 13.1).
///
/// Connections are independent: one that sends slowly or does not read its answer holds up nobody,
/// and is closed when its time is over.
final class PolicyServer {
    private let loop: EventLoop
    private let log: Log
    private let path: String
    private let listener: Descriptor
    private let decide: (PolicyQuery, @escaping (PolicyVerdict) -> Void) -> Void
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
        /// The request is complete and its decision awaited; no deadline of ours then.
        var isDeciding = false

        init(_ socket: consuming Descriptor) {
            self.socket = socket
            deadline = CurrentProcess.now + PolicyServer.time
        }
    }

    /// - Parameter path: a socket file that nobody listens on is replaced.
    init(
        _ loop: EventLoop, path: String, log: Log,
        decide: @escaping (PolicyQuery, @escaping (PolicyVerdict) -> Void) -> Void
    ) throws(Errno) {
        self.loop = loop
        self.log = log
        self.path = path
        self.decide = decide
        listener = try Self.listen(path)
        try loop.watch(listener.number, .readable) { [unowned self] _ in self.accept() }
    }

    deinit {
        loop.unwatch(listener.number)
        for number in connections.keys { loop.unwatch(number) }
        try? FileStatus.remove(path)
    }

    private static func listen(_ path: String) throws(Errno) -> Descriptor {
        do throws(Errno) {
            return try open(path)
        } catch .addressInUse {
            if (try? UnixSocket.connect(path)) != nil { throw .addressInUse }
            try FileStatus.remove(path)
            return try open(path)
        }
    }

    private static func open(_ path: String) throws(Errno) -> Descriptor {
        let listener = try UnixSocket.listen(path, mode: 0o660)
        // Where there is no such group the socket stays with the group of this process.
        if let group = UserGroup.number(of: "qubes") { try? FileStatus.setGroup(path, group) }
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
        // A daemon sends its request with the connection, mostly it is there already: then the
        // whole exchange is done without another round of the loop.
        connections[number] = connection
        receive(number)
        guard connections[number] != nil else { return }
        do throws(Errno) {
            let interest: Readiness =
                connection.output.isEmpty ? (connection.isDeciding ? [] : .readable) : .writable
            try loop.watch(number, interest) { [unowned self] readiness in
                self.handle(number, readiness)
            }
        } catch {
            log.error("cannot watch a connection: \(error)")
            connections[number] = nil
            return
        }
        sweepLater()
    }

    private func close(_ number: Int32) {
        loop.unwatch(number)
        connections[number] = nil
        resumeAccepting()
    }

    private func handle(_ number: Int32, _ readiness: Readiness) {
        guard let connection = connections[number] else { return }
        if !connection.output.isEmpty {
            send(number)
        } else if connection.isDeciding {
            // Nothing is read or written now, so only a peer that is gone gets here.
            close(number)
        } else {
            receive(number)
        }
    }

    private func receive(_ number: Int32) {
        guard let connection = connections[number] else { return }
        while true {
            do throws(Errno) {
                let count = try UnixSocket.receive(number, into: &scratch)
                if count == 0 { return take(number, connection.input[...]) }
                connection.input.append(contentsOf: scratch[..<count])
            } catch .resourceTemporarilyUnavailable {
                return
            } catch {
                return close(number)
            }
            if let end = Self.end(of: connection.input) {
                return take(number, connection.input[..<end])
            }
            if connection.input.count > PolicyQuery.maximumSize {
                log.warning("policy request refused: longer than \(PolicyQuery.maximumSize) bytes")
                return close(number)
            }
        }
    }

    /// Where the empty line begins that ends a request.
    private static func end(of input: [UInt8]) -> Int? {
        if input.first == 0x0A { return 0 }
        var index = 1
        while index < input.count {
            if input[index] == 0x0A && input[index - 1] == 0x0A { return index }
            index += 1
        }
        return nil
    }

    private func take(_ number: Int32, _ lines: ArraySlice<UInt8>) {
        guard let connection = connections[number] else { return }
        // A connection that closes without a request is a probe.
        if lines.isEmpty { return close(number) }
        let query: PolicyQuery
        do throws(PolicyQuery.Malformed) {
            query = try PolicyQuery(lines: lines)
        } catch {
            log.warning("policy request refused: \(error)")
            return close(number)
        }
        connection.isDeciding = true
        loop.setInterest(number, [])
        decide(query) { [weak self, weak connection] verdict in
            guard let self, let connection, self.connections[number] === connection else { return }
            connection.output = verdict.answer
            connection.deadline = CurrentProcess.now + Self.time
            self.send(number)
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
        loop.setInterest(number, .writable)
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
        for (number, connection) in connections
        where !connection.isDeciding && connection.deadline < now
            || !connection.output.isEmpty && connection.deadline < now
        {
            log.warning("policy connection closed: its time is over")
            close(number)
        }
        if !connections.isEmpty { sweepLater() }
    }
}

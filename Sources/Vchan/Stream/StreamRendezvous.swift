import CLinuxSystem
import Glibc
import LinuxSystem
import SystemPackage

/// A server's socket of the byte-stream transport: one client, then the path is gone.
struct StreamListener: ~Copyable {
    let socket: Descriptor
    private let path: String

    init(path: String) throws(VchanError) {
        self.path = path
        do throws(Errno) {
            // The protocol has no other way to tell a dead server's file from a living one's.
            _ = unsafe unlink(path)
            socket = try UnixSocket.listen(path, .stream, mode: 0o666, backlog: 1)
        } catch {
            throw .system(call: "listen on \(path)", error)
        }
    }

    // SAFETY: a C string that outlives the call.
    deinit { _ = unsafe unlink(path) }

    func accept() throws(VchanError) -> StreamLink? {
        do throws(Errno) {
            let connection = try UnixSocket.accept(socket)
            let edges = Descriptor(taking: try check(cs_epoll_create()))
            _ = try check(cs_edges_add(edges.number, connection.number))
            return StreamLink(socket: connection, edges: edges)
        } catch .resourceTemporarilyUnavailable {
            return nil
        } catch .connectionAbort {
            return nil
        } catch {
            throw .system(call: "accept on \(path)", error)
        }
    }
}

/// A client on its way to a byte-stream server. It tries at once, then waits for changes of the
/// directory; a file that refuses is also tried again by a timer, because servers of the reference
/// implementation bind before they listen and change nothing after that, and so is everything where
/// a user has no watch left (Linux gives each user 128).
struct StreamConnector: ~Copyable {
    private let path: String
    private let directory: String
    private var edges: Descriptor?
    private var changes: DirectoryWatch?
    private var timer: Descriptor?
    private var adopted: Descriptor?
    private var pause = 1_000_000
    let pollDescriptor: Int32

    private init(directory: String, path: String, edges: consuming Descriptor) {
        self.directory = directory
        self.path = path
        pollDescriptor = edges.number
        self.edges = consume edges
    }

    /// The first try is made by the first `advance`, for which the descriptor is readable at once.
    static func start(directory: String, path: String) throws(VchanError) -> StreamConnector {
        var connector = StreamConnector(
            directory: directory, path: path, edges: try StreamLink.makeEdges())
        try connector.beReadableAtOnce()
        return connector
    }

    /// With a connection that another process has made.
    static func adopting(_ connection: consuming Descriptor) throws(VchanError) -> StreamConnector {
        var connector = StreamConnector(
            directory: "", path: "", edges: try StreamLink.makeEdges())
        connector.adopted = consume connection
        try connector.beReadableAtOnce()
        return connector
    }

    private mutating func beReadableAtOnce() throws(VchanError) {
        do throws(Errno) { try setTimer(nanoseconds: 1) } catch {
            throw .system(call: "timer", error)
        }
    }

    /// One try; the caller comes back when the descriptor is readable.
    mutating func advance() throws(VchanError) -> StreamLink? {
        var connection = adopted.take()
        if connection == nil { connection = try reach() }
        guard let socket = connection.take() else { return nil }
        do throws(Errno) { _ = try check(cs_edges_add(pollDescriptor, socket.number)) } catch {
            throw .system(call: "epoll_ctl", error)
        }
        // The watch's descriptor lives on in other watches.
        if let number = changes?.number { cs_edges_remove(pollDescriptor, number) }
        return StreamLink(socket: socket, edges: edges.take()!)
    }

    /// One try to connect.
    mutating func reach() throws(VchanError) -> Descriptor? {
        do throws(Errno) {
            cs_edges_clear(pollDescriptor)
            _ = changes?.hasChanged("")
            if let socket = try connect() { return socket }
            guard changes == nil, watch() else { return nil }
            // A server that came before the watch was there.
            return try connect()
        } catch {
            throw .system(call: "connect to \(path)", error)
        }
    }

    /// - Returns: nil while there is no server.
    private mutating func connect() throws(Errno) -> Descriptor? {
        do throws(Errno) {
            return try UnixSocket.connect(path, .stream)
        } catch {
            switch error {
            case .noSuchFileOrDirectory:
                if changes == nil { try tryAgainLater() }
            case .connectionRefused, .resourceTemporarilyUnavailable: try tryAgainLater()
            default: throw error
            }
            return nil
        }
    }

    /// - Returns: false where the timer has to do.
    private mutating func watch() -> Bool {
        do throws(Errno) {
            let changes = try DirectoryWatch(directory)
            _ = try check(cs_edges_add(pollDescriptor, changes.number))
            self.changes = consume changes
            return true
        } catch {
            return false
        }
    }

    private mutating func tryAgainLater() throws(Errno) {
        try setTimer(nanoseconds: pause)
        pause = min(pause * 2, 100_000_000)
    }

    private mutating func setTimer(nanoseconds: Int) throws(Errno) {
        if timer == nil {
            let timer = Descriptor(taking: try check(cs_timer_create()))
            _ = try check(cs_edges_add(pollDescriptor, timer.number))
            self.timer = consume timer
        }
        guard let number = timer?.number else { return }
        _ = cs_timer_set(number, nanoseconds)
    }
}

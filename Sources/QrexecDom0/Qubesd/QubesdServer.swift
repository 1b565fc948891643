import LinuxSystem
import QrexecProtocol
public import QrexecRuntime
public import SystemPackage

/// Serves the protocol of section 14 for a `QubeManager`.
///
/// Every connection is a bounded state machine with a deadline: a client that sends nothing or
/// takes nothing costs a slot of a table, no more.
public final class QubesdServer {
    /// Connections at a time; more are closed at once.
    static let maximumConnections = 256
    /// For the request to arrive and for the answer to be taken.
    static let patience = seconds(30)
    /// Bytes of events that wait for a listener; a slower one is closed.
    static let maximumBacklog = 1 << 18

    let loop: EventLoop
    let log: Log
    unowned let manager: any QubeManager
    private var listeners: [Listener] = []
    private var connections: [ObjectIdentifier: QubesdConnection] = [:]

    private final class Listener {
        let socket: Descriptor
        let allowsInternal: Bool

        init(_ socket: consuming Descriptor, allowsInternal: Bool) {
            self.socket = socket
            self.allowsInternal = allowsInternal
        }
    }

    public init(loop: EventLoop, manager: any QubeManager, log: Log) {
        self.loop = loop
        self.manager = manager
        self.log = log
        manager.onEvent = { [weak self] event in self?.tell(event) }
    }

    /// Serves a listening socket.
    ///
    /// - Parameter allowsInternal: whether `internal.*` is served, which is for dom0's programs.
    public func serve(
        _ socket: consuming Descriptor, allowsInternal: Bool
    ) throws(Errno) {
        let listener = Listener(socket, allowsInternal: allowsInternal)
        try loop.watch(listener.socket.number, .readable) { [unowned self, unowned listener] _ in
            self.accept(listener)
        }
        listeners.append(listener)
    }

    /// Ends all connections and closes the listening sockets.
    public func stop() {
        for listener in listeners { loop.unwatch(listener.socket.number) }
        listeners = []
        for connection in Array(connections.values) { connection.close() }
    }

    private func accept(_ listener: Listener) {
        guard let socket = try? UnixSocket.accept(listener.socket) else { return }
        guard connections.count < Self.maximumConnections else {
            log.warning("qubesd: too many connections; one is refused")
            return
        }
        let connection = QubesdConnection(
            server: self, socket: socket, allowsInternal: listener.allowsInternal)
        connections[ObjectIdentifier(connection)] = connection
        connection.begin()
    }

    func forget(_ connection: QubesdConnection) {
        connections[ObjectIdentifier(connection)] = nil
    }

    private func tell(_ event: QubeEvent) {
        for connection in Array(connections.values) { connection.tell(event) }
    }

    /// The qube that a destination names.
    func qube(_ destination: String) throws(QubesdError) -> QubeRecord {
        let found =
            if destination.hasPrefix("uuid:") {
                manager.qubes.first { $0.uuid == destination.dropFirst(5) }
            } else if destination == "adminvm" {
                manager.qubes.first { $0.type == .admin }
            } else {
                manager.qubes.first { $0.name == destination }
            }
        guard let found else { throw .noSuchQube(destination) }
        return found
    }
}

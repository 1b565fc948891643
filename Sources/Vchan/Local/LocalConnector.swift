import LinuxSystem
import SystemPackage

/// A client on its way to a server that may not exist yet: it waits for changes of the directory in
/// which the server will appear, never by trying again and again.
struct LocalConnector: ~Copyable {
    private let directory: String
    /// The server's socket, in the directory.
    private let entry: String
    private let server: DomainID
    private var isAdopted = false
    private var changes: DirectoryWatch?
    private var connection: Descriptor?
    /// The directory's changes, then the connection: readable when there is something to do.
    private(set) var pollDescriptor: Int32 = -1

    init(directory: String, server: DomainID, port: Port) throws(VchanError) {
        self.directory = directory
        self.server = server
        entry = "\(port).sock"
        try reach()
    }

    /// With a connection that another process has made; there is no second try.
    init(adopting connection: consuming Descriptor, server: DomainID) {
        directory = ""
        self.server = server
        entry = ""
        isAdopted = true
        pollDescriptor = connection.number
        self.connection = consume connection
    }

    var isConnected: Bool { connection != nil }
    private var path: String { "\(directory)/\(entry)" }

    /// The connection, for another process to adopt; nil while there is no server.
    mutating func takeConnection() throws(VchanError) -> Descriptor? {
        if connection == nil { try reachAfterChange() }
        return connection.take()
    }

    /// Others' sockets come and go in the same directory.
    private mutating func reachAfterChange() throws(VchanError) {
        if changes?.hasChanged(entry) ?? true { try reach() }
    }

    /// Connects, or sees to it that a change wakes us. The second try after the watch is there
    /// finds the server that came in between.
    private mutating func reach() throws(VchanError) {
        if try connect() { return }
        if changes == nil {
            do throws(Errno) {
                let changes = try DirectoryWatch(directory)
                pollDescriptor = changes.number
                self.changes = consume changes
            } catch .noSuchFileOrDirectory {
                throw .unknownPeer(server, path: directory, .noSuchFileOrDirectory)
            } catch {
                throw .system(call: "watch \(directory)", error)
            }
            _ = try connect()
        }
    }

    /// - Returns: false while there is no server: no file, a dead server's file, or one whose only
    ///   client is somebody else.
    private mutating func connect() throws(VchanError) -> Bool {
        // Mostly it is not there yet, and to look is cheaper than to try.
        guard PathStatus.exists(path) else { return false }
        do throws(Errno) {
            let socket = try UnixSocket.connect(path, .sequencedPacket)
            pollDescriptor = socket.number
            connection = consume socket
            return true
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .connectionRefused, .resourceTemporarilyUnavailable:
                return false
            default: throw .system(call: "connect to \(path)", error)
            }
        }
    }

    /// One step; the caller comes back when the descriptor is readable.
    ///
    /// - Parameter link: the connection, from then on the link for notifications.
    /// - Returns: the server's memory once it has accepted.
    mutating func advance(link: inout EventLink) throws(VchanError) -> SharedMemory? {
        guard connection != nil else {
            try reachAfterChange()
            return nil
        }
        switch try LocalOffer.receive(from: connection!) {
        case .nothingYet: return nil
        case .hangUp:
            if isAdopted { throw .closed(peerDied: true) }
            // It served another client or died: the next server on this port is as good.
            connection = nil
            pollDescriptor = changes?.number ?? -1
            try reach()
            return nil
        case .offer(let offer):
            let memory = try SharedMemory(offered: offer.memory)
            link = EventLink(socket: connection.take()!)
            return memory
        }
    }
}

public import LinuxSystem

/// Channels of a process that may open nothing itself: another one finds the server and hands over
/// the connection, of which the confined process makes its channel.
extension Transport {
    /// The name under which `adopt` knows the connections of this transport.
    ///
    /// - Throws: `transportUnavailable` for one whose channels cannot be handed over.
    public var handoverName: String {
        get throws(VchanError) {
            switch backend {
            case .local: "local"
            case .stream: "socket"
            case .xen: throw .transportUnavailable("xen", reason: Self.notHandedOver)
            case .library: throw .transportUnavailable("libxenvchan", reason: Self.notHandedOver)
            }
        }
    }

    private static let notHandedOver =
        "its channels cannot be handed to a confined process; start qrexec-daemon without the starter"

    /// Begins to connect to a server for another process.
    public func open(to peer: DomainID, port: Port) throws(VchanError) -> ChannelOpening {
        switch backend {
        case .local(let places):
            let directory = try places.offers(from: peer)
            return ChannelOpening(
                way: .local(try LocalConnector(directory: directory, server: peer, port: port)))
        case .stream(let places):
            let path = places.path(server: peer, client: places.own, port: port)
            return ChannelOpening(way: .stream(try .start(directory: places.directory, path: path)))
        case .xen: throw .transportUnavailable("xen", reason: Self.notHandedOver)
        case .library: throw .transportUnavailable("libxenvchan", reason: Self.notHandedOver)
        }
    }

    /// The client's channel over a connection that was handed over.
    ///
    /// - Parameters:
    ///   - name: the transport, by its `handoverName`.
    ///   - server: who offers the channel.
    public static func adopt(
        _ connection: consuming Descriptor, transport name: String, server: DomainID
    ) throws(VchanError) -> Channel {
        switch name {
        case "local":
            let descriptor = connection.number
            return Channel(
                client: .localClient(LocalConnector(adopting: connection, server: server)),
                descriptor: descriptor)
        case "socket":
            let size = RingSize(atLeast: streamClientRing)!
            return Channel(
                connector: try .adopting(connection), memory: PrivateMemory(read: size, write: size)
            )
        default: throw .unknownTransport(name)
        }
    }
}

/// The way to a server for another process: waits until the server exists.
public struct ChannelOpening: ~Copyable {
    enum Way: ~Copyable {
        case local(LocalConnector)
        case stream(StreamConnector)
        case done
    }

    private var way: Way

    init(way: consuming Way) {
        self.way = way
        pollDescriptor = Self.pollDescriptor(of: self.way)
    }

    /// To be watched for readability between two calls of `advance`; -1 when the next one gives
    /// the connection at once.
    public private(set) var pollDescriptor: Int32

    private static func pollDescriptor(of way: borrowing Way) -> Int32 {
        switch way {
        case .local(let connector): connector.isConnected ? -1 : connector.pollDescriptor
        case .stream(let connector): connector.pollDescriptor
        case .done: -1
        }
    }

    /// One step; never waits.
    ///
    /// - Returns: the connection once there is one; there is nothing to be done after that.
    public mutating func advance() throws(VchanError) -> Descriptor? {
        var taken = Way.done
        swap(&taken, &way)
        var connection: Descriptor?
        switch consume taken {
        case .local(var connector):
            connection = try connector.takeConnection()
            way = .local(connector)
        case .stream(var connector):
            connection = try connector.reach()
            way = .stream(connector)
        case .done: break
        }
        pollDescriptor = Self.pollDescriptor(of: way)
        return connection
    }
}

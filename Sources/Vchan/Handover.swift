public import LinuxSystem

/// Channels of a process that may open nothing itself: another one finds the server and hands over
/// what the confined process makes its channel of.
extension Transport {
    /// Whether its channels can be handed over. The C library opens by itself what it works on.
    public var handsOver: Bool {
        if case .library = backend { return false }
        return true
    }

    /// Begins to connect to a server for another process.
    ///
    /// - Throws: `transportUnavailable` for a transport whose channels cannot be handed over.
    public func open(to peer: DomainID, port: Port) throws(VchanError) -> ChannelOpening {
        switch backend {
        case .local(let places):
            let directory = try places.offers(from: peer)
            return ChannelOpening(
                way: .local(try LocalConnector(directory: directory, server: peer, port: port)))
        case .stream(let places):
            let path = places.path(server: peer, client: places.own, port: port)
            return ChannelOpening(way: .stream(try .start(directory: places.directory, path: path)))
        case .xen: return ChannelOpening(way: .xen(try XenConnector(peer: peer, port: port)))
        case .library:
            throw .transportUnavailable(
                "libxenvchan",
                reason: "its channels cannot be handed to a confined process; use "
                    + "QREXEC_VCHAN=xen, or start qrexec-daemon without the starter")
        }
    }

    /// The client's channel of what was handed over.
    ///
    /// - Parameter server: who offers the channel.
    public static func adopt(
        _ handed: consuming HandedChannel, server: DomainID
    ) throws(VchanError) -> Channel {
        let transport = handed.transport
        let numbers = handed.numbers
        var second = handed.takeSecond()
        var third = handed.takeThird()
        let first = handed.takeFirst()
        switch transport {
        case LocalConnector.handoverName where second == nil:
            let descriptor = first.number
            return Channel(
                client: .localClient(LocalConnector(adopting: first, server: server)),
                descriptor: descriptor)
        case StreamConnector.handoverName where second == nil:
            let size = RingSize(atLeast: streamClientRing)!
            return Channel(
                connector: try .adopting(first), memory: PrivateMemory(read: size, write: size))
        case XenHandover.name:
            guard let grants = second.take(), let lifeline = third.take() else {
                throw .badOffer("a channel of Xen without its memory")
            }
            return try XenHandover.adopt(
                first, grants, lifeline: lifeline, numbers, server: server)
        default: throw .unknownTransport(transport)
        }
    }
}

extension LocalConnector {
    static let handoverName = "local"
}

extension StreamConnector {
    static let handoverName = "socket"
}

/// What one process hands to another to make a channel of it: descriptors, and numbers that say what
/// they are good for.
public struct HandedChannel: ~Copyable {
    public static let maximumDescriptors = 3

    public let transport: String
    public let numbers: [UInt64]
    private let first: Descriptor
    private var second: Descriptor?
    private var third: Descriptor?
    private let keeping: XenKeeping?

    public init(
        transport: String, _ first: consuming Descriptor, second: consuming Descriptor? = nil,
        third: consuming Descriptor? = nil, numbers: [UInt64] = []
    ) {
        self.init(
            transport: transport, first, second: second, third: third, numbers: numbers,
            keeping: nil)
    }

    init(
        transport: String, _ first: consuming Descriptor, second: consuming Descriptor?,
        third: consuming Descriptor?, numbers: [UInt64], keeping: XenKeeping?
    ) {
        self.transport = transport
        self.numbers = numbers
        self.first = first
        self.second = second
        self.third = third
        self.keeping = keeping
    }

    /// Whether it is a byte stream between processes.
    public var isByteStream: Bool { transport == StreamConnector.handoverName }

    /// What the process that hands it over has to keep until the channel's end; nil where there is
    /// nothing.
    public var keeper: ChannelKeeper? { keeping.map { ChannelKeeper($0) } }

    /// To be taken before the first one.
    public mutating func takeSecond() -> Descriptor? { second.take() }
    public mutating func takeThird() -> Descriptor? { third.take() }

    public consuming func takeFirst() -> Descriptor { first }
}

/// Keeps a channel alive that was handed over: when this is let go the server sees its client gone.
public struct ChannelKeeper {
    private let keeping: XenKeeping

    init(_ keeping: XenKeeping) { self.keeping = keeping }

    /// Hangs up when the other process has closed the channel, or died: then it is to be let go.
    public var pollDescriptor: Int32 { keeping.end.number }
}

/// The way to a server for another process: waits until the server exists.
public struct ChannelOpening: ~Copyable {
    enum Way: ~Copyable {
        case local(LocalConnector)
        case stream(StreamConnector)
        case xen(XenConnector)
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
        case .xen(let connector): connector.pollDescriptor
        case .done: -1
        }
    }

    /// One step; never waits.
    ///
    /// - Returns: what is handed over once there is a server; nothing is to be done after that.
    public mutating func advance() throws(VchanError) -> HandedChannel? {
        var taken = Way.done
        swap(&taken, &way)
        var handed: HandedChannel?
        switch consume taken {
        case .local(var connector):
            if let connection = try connector.takeConnection() {
                handed = HandedChannel(transport: LocalConnector.handoverName, connection)
            }
            way = .local(connector)
        case .stream(var connector):
            if let connection = try connector.reach() {
                handed = HandedChannel(transport: StreamConnector.handoverName, connection)
            }
            way = .stream(connector)
        case .xen(var connector):
            handed = try connector.handOver()
            way = .xen(connector)
        case .done: break
        }
        pollDescriptor = Self.pollDescriptor(of: way)
        return handed
    }
}

/// Tells when domains end, for those to whom it cannot be shown otherwise: a confined process has no
/// connection to the store.
public struct DomainWatch: ~Copyable {
    private let waiter: XenWaiter

    init() throws(VchanError) { waiter = try .make() }

    /// Readable when `hasNews` is to be asked.
    public var pollDescriptor: Int32 { waiter.number }

    /// Whether a domain may have ended since the last time.
    public func hasNews() -> Bool { waiter.reasons().contains(.news) }

    public func isAlive(_ domain: DomainID) -> Bool { waiter.store.isAlive(domain) }
}

extension Transport {
    /// nil where the end of a domain is the end of its connections.
    public func domainWatch() throws(VchanError) -> DomainWatch? {
        guard case .xen = backend else { return nil }
        return try DomainWatch()
    }
}

import Glibc
import LinuxSystem

/// A way to reach other domains. Which one is decided once, in `selected`; everything behind a
/// channel is the same from there on.
public struct Transport: Sendable {
    enum Backend: Sendable {
        case local(LocalPlaces)
        case stream(StreamPlaces)
        case xen
        case library
    }

    let backend: Backend

    /// The transport of this machine: the option if there is one, else `QREXEC_VCHAN` (ignored in
    /// programs that run with more rights than their caller), else Xen where `/dev/xen` or
    /// `/proc/xen` exists, else the lab where `/run/xen-local` exists. What was chosen and does not
    /// work is an error; another one is never tried in its place.
    ///
    /// - Parameter option: `xen`, `libxenvchan`, `local` or `socket`, from the command line.
    public static func selected(option: String? = nil) throws(VchanError) -> Transport {
        if let name = option ?? CurrentProcess.variable("QREXEC_VCHAN") { return try named(name) }
        if exists("/dev/xen") || exists("/proc/xen") { return try named("xen") }
        if exists(labRoot) { return local(root: labRoot) }
        throw .noTransport
    }

    private static func named(_ name: String) throws(VchanError) -> Transport {
        switch name {
        case "local":
            guard exists(labRoot) else {
                throw .transportUnavailable(name, reason: "\(labRoot) does not exist here")
            }
            return local(root: labRoot)
        case "socket": return try socket(directory: nil, ownDomainOrVariable: nil)
        case "xen":
            guard exists("/dev/xen") || exists("/proc/xen") else {
                throw .transportUnavailable(
                    name,
                    reason: "there is neither /dev/xen nor /proc/xen: this is no Xen domain")
            }
            return .xen
        case "libxenvchan":
            _ = try VchanLibrary.ofThisMachine()
            return Transport(backend: .library)
        default: throw .unknownTransport(name)
        }
    }

    /// The vchans of the hypervisor.
    public static let xen = Transport(backend: .xen)

    /// Where a qube of a lab finds its transport.
    public static let labRoot = "/run/xen-local"

    // SAFETY: a C string that outlives the call.
    private static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

    /// The local transport as a domain sees it, below another root than `/run/xen-local`.
    public static func local(root: String) -> Transport {
        Transport(backend: .local(.sandbox(root: root)))
    }

    /// The local transport for a program outside the sandboxes; missing directories are made.
    ///
    /// - Parameters:
    ///   - state: a lab's state directory, or any directory that the domains of a test share.
    ///   - ownDomain: whom this program acts for.
    public static func local(state: String, ownDomain: DomainID) -> Transport {
        Transport(backend: .local(.state(state, own: ownDomain)))
    }

    /// Byte-stream sockets in a directory that the domains share (protocol 4), as for
    /// `VCHAN_SOCKET_DIR` and `VCHAN_DOMAIN`. The number is only claimed: for tests.
    public static func socket(directory: String, ownDomain: DomainID) -> Transport {
        Transport(backend: .stream(StreamPlaces(directory: directory, own: ownDomain)))
    }

    /// The same where not all is given: the rest comes from `VCHAN_SOCKET_DIR` (else
    /// `/var/run/vchan`) and `VCHAN_DOMAIN` (else 0).
    public static func socket(
        directory: String?, ownDomainOrVariable own: DomainID?
    ) throws(VchanError) -> Transport {
        let rest = try StreamPlaces.fromEnvironment(directory: directory, own: own)
        return Transport(backend: .stream(rest))
    }

    /// The number of the domain this program runs in.
    public var ownDomain: DomainID {
        get throws(VchanError) {
            switch backend {
            case .local(let places): try places.ownDomain()
            case .stream(let places): places.own
            case .xen: try XenStore.ofThisProcess().ownDomain()
            case .library: try VchanLibrary.ofThisMachine().ownDomain()
            }
        }
    }

    /// Whether channels are byte streams between processes: no ring's size bounds what their peers
    /// take in one piece.
    public var isByteStream: Bool {
        if case .stream = backend { return true }
        return false
    }

    /// Offers a channel to one other domain; returns at once, the channel waits for its client.
    ///
    /// - Parameters:
    ///   - read: the least size of the ring that this side reads.
    ///   - write: the least size of the ring that this side writes.
    public func listen(
        for peer: DomainID, port: Port, read: RingSize, write: RingSize
    ) throws(VchanError) -> Channel {
        try listen(for: peer, port: port, memory: memory(read: read, write: write))
    }

    /// Makes beforehand what can be made of a channel that this side will offer.
    ///
    /// - Parameters:
    ///   - read: the least size of the ring that this side reads.
    ///   - write: the least size of the ring that this side writes.
    public func memory(read: RingSize, write: RingSize) throws(VchanError) -> ChannelMemory {
        guard case .local = backend else { return ChannelMemory(read: read, write: write) }
        return try ChannelMemory(orders: RingOrders(read: read, write: write))
    }

    /// Offers a channel to one other domain; returns at once, the channel waits for its client.
    ///
    /// - Parameter memory: of this transport.
    public func listen(
        for peer: DomainID, port: Port, memory: consuming ChannelMemory
    ) throws(VchanError) -> Channel {
        let (read, write) = (memory.read, memory.write)
        switch backend {
        case .local(let places):
            guard let shared = memory.shared.take(), let file = memory.file.take() else {
                throw .badOffer("memory of another transport")
            }
            let directory = try places.offers(to: peer)
            let listener = try LocalListener(directory: directory, client: peer, port: port)
            let descriptor = listener.socket.number
            return Channel(
                server: .localServer(listener, file: file), descriptor: descriptor,
                memory: shared)
        case .stream(let places):
            let path = places.path(server: places.own, client: peer, port: port)
            return Channel(
                listener: try StreamListener(path: path),
                memory: PrivateMemory(read: read, write: write))
        case .xen:
            let orders = RingOrders(read: read, write: write)
            return try listenOverXen(for: peer, port: port, orders: orders)
        case .library:
            return Channel(
                library: try LibraryConnector(for: peer, port: port, read: read, write: write),
                role: .server, memory: PrivateMemory(read: read, write: write))
        }
    }

    private func listenOverXen(
        for peer: DomainID, port: Port, orders: RingOrders
    ) throws(VchanError) -> Channel {
        let own = try ownDomain
        guard own != peer else { throw .ownDomain(own) }
        let events = try XenEventChannel.unbound(for: peer)
        var reference: UInt32 = 0
        let pages = try XenPages.share(
            with: peer, orders: orders, events: events, reference: &reference)
        let memory = SharedMemory(pages: pages, orders: orders)
        let listener = try XenListener.start(
            peer: peer, port: port, events: events, ringReference: reference)
        let descriptor = listener.pollDescriptor
        return Channel(server: .xenServer(listener), descriptor: descriptor, memory: memory)
    }

    /// Joins a channel that another domain offers to this one; returns at once, the channel waits
    /// until the server exists and has answered.
    public func connect(to peer: DomainID, port: Port) throws(VchanError) -> Channel {
        switch backend {
        case .local(let places):
            let directory = try places.offers(from: peer)
            let connector = try LocalConnector(directory: directory, server: peer, port: port)
            let descriptor = connector.pollDescriptor
            return Channel(client: .localClient(connector), descriptor: descriptor)
        case .stream(let places):
            let path = places.path(server: peer, client: places.own, port: port)
            let size = RingSize(atLeast: Self.streamClientRing)!
            return Channel(
                connector: try .start(directory: places.directory, path: path),
                memory: PrivateMemory(read: size, write: size))
        case .xen:
            let connector = try XenConnector(peer: peer, port: port)
            let descriptor = connector.pollDescriptor
            return Channel(client: .xenClient(connector), descriptor: descriptor)
        case .library:
            let size = RingSize(atLeast: Self.streamClientRing)!
            return Channel(
                library: try LibraryConnector(to: peer, port: port), role: .client,
                memory: PrivateMemory(read: size, write: size))
        }
    }

    /// A byte stream tells its client no sizes: room for the largest data message.
    static let streamClientRing = 128 << 10
}

/// What of a server's channel does not depend on its peer; given back with the value.
public struct ChannelMemory: ~Copyable {
    fileprivate let read: RingSize
    fileprivate let write: RingSize
    /// The local transport's; others make theirs for one peer, or for themselves.
    fileprivate var shared: SharedMemory?
    fileprivate var file: Descriptor?

    fileprivate init(read: RingSize, write: RingSize) {
        self.read = read
        self.write = write
    }

    /// Zeroed rings in shared memory.
    ///
    /// - Parameter firstIndex: where the ring indices begin; tests start them before the wrap.
    init(orders: RingOrders, firstIndex: UInt32 = 0) throws(VchanError) {
        // Orders have legal sizes.
        read = RingSize(atLeast: orders.leftSize)!
        write = RingSize(atLeast: orders.rightSize)!
        shared = try SharedMemory.create(orders: orders, descriptor: &file)
        let first = LocalOffer.firstReference + 1
        shared?.controlPage(.server).initialize(
            orders: orders,
            references: first..<(first + UInt32(orders.leftPages + orders.rightPages)),
            firstIndex: firstIndex)
    }
}

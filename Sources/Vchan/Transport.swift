import Glibc
import LinuxSystem

/// A way to reach other domains. Which one is decided once, in `selected`; everything behind a
/// channel is the same from there on.
public struct Transport: Sendable {
    let places: LocalPlaces

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
        case "xen", "libxenvchan", "socket":
            throw .transportUnavailable(name, reason: "it is not part of this build")
        default: throw .unknownTransport(name)
        }
    }

    /// Where a qube of a lab finds its transport.
    public static let labRoot = "/run/xen-local"

    // SAFETY: a C string that outlives the call.
    private static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

    /// The local transport as a domain sees it, below another root than `/run/xen-local`.
    public static func local(root: String) -> Transport {
        Transport(places: .sandbox(root: root))
    }

    /// The local transport for a program outside the sandboxes; missing directories are made.
    ///
    /// - Parameters:
    ///   - state: a lab's state directory, or any directory that the domains of a test share.
    ///   - ownDomain: whom this program acts for.
    public static func local(state: String, ownDomain: DomainID) -> Transport {
        Transport(places: .state(state, own: ownDomain))
    }

    /// The number of the domain this program runs in.
    public var ownDomain: DomainID {
        get throws(VchanError) { try places.ownDomain() }
    }

    /// Offers a channel to one other domain; returns at once, the channel waits for its client.
    ///
    /// - Parameters:
    ///   - read: the least size of the ring that this side reads.
    ///   - write: the least size of the ring that this side writes.
    public func listen(
        for peer: DomainID, port: Port, read: RingSize, write: RingSize
    ) throws(VchanError) -> Channel {
        try listen(for: peer, port: port, orders: RingOrders(read: read, write: write))
    }

    /// - Parameter firstIndex: where the ring indices begin; tests start them before the wrap.
    func listen(
        for peer: DomainID, port: Port, orders: RingOrders, firstIndex: UInt32 = 0
    ) throws(VchanError) -> Channel {
        let directory = try places.offers(to: peer)
        let listener = try LocalListener(directory: directory, client: peer, port: port)
        var file: Descriptor?
        let memory = try SharedMemory.create(orders: orders, descriptor: &file)
        let first = LocalOffer.firstReference + 1
        memory.controlPage(.server).initialize(
            orders: orders,
            references: first..<(first + UInt32(orders.leftPages + orders.rightPages)),
            firstIndex: firstIndex)
        return Channel(listener: listener, memory: memory, file: file.take()!)
    }

    /// Joins a channel that another domain offers to this one; returns at once, the channel waits
    /// until the server exists and has answered.
    public func connect(to peer: DomainID, port: Port) throws(VchanError) -> Channel {
        let directory = try places.offers(from: peer)
        return Channel(
            connector: try LocalConnector(directory: directory, server: peer, port: port))
    }
}

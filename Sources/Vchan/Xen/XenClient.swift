import CXen
import LinuxSystem
import SystemPackage

/// A watch in the store; ends with this value.
struct XenWatch: ~Copyable {
    private let store: XenStore
    private let path: String
    private let listener: UInt64

    init(_ waiter: borrowing XenWaiter, _ path: String) throws(VchanError) {
        store = waiter.store
        self.path = path
        listener = waiter.listener
        try store.watch(path, listener)
    }

    deinit { store.unwatch(path, listener) }
}

/// A watch of a peer's sign of life, which all channels to it share; ends with this value.
struct XenPresenceWatch: ~Copyable {
    private let store: XenStore
    private let path: String

    init(_ store: XenStore, _ path: String) throws(VchanError) {
        self.store = store
        self.path = path
        try store.follow(path)
    }

    deinit { store.unfollow(path) }
}

/// A client on its way to a server that may not exist yet: it waits for changes of the server's
/// entries in the store, never by trying again and again.
struct XenConnector: ~Copyable {
    private let peer: DomainID
    private let port: Port
    /// Changes when this domain was moved to another machine.
    private var own: DomainID
    private let waiter: XenWaiter
    private var watch: XenWatch
    let pollDescriptor: Int32

    init(peer: DomainID, port: Port) throws(VchanError) {
        let waiter = try XenWaiter.make()
        let own = try waiter.store.ownDomain()
        guard own != peer else { throw .ownDomain(own) }
        try waiter.store.watchOwnNumber()
        try waiter.store.showPresence(to: peer)
        // The store tells of a new watch at once, which makes the first try.
        let directory = Self.directory(server: peer, client: own, port)
        watch = try XenWatch(waiter, directory + "/event-channel")
        self.peer = peer
        self.port = port
        self.own = own
        pollDescriptor = waiter.number
        self.waiter = waiter
    }

    private static func directory(server: DomainID, client: DomainID, _ port: Port) -> String {
        "/local/domain/\(server)/data/vchan/\(client)/\(port)"
    }

    /// One step; the caller comes back when the descriptor is readable.
    ///
    /// - Returns: the ends of the channel when there is a server: `joined` is next.
    mutating func advance() throws(VchanError) -> XenEnds? {
        guard let offer = try look() else { return nil }
        return try Self.join(peer, offer)
    }

    /// The same step on behalf of another process.
    mutating func handOver() throws(VchanError) -> HandedChannel? {
        guard let offer = try look() else { return nil }
        return try XenHandover.prepare(peer, offer)
    }

    /// - Returns: what a server offers, if there is one and something has changed.
    private mutating func look() throws(VchanError) -> XenOffer? {
        guard waiter.reasons().contains(.news) else { return nil }
        let now = try waiter.store.ownDomain()
        let directory = Self.directory(server: peer, client: now, port)
        if now != own {
            own = now
            watch = try XenWatch(waiter, directory + "/event-channel")
        }
        guard let offer = try findOffer(directory) else {
            if waiter.store.isAlive(peer) { return nil }
            throw .unknownPeer(peer, path: directory, .noSuchProcess)
        }
        return offer
    }

    /// Ends the waiting.
    ///
    /// - Parameter link: from then on the link for notifications.
    /// - Returns: the server's memory.
    consuming func joined(
        _ ends: consuming XenEnds, link: inout EventLink
    ) throws(VchanError) -> SharedMemory {
        try waiter.watch(ends.events)
        return ends.link(waiter, peer, &link)
    }

    /// Both entries of one server: the first one read once more after the second shows that no other
    /// server came in between.
    private func findOffer(_ directory: String) throws(VchanError) -> XenOffer? {
        let store = waiter.store
        while true {
            guard let event = try store.read("\(directory)/event-channel"), !event.isEmpty,
                let ring = try store.read("\(directory)/ring-ref")
            else { return nil }
            guard try store.read("\(directory)/event-channel") == event else { continue }
            guard let event = parseDecimal(event[...], maximum: .max), event != 0,
                let ring = parseDecimal(ring[...], maximum: .max), ring != 0
            else {
                throw .badOffer(
                    "expected numbers from 1 to 4294967295 in \(directory)/ring-ref and "
                        + "event-channel")
            }
            return XenOffer(ringReference: ring, eventChannel: event)
        }
    }

    /// - Returns: nil when the entries are those of a server that is gone.
    private static func join(
        _ peer: DomainID, _ offer: XenOffer
    ) throws(VchanError) -> XenEnds? {
        let events: XenEventChannel
        do throws(VchanError) {
            events = try .joining(offer.eventChannel, of: peer)
        } catch .system {
            return nil
        }
        var orders: RingOrders?
        let pages = try XenPages.map(
            of: peer, reference: offer.ringReference, events: events, orders: &orders)
        return XenEnds(memory: SharedMemory(pages: pages, orders: orders!), events: events)
    }
}

/// What a client gets by joining: the server's memory, and the event channel to it.
struct XenEnds: ~Copyable {
    fileprivate let memory: SharedMemory
    fileprivate let events: XenEventChannel

    fileprivate consuming func link(
        _ waiter: consuming XenWaiter, _ peer: DomainID, _ link: inout EventLink
    ) -> SharedMemory {
        link = EventLink(xen: XenLink(events: events, waiter: waiter, peer: peer))
        return memory
    }
}

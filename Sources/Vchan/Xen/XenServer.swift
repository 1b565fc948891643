import LinuxSystem
import SystemPackage

/// What a client needs to know of a server (protocol 1.7).
struct XenOffer: Equatable {
    let ringReference: UInt32
    let eventChannel: UInt32
}

/// A server's two entries in the store; removed with this value, so that nobody can come a second
/// time.
struct XenEntries: ~Copyable {
    private let store: XenStore
    private let peer: DomainID
    private let port: Port
    private let offer: XenOffer
    private(set) var isPublished = false

    init(store: XenStore, peer: DomainID, port: Port, offer: XenOffer) {
        self.store = store
        self.peer = peer
        self.port = port
        self.offer = offer
    }

    var directory: String { "data/vchan/\(peer)/\(port)" }

    /// Shows both entries, without a transaction: a client looks for the second one first, and it
    /// becomes readable last. Left-overs of a dead server are removed before.
    ///
    /// - Returns: false when a quota is full: other calls begin and end, there may be room soon.
    mutating func publish() throws(VchanError) -> Bool {
        let own = try store.ownDomain()
        try store.showPresence(to: peer)
        do throws(Errno) {
            store.remove(directory)
            try store.write(
                "\(directory)/ring-ref", "\(offer.ringReference)", own: own, reader: peer)
            try store.write(
                "\(directory)/event-channel", "\(offer.eventChannel)", own: own, reader: peer)
            isPublished = true
        } catch {
            switch error {
            case .resourceTemporarilyUnavailable, .resourceBusy, .noSpace, .diskQuotaExceeded:
                store.remove(directory)
                store.removePresences(above: 0)
            default: throw .xen("write \(directory) in xenstore", error, full: nil)
            }
        }
        return isPublished
    }

    /// Not those of another server that was started on this port meanwhile.
    deinit {
        guard isPublished,
            let entry = try? store.read("data/vchan/\(peer)/\(port)/event-channel"),
            entry == "\(offer.eventChannel)"
        else { return }
        store.remove("data/vchan/\(peer)/\(port)")
        store.removeIfEmpty("data/vchan/\(peer)")
    }
}

/// A server's side while it waits for its client: its entries, and what tells it of the client's
/// coming and of the peer domain's end.
struct XenListener: ~Copyable {
    private let peer: DomainID
    private let events: XenEventChannel
    private var waiter: XenWaiter
    private var entries: XenEntries
    private var pause = 10_000_000
    private let deadline: UInt64

    private static let patience: UInt64 = 10_000_000_000
    private static let longestPause = 500_000_000

    var pollDescriptor: Int32 { waiter.number }

    private init(
        peer: DomainID, events: consuming XenEventChannel, waiter: consuming XenWaiter,
        entries: consuming XenEntries
    ) {
        self.peer = peer
        self.events = events
        self.waiter = waiter
        self.entries = entries
        deadline = CurrentProcess.now + Self.patience
    }

    static func start(
        peer: DomainID, port: Port, events: consuming XenEventChannel, ringReference: UInt32
    ) throws(VchanError) -> XenListener {
        let waiter = try XenWaiter.make()
        try waiter.watch(events)
        let offer = XenOffer(ringReference: ringReference, eventChannel: events.port)
        let entries = XenEntries(store: waiter.store, peer: peer, port: port, offer: offer)
        var listener = XenListener(peer: peer, events: events, waiter: waiter, entries: entries)
        try listener.publish()
        return listener
    }

    private mutating func publish() throws(VchanError) {
        if try entries.publish() { return }
        guard CurrentProcess.now < deadline else { throw .limit(.storeEntries, .noSpace) }
        try waiter.comeBack(in: pause)
        pause = min(pause * 2, Self.longestPause)
    }

    /// One step.
    ///
    /// - Returns: whether the client has joined: `joined` is next.
    mutating func advance(_ page: ControlPage) throws(VchanError) -> Bool {
        let reasons = waiter.reasons()
        if reasons.contains(.event) { events.take() }
        if !entries.isPublished, reasons.contains(.again) { try publish() }
        // Value 2 is no client yet; 0 is one that came and went.
        if page.loadPeerLive() != 2 { return true }
        if reasons.contains(.news), !waiter.store.isAlive(peer) {
            throw .unknownPeer(peer, path: entries.directory, .noSuchProcess)
        }
        return false
    }

    /// Takes the entries away.
    consuming func joined() -> XenLink {
        XenLink(events: events, waiter: waiter, peer: peer)
    }
}

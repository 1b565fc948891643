import Synchronization

/// Which end of a channel this is.
enum Role {
    case server, client
}

/// The words of the shared control page (protocol 1.1), each by one atomic access.
///
/// The peer can write every byte here at any moment, so nothing is believed: own words are stored
/// and never read back, the peer's are loaded once for each use.
@safe
struct ControlPage {
    private let base: UnsafeMutableRawPointer
    /// Where the indices of the ring begin that this side reads, and of the one that it writes:
    /// the consumer's, then the producer's.
    private let read: Int
    private let write: Int
    /// 0 for the client, 1 for the server: the order of the live and the notify bytes.
    private let side: Int

    /// - Parameter base: a mapped page that outlives this value.
    init(base: UnsafeMutableRawPointer, role: Role) {
        unsafe self.base = base
        (read, write, side) = role == .server ? (0, 8, 1) : (8, 0, 0)
    }

    // Offsets (protocol 1.1), by who reads and writes a ring at this end.
    private var ownConsumer: Int { read }
    private var peerProducer: Int { read + 4 }
    private var peerConsumer: Int { write }
    private var ownProducer: Int { write + 4 }
    private var peerLive: Int { 21 - side }
    private var ownLive: Int { 20 + side }
    /// The notify byte that this side sets to ask the peer, and the one that it tests.
    private var peerNotify: Int { 23 - side }
    private var ownNotify: Int { 22 + side }

    // SAFETY (all accesses below): the offsets are constants inside the mapped page, aligned to
    // their size; Atomic has the layout of its integer; the peer accesses the words atomically too.
    private func word(_ offset: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    private func byte(_ offset: Int) -> UnsafeMutablePointer<Atomic<UInt8>> {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt8>.self)
    }

    /// How far the peer has produced. Pairs with the peer's `publishProduced`; sequentially
    /// consistent because after `ask` it must not be loaded before the bit is visible.
    func loadPeerProduced() -> UInt32 {
        unsafe word(peerProducer).pointee.load(ordering: .sequentiallyConsistent)
    }

    /// How far the peer has consumed. Pairs with the peer's `publishConsumed`, see above.
    func loadPeerConsumed() -> UInt32 {
        unsafe word(peerConsumer).pointee.load(ordering: .sequentiallyConsistent)
    }

    /// Makes what was written visible. Sequentially consistent: the store must be visible before
    /// `takeAsked` looks at the notify byte, or a wake-up is lost; pairs with `ask` of the peer.
    func publishProduced(_ index: UInt32) {
        unsafe word(ownProducer).pointee.store(index, ordering: .sequentiallyConsistent)
    }

    /// Gives room back to the peer; the ordering is that of `publishProduced`.
    func publishConsumed(_ index: UInt32) {
        unsafe word(ownConsumer).pointee.store(index, ordering: .sequentiallyConsistent)
    }

    /// The same without a fence of its own, for a caller that publishes what it produced next: that
    /// store comes after this one and before every later load, on processors that keep the order
    /// of release stores (x86, ARMv8).
    func storeConsumed(_ index: UInt32) {
        unsafe word(ownConsumer).pointee.store(index, ordering: .releasing)
    }

    /// Own indices at set-up, the only time they are read: a client starts where the page says.
    func initialIndices() -> (consumed: UInt32, produced: UInt32) {
        (
            unsafe word(ownConsumer).pointee.load(ordering: .relaxed),
            unsafe word(ownProducer).pointee.load(ordering: .relaxed)
        )
    }

    /// Asks the peer for a notification; the caller looks at the index again before it sleeps.
    func ask(_ notification: Notification) {
        _ = unsafe byte(peerNotify).pointee.bitwiseOr(
            notification.rawValue, ordering: .sequentiallyConsistent)
    }

    /// Takes back what was asked for; a notification may be under way all the same.
    func withdraw(_ notification: Notification) {
        _ = unsafe byte(peerNotify).pointee.bitwiseAnd(
            ~notification.rawValue, ordering: .sequentiallyConsistent)
    }

    /// Whether the peer asked for one of these; the bits are cleared, unknown ones left alone. A
    /// locked operation: to be made only when `isAsked` has seen a bit.
    func takeAsked(_ notification: Notification) -> Bool {
        let mask = notification.rawValue
        let before = unsafe byte(ownNotify).pointee.bitwiseAnd(
            ~mask, ordering: .sequentiallyConsistent
        ).oldValue
        return before & mask != 0
    }

    /// Whether the peer has set one of these bits, which stay as they are. After `publish…`: the load
    /// must not be made before the index is visible.
    func isAsked(_ notification: Notification) -> Bool {
        let seen = unsafe byte(ownNotify).pointee.load(ordering: .sequentiallyConsistent)
        return seen & notification.rawValue != 0
    }

    /// The peer's live byte: 0 gone, 1 connected, 2 not yet connected (client only).
    func loadPeerLive() -> UInt8 {
        unsafe byte(peerLive).pointee.load(ordering: .sequentiallyConsistent)
    }

    /// Own live byte. After the last `publishProduced`, so that who sees 0 finds all data.
    func storeOwnLive(_ value: UInt8) {
        unsafe byte(ownLive).pointee.store(value, ordering: .sequentiallyConsistent)
    }

    /// Fills a fresh page of a server; nobody else has it yet.
    func initialize(
        orders: RingOrders, references: some Sequence<UInt32>, firstIndex: UInt32
    ) {
        for index in 0..<4 {
            unsafe base.storeBytes(of: firstIndex, toByteOffset: 4 * index, as: UInt32.self)
        }
        unsafe base.storeBytes(of: orders.left, toByteOffset: 16, as: UInt16.self)
        unsafe base.storeBytes(of: orders.right, toByteOffset: 18, as: UInt16.self)
        for (index, reference) in references.enumerated() {
            let offset = RingOrders.grantsOffset + 4 * index
            unsafe base.storeBytes(of: reference, toByteOffset: offset, as: UInt32.self)
        }
        unsafe byte(peerLive).pointee.store(2, ordering: .relaxed)
        ask(.write)
        storeOwnLive(1)
    }
}

/// What one side wants to be told by the other (protocol 1.1).
struct Notification: OptionSet {
    let rawValue: UInt8

    /// Tell me after you produced data.
    static let write = Notification(rawValue: 1)
    /// Tell me after you consumed data.
    static let read = Notification(rawValue: 2)
    /// I will write nothing more: of this library only, ignored by others.
    static let ended = Notification(rawValue: 4)
}

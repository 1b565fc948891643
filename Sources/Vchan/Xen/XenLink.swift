import CLinuxSystem
import Glibc
import LinuxSystem
import SystemPackage

/// What wakes one channel over Xen: its event channel, news from the store, and its own timer.
struct XenWaiter: ~Copyable {
    struct Reasons: OptionSet {
        let rawValue: Int32
        static let event = Reasons(rawValue: 1)
        /// Something changed in the store, or it is time to look after the peer.
        static let news = Reasons(rawValue: 2)
        static let again = Reasons(rawValue: 4)
        fileprivate static let store = Reasons(rawValue: 8)
    }

    let store: XenStore
    let listener: UInt64
    private let epoll: Descriptor
    private let counter: Descriptor
    private var timer: Descriptor?
    private var timerNumber: Int32 = -1

    /// Readable when there is something to do.
    var number: Int32 { epoll.number }

    static func make() throws(VchanError) -> XenWaiter {
        let waiter = XenWaiter(
            store: try .ofThisProcess(), epoll: try .made(cs_epoll_create(), "epoll_create1"),
            counter: try .made(cs_event_create(), "eventfd"))
        try waiter.add(waiter.counter.number, .news)
        try waiter.add(waiter.store.number, .store)
        try waiter.add(waiter.store.timer.number, .store)
        return waiter
    }

    private init(
        store: XenStore, epoll: consuming Descriptor, counter: consuming Descriptor
    ) {
        self.store = store
        listener = store.listen(counter.number)
        self.epoll = epoll
        self.counter = counter
    }

    deinit { store.forget(listener) }

    private func add(_ number: Int32, _ reason: Reasons) throws(VchanError) {
        let tag = UInt64(reason.rawValue)
        guard cs_epoll_control(epoll.number, 0, number, 1, tag) == 0 else {
            throw .xen("epoll_ctl", Errno(rawValue: errno), full: nil)
        }
    }

    func watch(_ events: borrowing XenEventChannel) throws(VchanError) {
        try add(events.number, .event)
    }

    /// Wakes the channel once after so many nanoseconds.
    mutating func comeBack(in nanoseconds: Int) throws(VchanError) {
        if timerNumber < 0 {
            let new = try Descriptor.timer()
            timerNumber = new.number
            timer = consume new
            try add(timerNumber, .again)
        }
        _ = cs_timer_set(timerNumber, nanoseconds)
    }

    /// Why the channel was woken; nothing of it is left but an event of the event channel.
    func reasons(milliseconds: Int32 = 0) -> Reasons {
        let ready = cs_epoll_ready(number, milliseconds)
        var reasons = Reasons(rawValue: max(0, ready))
        if !reasons.isDisjoint(with: [.store, .news]) {
            if reasons.contains(.store) { store.handOutNews() }
            if cs_counter_take(counter.number) != 0 {
                reasons.insert(.news)
            } else {
                reasons.remove(.news)
            }
        }
        if reasons.contains(.again) { _ = cs_counter_take(timerNumber) }
        return reasons
    }
}

extension Descriptor {
    /// What a system call made, or its error.
    static func made(_ number: Int32, _ call: String) throws(VchanError) -> Descriptor {
        if number >= 0 { return Descriptor(taking: number) }
        throw .xen(call, Errno(rawValue: errno), full: nil)
    }

    static func timer() throws(VchanError) -> Descriptor {
        try made(cs_timer_create(), "timerfd_create")
    }
}

/// The event channel of an open channel, and what tells of its peer's end.
struct XenLink: ~Copyable {
    private let events: XenEventChannel
    /// Nil in a confined process: who started it tells of the peer's end.
    private let waiter: XenWaiter?
    private let peer: DomainID
    /// The peer's sign of life in the store, if it gives one.
    private let presence: String?
    private let watch: XenPresenceWatch?
    /// Open as long as the channel is, in a confined process.
    private let lifeline: Descriptor?
    let number: Int32

    /// The other side has joined, or was joined.
    init(events: consuming XenEventChannel, waiter: consuming XenWaiter, peer: DomainID) {
        number = waiter.number
        let presence = waiter.store.findPresence(of: peer)
        self.presence = presence
        // With too many watches the timer is left.
        watch = if let presence { try? XenPresenceWatch(waiter.store, presence) } else { nil }
        self.events = events
        self.waiter = consume waiter
        self.peer = peer
        lifeline = nil
    }

    /// In a confined process.
    init(
        events: consuming XenEventChannel, lifeline: consuming Descriptor, peer: DomainID
    ) {
        number = events.number
        self.events = events
        waiter = nil
        self.peer = peer
        presence = nil
        watch = nil
        self.lifeline = consume lifeline
    }

    func notify() { events.notify() }

    /// Takes an event and news.
    ///
    /// - Parameter milliseconds: how long to wait for them; -1 for ever.
    /// - Returns: whether the peer is still there.
    func take(milliseconds: Int32) -> Bool {
        switch waiter {
        case .some(let waiter):
            let reasons = waiter.reasons(milliseconds: milliseconds)
            if reasons.contains(.event) { events.take() }
            return reasons.contains(.news) ? isJoined(waiter.store) : true
        case .none:
            if milliseconds != 0 {
                _ = try? poll(events.number, .readable, milliseconds: milliseconds)
            }
            events.take()
            return true
        }
    }

    /// A domain that was destroyed ran no cleanup: its port is gone all the same.
    private func isJoined(_ store: XenStore) -> Bool {
        if let joined = XenDevices.ofThisProcess.isInterdomain(events.port) { return joined }
        if let presence { return (try? store.read(presence)) ?? nil != nil }
        return store.isAlive(peer)
    }
}

import CLinuxSystem
import Glibc
import LinuxSystem
import Synchronization
import SystemPackage

/// The one connection of this process to xenstore, which all its channels share.
///
/// Channels that want to hear of changes register an event counter; whoever of them is woken by the
/// connection first takes all news from it and sets the counters of those that they are for.
final class XenStore: Sendable {
    private struct State: ~Copyable {
        /// Nil after the connection broke.
        var wire: XenStoreWire?
        /// Event counters by the number that is their watches' token.
        var listeners: [UInt64: Int32] = [:]
        var lastListener: UInt64 = 0
        /// Who was shown that this domain is there.
        var presentTo: Set<DomainID> = []
        /// How many channels follow each peer's sign of life: a watch for all of them.
        var followers: [String: Int] = [:]
        var watchesNumber = false
    }

    private static let current = Mutex<XenStore?>(nil)
    /// The token of what all listeners are told: a domain went away, or this one got another number.
    private static let everybody = "all"
    /// How often the peers are looked after in domains that the store does not tell of others' ends.
    private static let interval = 5_000_000_000

    private let state: Mutex<State>
    /// Readable when there is news.
    let number: Int32
    /// Readable when it is time to look after the peers; never in dom0.
    let timer: Descriptor
    private let isControlDomain: Bool

    /// The process's connection, opened when first needed.
    static func ofThisProcess() throws(VchanError) -> XenStore {
        try current.withLock { store throws(VchanError) in
            if let store, store.isUsable { return store }
            let new = try XenStore()
            store = new
            return new
        }
    }

    private init() throws(VchanError) {
        isControlDomain = Self.findControlDomain()
        timer = try .timer()
        let wire = try XenStoreWire.open()
        number = wire.number
        state = Mutex(State(wire: wire))
        // Other domains are not told of it, and have few watches.
        if isControlDomain { try watch("@releaseDomain", token: Self.everybody) }
    }

    /// Dom0, to which the store tells everything.
    private static func findControlDomain() -> Bool {
        guard let file = try? Descriptor.open("/proc/xen/capabilities", O_RDONLY),
            let bytes = try? file.readAll(limit: 256)
        else { return false }
        return String(decoding: bytes, as: UTF8.self).contains("control_d")
    }

    private var isUsable: Bool { state.withLock { $0.wire != nil } }

    @discardableResult
    private func ask(
        _ request: XenStoreWire.Request, transaction: UInt32 = 0, _ payload: String
    ) throws(Errno) -> [UInt8] {
        try state.withLock { state throws(Errno) in
            guard state.wire != nil else { throw .badFileDescriptor }
            defer { Self.handOut(&state) }
            return try state.wire!.ask(request, transaction: transaction, payload)
        }
    }

    // MARK: Entries

    /// The value of an entry; nil when there is none or it is not for us, which a domain cannot tell
    /// apart.
    func read(_ path: String) throws(VchanError) -> String? {
        do throws(Errno) {
            return String(decoding: try ask(.read, path + "\0"), as: UTF8.self)
        } catch {
            switch error {
            case .noSuchFileOrDirectory, .permissionDenied, .notPermitted: return nil
            default: throw .xen("read \(path) in xenstore", error, full: nil)
            }
        }
    }

    /// Writes an entry that one other domain may read; it sees it when both is done.
    func write(_ path: String, _ value: String, own: DomainID, reader: DomainID) throws(Errno) {
        try ask(.write, path + "\0" + value)
        try ask(.setPermissions, "\(path)\0n\(own)\0r\(reader)\0")
    }

    func remove(_ path: String) { _ = try? ask(.remove, path + "\0") }

    /// Removes a directory without entries. Somebody else may be adding one: that is what the
    /// transaction is for, which is given up at the first objection.
    func removeIfEmpty(_ path: String) {
        func isEmpty(_ transaction: UInt32) -> Bool {
            (try? ask(.directory, transaction: transaction, path + "\0").isEmpty) ?? false
        }
        guard isEmpty(0), let answer = try? ask(.transactionStart, "\0"),
            let transaction = parseDecimal(
                Substring(decoding: answer.prefix { $0 != 0 }, as: UTF8.self), maximum: .max)
        else { return }
        let good =
            isEmpty(transaction)
            && (try? ask(.remove, transaction: transaction, path + "\0")) != nil
        _ = try? ask(.transactionEnd, transaction: transaction, good ? "T\0" : "F\0")
    }

    func ownDomain() throws(VchanError) -> DomainID {
        let text = try read("domid") ?? ""
        guard let number = parseDecimal(text[...], maximum: .max), let domain = DomainID(number)
        else {
            throw .noIdentity(path: "domid in xenstore", reason: "'\(text)' is no domain number")
        }
        return domain
    }

    /// Whether a domain runs: dom0's store tells, in other domains the hypervisor knows whether there
    /// is such a domain at all.
    func isAlive(_ domain: DomainID) -> Bool {
        guard let answer = try? ask(.isDomainIntroduced, "\(domain)\0") else {
            return XenEventChannel.exists(domain)
        }
        return answer.first != UInt8(ascii: "F")
    }

    /// Tells of another number of this domain, which it gets when it is moved to another machine.
    func watchOwnNumber() throws(VchanError) {
        guard !isControlDomain, !state.withLock({ $0.watchesNumber }) else { return }
        try watch("domid", token: Self.everybody)
        state.withLock { $0.watchesNumber = true }
    }

    // MARK: Presence

    /// Shows another domain an entry that goes when this domain does: the store tells a domU of no
    /// other domain's end, and one whose pages are still mapped somewhere exists for a long time.
    func showPresence(to peer: DomainID) throws(VchanError) {
        guard state.withLock({ $0.presentTo.insert(peer).inserted }) else { return }
        let own = try ownDomain()
        removePresences(above: Self.idlePresences)
        // Without it the peer finds out later, or by other ways.
        try? write(Self.presence(for: peer), "1", own: own, reader: peer)
    }

    /// The entry by which a peer shows its presence, if it does.
    func findPresence(of peer: DomainID) -> String? {
        // Dom0 has better ways.
        guard !isControlDomain, let own = try? ownDomain() else { return nil }
        let path = "/local/domain/\(peer)/\(Self.presence(for: own))"
        guard let found = try? read(path), !found.isEmpty else { return nil }
        return path
    }

    /// Tells all when a peer's sign of life changes, until as many `unfollow`.
    func follow(_ presence: String) throws(VchanError) {
        let isFirst = state.withLock { state in
            state.followers[presence, default: 0] += 1
            return state.followers[presence] == 1
        }
        guard isFirst else { return }
        do throws(VchanError) { try watch(presence, token: Self.everybody) } catch {
            state.withLock { $0.followers[presence] = nil }
            throw error
        }
    }

    func unfollow(_ presence: String) {
        let isLast = state.withLock { state in
            guard let count = state.followers[presence] else { return false }
            state.followers[presence] = count > 1 ? count - 1 : nil
            return count == 1
        }
        if isLast { _ = try? ask(.unwatch, "\(presence)\0\(Self.everybody)\0") }
    }

    /// Removes the entries for domains that are gone, if there are more than so many.
    ///
    /// An entry outlives the channels that it was made for, as another process of this domain may have
    /// one to the same peer, and a peer whose entry goes takes all of them for dead. Who is gone looks
    /// at nothing; and its number is not given to another domain before all others were.
    func removePresences(above limit: Int) {
        guard let answer = try? ask(.directory, Self.presences + "\0") else { return }
        let peers = answer.split(separator: 0).compactMap { name in
            parseDecimal(Substring(decoding: name, as: UTF8.self), maximum: .max)
                .flatMap { DomainID($0) }
        }
        guard peers.count > limit else { return }
        for peer in peers where !isAlive(peer) {
            remove(Self.presence(for: peer))
            state.withLock { _ = $0.presentTo.remove(peer) }
        }
    }

    private static let presences = "data/vchan-peers"
    /// Entries that are kept without a look at their domains: a domain may have about 1000 in all.
    private static let idlePresences = 32

    private static func presence(for peer: DomainID) -> String { "\(presences)/\(peer)" }

    // MARK: News

    /// - Parameter event: an event counter that is set when there is news for this listener.
    /// - Returns: the listener's number, for `watch` and `forget`.
    func listen(_ event: Int32) -> UInt64 {
        state.withLock { state in
            if state.listeners.isEmpty { setTimer(Self.interval) }
            state.lastListener += 1
            state.listeners[state.lastListener] = event
            return state.lastListener
        }
    }

    func forget(_ listener: UInt64) {
        state.withLock { state in
            state.listeners[listener] = nil
            if state.listeners.isEmpty { setTimer(0) }
        }
    }

    private func setTimer(_ nanoseconds: Int) {
        if !isControlDomain { _ = cs_timer_repeat(timer.number, nanoseconds) }
    }

    /// Tells a listener of changes at and below a path, and at once.
    func watch(_ path: String, _ listener: UInt64) throws(VchanError) {
        try watch(path, token: String(listener))
    }

    private func watch(_ path: String, token: String) throws(VchanError) {
        do throws(Errno) { try ask(.watch, "\(path)\0\(token)\0") } catch {
            switch error {
            case .fileExists: break
            case .argListTooLong, .noSpace, .diskQuotaExceeded:
                throw .limit(.storeWatches, error)
            default: throw .xen("watch \(path) in xenstore", error, full: nil)
            }
        }
    }

    func unwatch(_ path: String, _ listener: UInt64) {
        _ = try? ask(.unwatch, "\(path)\0\(listener)\0")
    }

    /// Takes the news that are there and hands them on; never waits.
    func handOutNews() {
        let isTime = cs_counter_take(timer.number) != 0
        state.withLock { state in
            if isTime { Self.wakeAll(state.listeners) }
            Self.handOut(&state)
        }
    }

    private static func handOut(_ state: inout State) {
        guard state.wire != nil else { return }
        let tokens: [String]
        do throws(Errno) { tokens = try state.wire!.takeNews() } catch {
            // The connection is broken: nobody may be woken by it for ever.
            state.wire = nil
            return wakeAll(state.listeners)
        }
        for token in tokens {
            if token == everybody {
                wakeAll(state.listeners)
            } else if let number = UInt64(token), let event = state.listeners[number] {
                cs_event_set(event)
            }
        }
    }

    private static func wakeAll(_ listeners: [UInt64: Int32]) {
        for event in listeners.values { cs_event_set(event) }
    }
}

import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// System information held here and kept current by qubesd's events; never fetched for a call.
///
/// Events are subscribed to first and then everything is fetched, so nothing is missed between the
/// two. Without the connection for events nothing is known: every call is denied until there is one
/// again and all is fetched anew.
final class SystemInformationFeed {
    enum State: Equatable {
        /// The first connection is being made.
        case starting
        /// No connection, or nothing fetched yet.
        case unknown
        /// Something that rules can see has changed and is being fetched.
        case changing
        case current
    }

    private let loop: EventLoop
    private let log: Log
    private let eventsPath: String
    private let internalPath: String
    private var events: QubesdStream?
    private var parser = QubesdEventParser()
    private var fetch: QubesdStream?
    private var answer: [UInt8] = []
    /// Something has changed since the fetch that is under way began, or since the last one.
    private var isDirty = false
    /// What has changed is more than whether qubes run.
    private var isIdentityDirty = false
    private var isScheduled = false
    private var retryDelay = milliseconds(50)
    private var deadline: EventLoop.Timer?
    private var retry: EventLoop.Timer?

    private var begunFetches = 0
    /// The last fetch that was completed; they are counted from 1.
    private(set) var completedFetch = 0
    /// The fetch with which everything will be known that has happened until now.
    var neededFetch: Int {
        state == .starting ? begunFetches + 2 : isDirty ? begunFetches + 1 : begunFetches
    }

    private(set) var state = State.starting
    private(set) var information = SystemInformation([])
    /// Why nothing is known.
    private(set) var problem = "qubesd was not asked yet"
    /// Whether qubes that were started or stopped are being fetched.
    var isRefreshing: Bool { isDirty || fetch != nil }
    /// Whether `information` is that of a living connection.
    var isKnown: Bool { state == .current || state == .changing }
    /// Called whenever `state` or `information` have changed.
    var onChange: () -> Void = {}

    static let answerLimit = 32 << 20
    private static let fetchTime = seconds(10)

    init(_ loop: EventLoop, log: Log, eventsPath: String, internalPath: String) {
        self.loop = loop
        self.log = log
        self.eventsPath = eventsPath
        self.internalPath = internalPath
    }

    func start() { connect() }

    /// Takes events that arrived already, without waiting.
    func refresh() { events?.receive() }

    // MARK: Events

    private func connect() {
        retry = nil
        parser = QubesdEventParser()
        do throws(Errno) {
            events = try QubesdStream(
                loop, path: eventsPath, request: "admin.Events dom0 name dom0",
                onBytes: { [unowned self] in self.take($0) },
                onEnd: { [unowned self] end in self.lose("events of qubesd ended (\(end))") })
        } catch {
            lose("\(eventsPath): \(error)")
            return
        }
        // With the subscription made, fetch; the answer counts once the subscription is confirmed.
        isDirty = true
        scheduleFetch()
    }

    private func take(_ bytes: ArraySlice<UInt8>) {
        let new: [QubesdEvent]
        do throws(QubesdEventParser.Malformed) {
            new = try parser.parse(bytes)
        } catch {
            return lose("qubesd sent no valid events")
        }
        for event in new {
            if event.name == "connection-established" {
                // What is being fetched may be older than the subscription.
                isDirty = true
                isIdentityDirty = true
                scheduleFetch()
                continue
            }
            switch event.effect {
            case .none: continue
            case .power: isDirty = true
            case .identity:
                isDirty = true
                isIdentityDirty = true
                if state == .current { state = .changing }
            }
            scheduleFetch()
        }
    }

    private func lose(_ reason: String) {
        if state != .unknown || problem != reason {
            log.error("system information lost, calls are denied: \(reason)")
        }
        problem = reason
        state = .unknown
        events?.close()
        fetch?.close()
        events = nil
        fetch = nil
        isDirty = false
        if let deadline { loop.cancel(deadline) }
        if let retry { loop.cancel(retry) }
        retry = loop.schedule(after: retryDelay) { [weak self] in self?.connect() }
        retryDelay = min(retryDelay * 2, seconds(2))
        onChange()
    }

    // MARK: Fetching

    /// Many events of one round make one request.
    private func scheduleFetch() {
        if isScheduled || fetch != nil { return }
        isScheduled = true
        loop.defer { [weak self] in
            guard let self else { return }
            self.isScheduled = false
            if self.isDirty && self.fetch == nil && self.events != nil { self.beginFetch() }
        }
    }

    private func beginFetch() {
        isDirty = false
        isIdentityDirty = false
        begunFetches += 1
        answer = []
        do throws(Errno) {
            fetch = try QubesdStream(
                loop, path: internalPath, request: "internal.GetSystemInfo dom0 name dom0",
                onBytes: { [unowned self] bytes in
                    self.answer.append(contentsOf: bytes)
                    if self.answer.count > Self.answerLimit {
                        self.lose("system information is longer than \(Self.answerLimit) bytes")
                    }
                },
                onEnd: { [unowned self] end in self.endFetch(end) })
        } catch {
            return lose("\(internalPath): \(error)")
        }
        deadline = loop.schedule(after: Self.fetchTime) { [weak self] in
            self?.lose("qubesd did not answer in time")
        }
    }

    private func endFetch(_ end: QubesdStream.End) {
        if let deadline { loop.cancel(deadline) }
        deadline = nil
        fetch = nil
        let bytes = answer
        answer = []
        guard end == .closed else { return lose("internal.GetSystemInfo: \(end)") }
        guard bytes.count >= 2, bytes[0] == UInt8(ascii: "0"), bytes[1] == 0 else {
            return lose("internal.GetSystemInfo: qubesd answered with an error")
        }
        do throws(SystemInformationError) {
            information = try SystemInformation.read(Array(bytes[2...]))
        } catch {
            return lose("internal.GetSystemInfo: \(error)")
        }
        retryDelay = milliseconds(50)
        completedFetch = begunFetches
        // What changed while this was under way may or may not be in it.
        if isDirty { scheduleFetch() }
        if state != .current {
            log.debug("system information", ["qubes": "\(information.qubes.count)"])
        }
        state = isIdentityDirty ? .changing : .current
        onChange()
    }
}

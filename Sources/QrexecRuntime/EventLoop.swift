public import LinuxSystem
public import SystemPackage

/// Runs closures when descriptors are ready, when a time is reached, and when signals arrive.
///
/// One thread, no locks: everything a program does happens between two waits of its loop. A closure
/// must not wait for anything.
public final class EventLoop {
    public typealias Handler = (Readiness) -> Void

    // Arrays are of plain structures, not of optionals, tuples or closures: the runtime makes up what
    // it knows of such a type when a program first uses it.
    private struct Entry {
        /// Tells an event that was fetched before its descriptor number was given up and used again;
        /// 0 where nothing is watched.
        var generation: UInt32
        var interest: Readiness
        /// A regular file: epoll refuses it, and it never makes anybody wait.
        var alwaysReady: Bool
        var handler: Handler

        var isWatched: Bool { generation != 0 }

        static var none: Entry {
            Entry(generation: 0, interest: [], alwaysReady: false, handler: { _ in })
        }
    }

    private struct Action {
        let run: () -> Void
    }

    private struct Pending {
        let timer: Timer
        let run: () -> Void
    }

    /// A timer that can be cancelled; it does not keep anything alive.
    public struct Timer: Sendable, Hashable {
        fileprivate let deadline: UInt64
        fileprivate let number: UInt64
    }

    private var epoll: Epoll
    private var entries: [Entry] = []
    private var alwaysReady: Set<Int32> = []
    private var nextGeneration: UInt32 = 1
    private var timers: [Pending] = []
    private var nextTimer: UInt64 = 0
    private var deferred: [Action] = []
    private var stopped = false
    /// Handlers of this round.
    private var calls = 0
    private var signalSource: Descriptor?
    private var onArrival: (CurrentProcess.Arrival) -> Void = { _ in }

    public init() throws(Errno) {
        epoll = try Epoll()
    }

    // MARK: Descriptors

    /// Calls `handler` whenever the descriptor is ready for what it is watched for, or hung up,
    /// until `unwatch`. The caller keeps the descriptor open until then.
    public func watch(
        _ number: Int32, _ interest: Readiness, _ handler: @escaping Handler
    ) throws(Errno) {
        let index = Int(number)
        while entries.count <= index { entries.append(.none) }
        precondition(!entries[index].isWatched, "descriptor is watched already")
        let generation = nextGeneration
        nextGeneration = nextGeneration == .max ? 1 : nextGeneration + 1
        var isFile = false
        do throws(Errno) {
            try epoll.add(number, interest, tag: tag(number, generation))
        } catch .notPermitted {
            isFile = true
            if !interest.isEmpty { alwaysReady.insert(number) }
        }
        entries[index] = Entry(
            generation: generation, interest: interest, alwaysReady: isFile, handler: handler)
    }

    /// Changes what a watched descriptor is watched for; cheap when nothing changes.
    public func setInterest(_ number: Int32, _ interest: Readiness) {
        guard let entry = entry(number), entry.interest != interest else { return }
        entries[Int(number)].interest = interest
        if entry.alwaysReady {
            if interest.isEmpty { alwaysReady.remove(number) } else { alwaysReady.insert(number) }
        } else {
            // Cannot fail for a descriptor that is watched, but for lack of kernel memory.
            try? epoll.modify(number, interest, tag: tag(number, entry.generation))
        }
    }

    /// Stops to watch; pending events of the descriptor are dropped. To be called before it closes.
    public func unwatch(_ number: Int32) {
        guard let entry = entry(number) else { return }
        entries[Int(number)] = .none
        if entry.alwaysReady {
            alwaysReady.remove(number)
        } else {
            try? epoll.remove(number)
        }
    }

    private func entry(_ number: Int32) -> Entry? {
        let index = Int(number)
        guard index < entries.count, entries[index].isWatched else { return nil }
        return entries[index]
    }

    private func tag(_ number: Int32, _ generation: UInt32) -> UInt64 {
        UInt64(generation) << 32 | UInt64(UInt32(bitPattern: number))
    }

    // MARK: Time

    /// Calls `action` once when `nanoseconds` have passed.
    @discardableResult
    public func schedule(after nanoseconds: UInt64, _ action: @escaping () -> Void) -> Timer {
        let timer = Timer(deadline: CurrentProcess.now &+ nanoseconds, number: nextTimer)
        nextTimer += 1
        // Few timers are pending at a time, and new ones are mostly the latest.
        var index = timers.count
        while index > 0, timers[index - 1].timer.deadline > timer.deadline { index -= 1 }
        timers.insert(Pending(timer: timer, run: action), at: index)
        return timer
    }

    /// Cancels a timer; one that has fired already is no error.
    public func cancel(_ timer: Timer) {
        timers.removeAll { $0.timer == timer }
    }

    /// Calls `action` soon: after the handlers of this round. One that comes again by itself lets
    /// timers and descriptors have their turn in between.
    public func `defer`(_ action: @escaping () -> Void) {
        deferred.append(Action(run: action))
    }

    /// Whether others have work in this round too: no time to wait for anything in it.
    public var isBusy: Bool { calls > 1 || !deferred.isEmpty }

    // MARK: Signals and children

    /// Calls `handler` for each arrival of these signals, which are blocked otherwise. Once a loop.
    public func onSignals(
        _ signals: [Int32], _ handler: @escaping (Int32) -> Void
    ) throws(Errno) {
        try onSignalArrivals(signals) { handler($0.signal) }
    }

    /// The same, with who sent each. Equal signals that arrive together count as one, of which the
    /// sender of the first is told.
    public func onSignalArrivals(
        _ signals: [Int32], _ handler: @escaping (CurrentProcess.Arrival) -> Void
    ) throws(Errno) {
        precondition(signalSource == nil, "signals are handled already")
        let source = try CurrentProcess.signalDescriptor(signals)
        let number = source.number
        signalSource = consume source
        onArrival = handler
        try watch(number, .readable) { [unowned self] _ in self.takeSignals() }
    }

    /// Handles signals that have arrived, before the loop comes to it.
    ///
    /// - Returns: whether there was any.
    @discardableResult
    public func takeSignals() -> Bool {
        var any = false
        while let arrival = try? nextSignal() {
            any = true
            onArrival(arrival)
        }
        return any
    }

    private func nextSignal() throws(Errno) -> CurrentProcess.Arrival? {
        guard signalSource != nil else { return nil }
        return try CurrentProcess.nextArrival(of: signalSource!)
    }

    // MARK: Running

    /// Runs until `stop`.
    public func run() throws(Errno) {
        stopped = false
        while !stopped { try turn() }
    }

    /// Ends `run` after the present round.
    public func stop() { stopped = true }

    private func turn() throws(Errno) {
        runTimersAndDeferred()
        if stopped { return }
        let count = try epoll.wait(milliseconds: waitTime())
        calls = count + alwaysReady.count
        for index in 0..<count {
            let (tag, readiness) = epoll.event(index)
            let number = Int32(bitPattern: UInt32(truncatingIfNeeded: tag))
            guard let entry = entry(number), entry.generation == UInt32(tag >> 32) else { continue }
            entry.handler(readiness)
        }
        for number in alwaysReady {
            if let entry = entry(number), entry.alwaysReady { entry.handler(entry.interest) }
        }
    }

    private func runTimersAndDeferred() {
        if !timers.isEmpty {
            let now = CurrentProcess.now
            while let first = timers.first, first.timer.deadline <= now, !stopped {
                timers.removeFirst().run()
            }
        }
        if deferred.isEmpty || stopped { return }
        let actions = deferred
        deferred = []
        calls = actions.count
        for action in actions { action.run() }
    }

    /// Milliseconds until the next timer, rounded up so that it has fired when the wait is over.
    private func waitTime() -> Int32 {
        if !alwaysReady.isEmpty || !deferred.isEmpty { return 0 }
        guard let first = timers.first else { return -1 }
        let now = CurrentProcess.now
        if first.timer.deadline <= now { return 0 }
        let milliseconds = (first.timer.deadline - now + 999_999) / 1_000_000
        return Int32(min(milliseconds, 3_600_000))
    }
}

/// Nanoseconds of a number of seconds.
public func seconds(_ count: UInt64) -> UInt64 { count * 1_000_000_000 }

/// Nanoseconds of a number of milliseconds.
public func milliseconds(_ count: UInt64) -> UInt64 { count * 1_000_000 }

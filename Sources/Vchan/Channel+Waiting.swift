import LinuxSystem
import SystemPackage

extension Channel {
    /// A deadline for the calls that wait: a time of the monotonic clock, in nanoseconds.
    public static func deadline(after duration: Duration) -> UInt64 {
        let (seconds, attoseconds) = duration.components
        // 292 years and more are for ever; what is over is now.
        let limit = Int64.max / 1_000_000_000 - 1
        let whole = UInt64(max(0, min(seconds, limit))) * 1_000_000_000
        return CurrentProcess.now &+ whole &+ UInt64(max(0, attoseconds) / 1_000_000_000)
    }

    /// Waits until the channel is open or closed.
    ///
    /// - Parameter deadline: see `deadline(after:)`; nil waits for ever.
    /// - Throws: `timedOut`, and what `progress` throws.
    public mutating func waitUntilOpen(deadline: UInt64? = nil) throws(VchanError) {
        while state == .waiting { try sleep(until: deadline) }
        try flush()
    }

    /// Waits until so many bytes can be read.
    ///
    /// - Returns: the bytes ready; fewer than wanted only when the channel is closed.
    public mutating func waitForData(
        atLeast: Int = 1, deadline: UInt64? = nil
    ) throws(VchanError) -> Int {
        if reading.available < atLeast { try wait(.reading, atLeast, deadline) }
        return reading.available
    }

    /// Waits until so many bytes can be written.
    ///
    /// - Returns: the bytes free; 0 when the channel is closed.
    public mutating func waitForSpace(
        atLeast: Int = 1, deadline: UInt64? = nil
    ) throws(VchanError) -> Int {
        if writing.available < atLeast || state != .open { try wait(.writing, atLeast, deadline) }
        return state == .closed ? 0 : writing.available
    }

    /// Looks for a moment whether so many bytes come, where that pays (see `Spinner`): for event
    /// loops that have nothing better to do, before they arm and sleep. Flushes first.
    ///
    /// - Returns: whether they are there, or the channel is closed.
    public mutating func lingerForData(atLeast: Int = 1) throws(VchanError) -> Bool {
        try spin(.reading, atLeast, patience: Spinner.moment)
    }

    /// Looks for a moment whether room for so many bytes comes; see `lingerForData`.
    public mutating func lingerForSpace(atLeast: Int = 1) throws(VchanError) -> Bool {
        try spin(.writing, atLeast, patience: Spinner.moment)
    }

    private mutating func wait(
        _ direction: Direction, _ count: Int, _ deadline: UInt64?
    ) throws(VchanError) {
        while true {
            if try spin(direction, count, patience: Spinner.wakeUp) { return }
            if try arm(direction, count) { return }
            try sleep(until: deadline)
        }
    }

    /// Looks for a while before the peer is asked to wake us, where that pays.
    private mutating func spin(
        _ direction: Direction, _ count: Int, patience: UInt64
    ) throws(VchanError) -> Bool {
        let size = Int(direction == .reading ? reading.size : writing.size)
        guard page != nil, state == .open, count <= size else { return false }
        try flush()
        // What is there at once says nothing about spinning.
        if try isDue(direction, count) { return true }
        guard spinner.begin() else { return false }
        // Taken out, so that the looks can change the rest of the channel.
        var spinner = self.spinner
        defer { self.spinner = spinner }
        return try spinner.spin(patience: patience) { () throws(VchanError) in
            try isDue(direction, count)
        }
    }

    private mutating func sleep(until deadline: UInt64?) throws(VchanError) {
        if deadline == nil, page != nil, state == .open {
            link.takeWaiting()
            return try noticeClose()
        }
        var milliseconds: Int32 = -1
        if let deadline {
            let now = CurrentProcess.now
            if now >= deadline { throw .timedOut }
            // Rounded up: waking a moment early would only mean another turn.
            milliseconds = Int32(min((deadline - now + 999_999) / 1_000_000, 1 << 30))
        }
        do throws(Errno) {
            if try poll(pollDescriptor, .readable, milliseconds: milliseconds).isEmpty { return }
        } catch {
            throw .system(call: "poll", error)
        }
        try progress()
    }
}

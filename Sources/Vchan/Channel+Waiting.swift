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
    }

    /// Waits until so many bytes can be read.
    ///
    /// - Returns: the bytes ready; fewer than wanted only when the channel is closed.
    public mutating func waitForData(
        atLeast: Int = 1, deadline: UInt64? = nil
    ) throws(VchanError) -> Int {
        if reading.ready >= atLeast { return reading.ready }
        while true {
            if try spinForData(atLeast: atLeast) { break }
            if try armForData(atLeast: atLeast) { break }
            try sleep(until: deadline)
        }
        return reading.ready
    }

    /// Waits until so many bytes can be written.
    ///
    /// - Returns: the bytes free; 0 when the channel is closed.
    public mutating func waitForSpace(
        atLeast: Int = 1, deadline: UInt64? = nil
    ) throws(VchanError) -> Int {
        if writing.space >= atLeast, state == .open { return writing.space }
        while true {
            if try spinForSpace(atLeast: atLeast) { break }
            if try armForSpace(atLeast: atLeast) { break }
            try sleep(until: deadline)
        }
        return state == .closed ? 0 : writing.space
    }

    /// Looks for a while before the peer is asked to wake us, where that pays (see `Spinner`).
    private mutating func spinForData(atLeast: Int) throws(VchanError) -> Bool {
        guard page != nil, state == .open, atLeast <= Int(reading.size) else { return false }
        try flush()
        // What is there at once says nothing about spinning.
        try lookForData(atLeast: atLeast)
        if reading.ready >= atLeast || state == .closed { return true }
        guard spinner.begin() else { return false }
        // Taken out, so that the looks can change the rest of the channel.
        var spinner = self.spinner
        defer { self.spinner = spinner }
        return try spinner.spin { () throws(VchanError) in
            try lookForData(atLeast: atLeast)
            return reading.ready >= atLeast || state == .closed
        }
    }

    private mutating func spinForSpace(atLeast: Int) throws(VchanError) -> Bool {
        guard page != nil, state == .open, atLeast <= Int(writing.size) else { return false }
        try flush()
        try lookForSpace(atLeast: atLeast)
        if writing.space >= atLeast || state == .closed { return true }
        guard spinner.begin() else { return false }
        var spinner = self.spinner
        defer { self.spinner = spinner }
        return try spinner.spin { () throws(VchanError) in
            try lookForSpace(atLeast: atLeast)
            return writing.space >= atLeast || state == .closed
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

import LinuxSystem
import SystemPackage

extension Channel {
    /// Waits until the channel is open or closed.
    ///
    /// - Parameter deadline: nanoseconds of `CurrentProcess.now`; nil waits for ever.
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
        while try !armForData(atLeast: atLeast) { try sleep(until: deadline) }
        return reading.ready
    }

    /// Waits until so many bytes can be written.
    ///
    /// - Returns: the bytes free; 0 when the channel is closed.
    public mutating func waitForSpace(
        atLeast: Int = 1, deadline: UInt64? = nil
    ) throws(VchanError) -> Int {
        while try !armForSpace(atLeast: atLeast) { try sleep(until: deadline) }
        return state == .closed ? 0 : writing.space
    }

    private mutating func sleep(until deadline: UInt64?) throws(VchanError) {
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

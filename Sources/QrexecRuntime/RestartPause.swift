import LinuxSystem

/// How long to wait before a program that has ended is started again: twice as long each time, until
/// it has run for a while.
public struct RestartPause {
    private let shortest: UInt64
    private let longest: UInt64
    private let steady: UInt64
    private var pause: UInt64
    private var startedAt: UInt64 = 0

    /// Nanoseconds.
    ///
    /// - Parameter steady: after running this long it is started again after the shortest pause.
    public init(
        shortest: UInt64 = milliseconds(100), longest: UInt64 = seconds(5),
        steady: UInt64 = seconds(10)
    ) {
        self.shortest = shortest
        self.longest = longest
        self.steady = steady
        pause = shortest
    }

    /// It is started now.
    public mutating func begin() { startedAt = CurrentProcess.now }

    /// It has ended, or could not be started.
    ///
    /// - Returns: nanoseconds until the next start.
    public mutating func next() -> UInt64 {
        if CurrentProcess.now - startedAt > steady { pause = shortest }
        defer { pause = min(pause * 2, longest) }
        return pause
    }
}

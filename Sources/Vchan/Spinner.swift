import CLinuxSystem
import LinuxSystem

/// Decides whether to look at the ring for a while before going to sleep.
///
/// Going to sleep and being woken costs some 50 microseconds across cores; a peer that is at work
/// answers sooner. But where no core is free for the peer, each turn of a spin only keeps it from
/// working. So it is measured: a spin that found nothing makes the next ones rarer, up to one in
/// a thousand sleeps; one that was interrupted by somebody else who wanted this core counts for more;
/// one that found something makes up for all of them.
struct Spinner {
    /// About the cost of one wake-up, in nanoseconds.
    private static let patience: UInt64 = 60_000
    /// A gap in the time that only another program on this core can make.
    private static let interruption: UInt64 = 15_000
    private static let looksBetweenTimes = 64
    private static let rarest: UInt32 = 1024

    var isOff = false
    /// Sleeps that still pass without a spin, and how many do after the next spin in vain.
    private var skip: UInt32 = 0
    private var penalty: UInt32 = 0
    /// Cores of the machine; 0 until the first sleep asks. That this thread is bound to one of them
    /// says nothing: the peer may be bound to another.
    private var cores: Int32 = 0

    /// Whether this sleep is worth a spin.
    mutating func begin() -> Bool {
        if isOff { return false }
        if cores == 0 { cores = cs_online_cores() }
        guard cores > 1 else { return false }
        if skip == 0 { return true }
        skip -= 1
        return false
    }

    /// Looks until there is what is waited for, or patience is over.
    ///
    /// - Parameter look: says whether it is there.
    /// - Returns: whether it came.
    mutating func spin(
        _ look: () throws(VchanError) -> Bool
    ) throws(VchanError) -> Bool {
        let start = CurrentProcess.now
        var last = start
        var isFirst = true
        while true {
            for _ in 0..<Self.looksBetweenTimes {
                if try look() {
                    // What came while another program had this core is no merit of the spin; in the
                    // first few looks, the ones that must be quick, that is not asked.
                    let earned = isFirst || CurrentProcess.now - last < Self.interruption
                    judge(earned ? .found : .interrupted)
                    return true
                }
                cs_spin_pause()
            }
            let now = CurrentProcess.now
            let gap = now - last
            last = now
            isFirst = false
            if gap > Self.interruption || now - start > Self.patience {
                judge(gap > Self.interruption ? .interrupted : .inVain)
                return false
            }
        }
    }

    private enum Outcome {
        case found, inVain, interrupted
    }

    private mutating func judge(_ outcome: Outcome) {
        switch outcome {
        case .found: penalty = 0
        case .inVain: penalty = min(penalty * 4 + 3, Self.rarest)
        case .interrupted: penalty = min(penalty * 4 + 15, Self.rarest)
        }
        skip = penalty
    }
}

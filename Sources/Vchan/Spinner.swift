import CLinuxSystem
import LinuxSystem

/// Decides whether to look at the ring for a while before going to sleep.
///
/// Going to sleep and being woken costs some 50 microseconds across cores, and some microseconds of
/// both processors' time; a peer that is at work answers sooner. It may be at work on another core:
/// then looking again and again finds it (a spin). Or it waits for this very core: then every look
/// keeps it from working, and only giving way finds it (a yield). Or neither, and each of both only
/// takes time from others. So it is measured: what found nothing is tried more rarely, up to once
/// in some thousand sleeps; what was answered by an interruption by somebody else counts for more;
/// what found something makes up for all of them.
struct Spinner {
    /// About the cost of one wake-up, in nanoseconds.
    static let wakeUp: UInt64 = 60_000
    /// What a wake-up costs of processor time alone.
    static let moment: UInt64 = 12_000
    /// A gap in the time that only another program on this core can make.
    private static let interruption: UInt64 = 15_000
    /// The longest that a peer needs for a whole ring, when it was given way.
    private static let turn: UInt64 = 200_000
    /// The quickest that anybody comes and goes on this core.
    private static let visit: UInt64 = 1_000
    private static let looksBetweenTimes = 64

    var isOff = false
    private var spins = Reluctance(rarest: 1 << 10)
    private var yields = Reluctance(rarest: 1 << 16)
    private var maySpin = false
    private var mayYield = false
    /// The peer last came when it was given way.
    private var sharesCore = false
    /// Cores of the machine; 0 until the first sleep asks. That this thread is bound to one of them
    /// says nothing: the peer may be bound to another.
    private var cores: Int32 = 0

    /// Whether this sleep is worth a try.
    mutating func begin() -> Bool {
        if isOff { return false }
        if cores == 0 { cores = cs_online_cores() }
        maySpin = spins.isDue() && cores > 1
        mayYield = yields.isDue()
        return maySpin || mayYield
    }

    /// Looks until there is what is waited for, or patience is over.
    ///
    /// - Parameters:
    ///   - patience: nanoseconds.
    ///   - look: says whether it is there.
    /// - Returns: whether it came.
    mutating func spin(
        patience: UInt64, _ look: () throws(VchanError) -> Bool
    ) throws(VchanError) -> Bool {
        if sharesCore || !maySpin {
            guard mayYield else { return false }
            if try giveWay(look) { return true }
            if !maySpin { return false }
        }
        if try several(look) {
            spins.reward()
            return true
        }
        let start = CurrentProcess.now
        var last = start
        while last - start < patience {
            if mayYield, try giveWay(look) { return true }
            let before = CurrentProcess.now
            let found = try several(look)
            last = CurrentProcess.now
            if last - before > Self.interruption {
                // What came while another program had this core is no merit of the spin.
                spins.punish(16)
                return found
            }
            if found {
                spins.reward()
                return true
            }
        }
        spins.punish(4)
        return false
    }

    private func several(_ look: () throws(VchanError) -> Bool) throws(VchanError) -> Bool {
        for _ in 0..<Self.looksBetweenTimes {
            if try look() { return true }
            cs_spin_pause()
        }
        return false
    }

    /// Lets others have this core once, and looks.
    private mutating func giveWay(
        _ look: () throws(VchanError) -> Bool
    ) throws(VchanError) -> Bool {
        let before = CurrentProcess.now
        CurrentProcess.yield()
        let found = try look()
        let gap = CurrentProcess.now - before
        if gap > Self.turn {
            // Somebody else has a lot to do here.
            yields.punish(256)
            (sharesCore, mayYield) = (false, false)
        } else if gap > Self.visit {
            sharesCore = found
            if found { yields.reward() }
        } else if sharesCore {
            sharesCore = found
        }
        return found
    }
}

/// How often something is left out that was in vain.
private struct Reluctance {
    let rarest: UInt32
    /// Times that still pass without it, and how many do after the next one in vain.
    private var skip: UInt32 = 0
    private var penalty: UInt32 = 0

    init(rarest: UInt32) { self.rarest = rarest }

    mutating func isDue() -> Bool {
        if skip == 0 { return true }
        skip -= 1
        return false
    }

    mutating func reward() { (skip, penalty) = (0, 0) }

    /// - Parameter weight: how much rarer it becomes.
    mutating func punish(_ weight: UInt32) {
        penalty = min(penalty * 4 + weight - 1, rarest)
        skip = penalty
    }
}

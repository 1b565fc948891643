import CLinuxSystem
import Glibc
public import SystemPackage

extension CurrentProcess {
    /// Lets others run that wait for this core.
    public static func yield() { _ = sched_yield() }

    /// Keeps this thread on one core.
    public static func pin(toCore core: Int32) throws(Errno) { _ = try check(cs_pin(core)) }

    /// Nanoseconds of processor time that this process has used.
    public static var processorTime: UInt64 {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

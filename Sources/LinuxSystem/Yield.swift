import Glibc

extension CurrentProcess {
    /// Lets others run that wait for this core.
    public static func yield() { _ = sched_yield() }
}

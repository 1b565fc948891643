import Glibc
public import SystemPackage

/// What this process, or the children it has reaped, have cost so far.
public struct ResourceUsage: Sendable {
    public enum Of: Sendable { case itself, reapedChildren }

    /// User and system time together.
    public let cpuMicroseconds: Int
    /// Voluntary and involuntary.
    public let contextSwitches: Int

    public init(of whom: Of) {
        var usage = rusage()
        let who = whom == .itself ? RUSAGE_SELF.rawValue : RUSAGE_CHILDREN.rawValue
        // Fails only for bad arguments.
        _ = unsafe getrusage(who, &usage)
        let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
        cpuMicroseconds = seconds * 1_000_000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec
        contextSwitches = usage.ru_nvcsw + usage.ru_nivcsw
    }
}

extension Descriptor {
    /// Sets how many bytes a pipe holds; the kernel rounds up to a power of two, and gives ordinary
    /// users at most 1 MiB.
    public func setPipeSize(_ size: Int32) throws(Errno) {
        _ = try check(fcntl(number, fSetPipeSize, size))
    }
}

/// F_SETPIPE_SZ.
private let fSetPipeSize: Int32 = 1031

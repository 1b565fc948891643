import Glibc
import LinuxSystem
import SystemPackage

/// Notices that the caller of this service is gone, or that the service is to end: the agent says so
/// by SIGHUP, and the process goes on, so that it can tidy up.
final class CallerAway {
    private let signals: Descriptor
    /// Whether it was noticed.
    private(set) var isNoticed = false

    init() throws(Errno) {
        signals = try CurrentProcess.signalDescriptor([SIGHUP, SIGTERM])
    }

    /// Waits until a descriptor is readable, for some time at most.
    ///
    /// - Parameter milliseconds: -1 waits for ever.
    /// - Returns: whether the caller is gone.
    func wait(for number: Int32, milliseconds: Int32 = -1) throws(Errno) -> Bool {
        if !isNoticed {
            isNoticed = try Descriptor.waitForEither(
                number, signals.number, milliseconds: milliseconds
            ).second
        }
        return isNoticed
    }

    /// For a wait that has more to wait for.
    func add(to set: inout PollSet) { set.add(signals.number, .readable) }

    /// Whether it is noticed by now.
    func look() -> Bool {
        if !isNoticed {
            isNoticed = (try? Descriptor.isReadable(signals.number, milliseconds: 0)) ?? false
        }
        return isNoticed
    }
}

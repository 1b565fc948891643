import Glibc
import LinuxSystem
import SystemPackage

/// Notices that the caller of this service is gone: nobody takes its output any more, which is so
/// before its input ends, or the agent says so by SIGHUP. The process goes on, so that it can tidy up.
final class CallerAway {
    private let signals: Descriptor
    /// Whether it was noticed.
    private(set) var isNoticed = false

    private static let output: Int32 = 1

    init() throws(Errno) {
        signals = try CurrentProcess.signalDescriptor([SIGHUP, SIGTERM])
    }

    /// Waits until a descriptor is readable.
    ///
    /// - Returns: whether the caller is gone.
    func wait(for number: Int32) throws(Errno) -> Bool {
        var set = PollSet()
        set.add(number, .readable)
        add(to: &set)
        _ = try set.wait()
        return look()
    }

    /// For a wait that has more to wait for.
    func add(to set: inout PollSet) {
        set.add(signals.number, .readable)
        // A hang-up is noticed all the same.
        set.add(Self.output, [])
    }

    /// Whether it is noticed by now.
    func look() -> Bool {
        var set = PollSet()
        add(to: &set)
        if !isNoticed { isNoticed = (try? set.wait(milliseconds: 0)) ?? false }
        return isNoticed
    }

    /// Tells the programs of this service to end, as the agent does a little later: those of its
    /// process group, where that is its own.
    func endPrograms() {
        if getpgrp() == getpid() { kill(0, SIGHUP) }
    }
}

import CLinuxSystem
import Glibc
public import SystemPackage

/// Takes from this process everything but what it holds open: for a daemon that reads the bytes of
/// a qube in dom0.
public enum DaemonConfinement {
    /// What the kernel could not take.
    public struct Gaps: Sendable {
        /// The kernel has no Landlock; the filter of system calls forbids the same.
        public var landlock: Errno?
    }

    /// Becomes a program that has the given descriptors and can do nothing but work on them: it
    /// opens no file and no connection, has no capability, and starts nothing but itself.
    ///
    /// - Parameters:
    ///   - program: the only file that can be opened or executed.
    ///   - path: leads to it.
    ///   - descriptors: entry `i` becomes descriptor `i`; all others are closed. Nobody may own
    ///     them any more.
    ///   - gap: told what the kernel could not take, before the program begins.
    public static func become(
        _ program: consuming Descriptor, path: String, arguments: [String], environment: [String],
        descriptors: [Int32], gap: (Gaps) -> Void
    ) throws(Errno) -> Never {
        var gaps = Gaps()
        _ = try check(cs_drop_capabilities())
        if cs_landlock_nothing(program.number) < 0 { gaps.landlock = Errno(rawValue: errno) }
        // It is among those that are closed now.
        _ = program.release()
        _ = try check(
            unsafe descriptors.withUnsafeBufferPointer {
                unsafe cs_arrange_descriptors($0.baseAddress, Int32($0.count))
            })
        if gaps.landlock != nil { gap(gaps) }
        _ = try check(cs_filter_system_calls(1))
        try CurrentProcess.execute(path, arguments, environment: environment)
    }

    /// Takes the start of programs as well, and hides this process's memory from others.
    public static func finish() throws(Errno) {
        _ = try check(cs_set_dumpable(0))
        _ = try check(cs_filter_system_calls(0))
    }
}

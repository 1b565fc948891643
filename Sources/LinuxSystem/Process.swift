import CLinuxSystem
import Glibc
public import SystemPackage

/// This process: its signals, environment and clock.
public enum CurrentProcess {
    /// A descriptor that becomes readable when one of these signals arrives; they are blocked from
    /// now on, here and in children until they execute a program.
    public static func signalDescriptor(_ signals: [Int32]) throws(Errno) -> Descriptor {
        let number = unsafe signals.withUnsafeBufferPointer {
            unsafe cs_signalfd($0.baseAddress, $0.count)
        }
        return Descriptor(taking: try check(number))
    }

    /// A signal that arrived.
    public struct Arrival: Sendable {
        public let signal: Int32
        /// The process that sent it; 0 when the kernel did. It may have ended already.
        public let sender: Int32
    }

    /// The next pending signal of a signal descriptor, if any.
    public static func nextSignal(of descriptor: borrowing Descriptor) throws(Errno) -> Int32? {
        try nextArrival(of: descriptor)?.signal
    }

    /// The next pending signal of a signal descriptor, with its sender.
    public static func nextArrival(
        of descriptor: borrowing Descriptor
    ) throws(Errno) -> Arrival? {
        var record = [UInt8](repeating: 0, count: MemoryLayout<signalfd_siginfo>.size)
        do throws(Errno) {
            guard try descriptor.read(into: &record) == record.count else { return nil }
        } catch .resourceTemporarilyUnavailable {
            return nil
        }
        // In host order: ssi_signo is the record's first field, ssi_pid its fourth.
        return Arrival(signal: word(record, at: 0), sender: word(record, at: 12))
    }

    private static func word(_ bytes: [UInt8], at offset: Int) -> Int32 {
        var value: UInt32 = 0
        for index in 0..<4 { value |= UInt32(bytes[offset + index]) << (8 * UInt32(index)) }
        return Int32(bitPattern: value)
    }

    /// The session of a process; nil when it is gone.
    public static func session(of pid: Int32) -> Int32? {
        let session = getsid(pid)
        return session > 0 ? session : nil
    }

    /// Sends a signal to a process by its number; best effort.
    public static func signal(_ pid: Int32, _ signal: Int32) {
        guard pid > 1 else { return }
        _ = Glibc.kill(pid, signal)
    }

    /// Lets this process, but not its children, have so many descriptors open, as far as the system
    /// allows.
    public static func raiseOwnDescriptorLimit(to count: Int) {
        _ = cs_raise_own_descriptor_limit(UInt(count))
    }

    /// Leads standard streams that came closed to /dev/null: else what is opened next would have
    /// their numbers.
    public static func completeStandardStreams() {
        for number: Int32 in 0...2 where fcntl(number, F_GETFD) < 0 {
            // The lowest free number is this one.
            _ = unsafe Glibc.open("/dev/null", O_RDWR)
        }
    }

    /// Lets a write to a closed pipe or socket be an error instead of the end of the program.
    public static func ignoreBrokenPipes() { _ = cs_ignore_signal(SIGPIPE) }

    /// Undoes that, for a program that this process becomes.
    public static func restoreBrokenPipes() { _ = cs_default_signal(SIGPIPE) }

    /// A variable of the environment; nil in programs that run set-uid, set-gid or with file
    /// capabilities, whose caller must not steer them.
    public static func variable(_ name: String) -> String? {
        guard let value = unsafe cs_secure_getenv(name) else { return nil }
        return unsafe String(cString: value)
    }

    /// The whole environment as `NAME=value` entries.
    public static var environment: [String] {
        // SAFETY: the environment is NULL-terminated, and our programs never change it.
        unsafe strings(cs_environment())
    }

    /// The program's arguments, its own name first; no file is opened for them.
    public static var arguments: [String] {
        // SAFETY: the C library hands over a NULL-terminated list that lives as long as the process.
        unsafe strings(cs_arguments())
    }

    private static func strings(
        _ list: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
    ) -> [String] {
        var entries: [String] = []
        // SAFETY: the callers' lists are NULL-terminated.
        var next = unsafe list
        while let entry = unsafe next?.pointee {
            unsafe entries.append(String(cString: entry))
            unsafe next = next?.advanced(by: 1)
        }
        return entries
    }

    /// Gives back the memory of the program's code and constants: of the megabytes that a start goes
    /// through little is needed later, and that comes again from the file's cache.
    public static func letGoOfCode() { cs_let_go_of_code() }

    public static var id: Int32 { getpid() }
    public static var effectiveUser: UInt32 { geteuid() }

    /// Nanoseconds of a clock that never jumps.
    public static var now: UInt64 {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    /// Wall-clock time: seconds since 1970 and nanoseconds.
    public static var wallClock: (seconds: Int, nanoseconds: Int) {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_REALTIME, &time)
        return (time.tv_sec, time.tv_nsec)
    }

    /// Ends the program by a signal, as if it had not been handled, so that a shell sees why.
    public static func die(of signal: Int32) -> Never { cs_die_of_signal(signal) }

    /// Ends the program at once; buffers of the C library are not flushed.
    public static func exit(_ status: Int32) -> Never { Glibc._exit(status) }
}

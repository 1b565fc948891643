import CLinuxSystem

/// What started this process and watches it, where that is systemd: told by datagrams, without its
/// library.
public enum ServiceManager {
    /// The variable that names its socket; what outlives the program must not inherit it.
    public static let variable = "NOTIFY_SOCKET"

    /// Tells a state, as `READY=1` or `STATUS=…`; without such a manager nothing happens.
    public static func tell(_ state: String) {
        guard let path = CurrentProcess.variable(variable) else { return }
        // SAFETY: two C strings that outlive the call. Nobody is left to be told of a failure.
        _ = unsafe cs_send_datagram(path, state)
    }

    /// Nanoseconds within which `WATCHDOG=1` must be told again and again; nil for no watchdog.
    public static var watchdogTime: UInt64? {
        guard let text = CurrentProcess.variable("WATCHDOG_USEC"), let time = UInt64(text),
            (1...86_400_000_000).contains(time)
        else { return nil }
        if let owner = CurrentProcess.variable("WATCHDOG_PID"), owner != "\(CurrentProcess.id)" {
            return nil
        }
        return time * 1_000
    }
}

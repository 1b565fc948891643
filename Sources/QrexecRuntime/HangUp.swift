import Glibc

/// How a service ends whose caller is gone. It sees the end of its streams, and its end is awaited
/// (specification 5.4). One that does not end by itself is treated as by a terminal that hangs up,
/// and then by force; what wants to go on leaves its process group.
public enum HangUp {
    private static let endTime = seconds(1)
    private static let hangUpTime = seconds(3)

    /// - Parameter send: sends a signal to the service's process group if it is still there.
    public static func begin(in loop: EventLoop, _ send: @escaping (Int32) -> Void) {
        loop.schedule(after: endTime) { send(SIGHUP) }
        loop.schedule(after: endTime + hangUpTime) { send(SIGKILL) }
    }
}

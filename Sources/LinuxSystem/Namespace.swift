import CLinuxSystem
import Glibc
public import SystemPackage

/// Steps into the namespaces of a lab's qube, for its launcher: a process of one thread that then
/// becomes the sandbox program.
public enum Namespace {
    /// A mount namespace of our own.
    public static func privateMounts() throws(Errno) { _ = try check(cs_private_mounts()) }

    /// Mounts an empty file system, without devices and set-uid programs.
    ///
    /// - Parameter options: as for mount(8), for example `mode=0755,size=64m`.
    public static func mountTemporary(at target: String, options: String) throws(Errno) {
        _ = try check(unsafe cs_mount_tmpfs(target, options))
    }

    /// Binds an open file or directory, with the mounts below it.
    public static func bind(
        _ source: borrowing Descriptor, to target: String, readOnly: Bool
    ) throws(Errno) {
        _ = try check(unsafe cs_bind(source.number, target, readOnly ? 1 : 0))
    }

    /// Becomes root of a new user namespace whose ids 0 to `count - 1` are those from `base` on.
    public static func enterUserNamespace(base: UInt32, count: UInt32) throws(Errno) {
        _ = try check(cs_enter_user_namespace(base, count))
    }

    /// For an ordinary user: new user and mount namespaces in which the user's id is `id`.
    public static func enterOwnNamespaces(id: UInt32) throws(Errno) {
        _ = try check(cs_enter_own_namespaces(id))
    }
}

extension CurrentProcess {
    /// Becomes another program; returns only to throw.
    public static func execute(
        _ path: String, _ arguments: [String], environment: [String]
    ) throws(Errno) -> Never {
        unsafe withCStrings(arguments) { arguments in
            unsafe withCStrings(environment) { environment in
                _ = unsafe cs_execute(path, arguments, environment)
            }
        }
        throw Errno(rawValue: errno)
    }

    /// Is killed when the thread that started it ends.
    public static func dieWithParent() throws(Errno) { _ = try check(cs_die_with_parent()) }

    /// Reaps one ended child, whoever started it.
    ///
    /// - Returns: its id and its exit status, or 128 + the signal that killed it; nil when no child
    ///   has ended.
    public static func reapAnyChild() -> (pid: Int32, status: Int32)? {
        var status: Int32 = 0
        let pid = unsafe cs_reap_any(&status)
        return pid > 0 ? (pid, status) : nil
    }

    /// Sends a signal to every process that this one may signal, but itself.
    public static func signalAll(_ signal: Int32) { _ = Glibc.kill(-1, signal) }

    /// A descriptor that becomes readable when a process ends.
    public static func pidDescriptor(_ pid: Int32) throws(Errno) -> Descriptor {
        Descriptor(taking: try check(cs_pidfd_open(pid)))
    }

    /// Signals the process that a pid descriptor stands for; one that has ended is no error.
    public static func signal(_ pidDescriptor: borrowing Descriptor, _ signal: Int32) {
        _ = cs_pidfd_send_signal(pidDescriptor.number, signal)
    }

    public static var realUser: UInt32 { getuid() }
    public static var realGroup: UInt32 { getgid() }
}

extension CurrentProcess {
    /// Whether any child exists that has not been reaped.
    public static var hasChildren: Bool { cs_has_children() != 0 }
}

extension CurrentProcess {
    /// Opens /dev/null for each of the descriptors 0, 1 and 2 that this process was started
    /// without.
    public static func openClosedStreams() {
        while let null = try? Descriptor.open("/dev/null", O_RDWR) {
            let number = null.release()
            if number > 2 {
                _ = Glibc.close(number)
                return
            }
        }
    }
}

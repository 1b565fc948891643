import CLinuxSystem
import Glibc
public import SystemPackage

/// A user's ids as the kernel knows them.
public struct UserIdentity: Sendable, Equatable {
    public var uid: UInt32
    public var gid: UInt32
    /// Supplementary groups.
    public var groups: [UInt32]

    public init(uid: UInt32, gid: UInt32, groups: [UInt32]) {
        self.uid = uid
        self.gid = gid
        self.groups = groups
    }
}

/// One program to start.
public struct SpawnRequest: Sendable {
    /// Executed as it is: no search in PATH, no shell.
    public var path: String
    /// All of argv, the program's own name first.
    public var arguments: [String]
    /// `NAME=value` entries; nothing is inherited.
    public var environment: [String]
    /// Entry `i` becomes descriptor `i` of the child, nil leaves it closed; the child has no others.
    public var descriptors: [Int32?] = [0, 1, 2]
    public var directory: String?
    /// Whether the program starts although its directory cannot be entered.
    public var directoryIsOptional = false
    /// Whether the child leads a session and process group of its own.
    public var newSession = false
    /// A descriptor of the child that becomes its controlling terminal (with `newSession`).
    public var controllingTerminal: Int32?
    /// Whether the child is killed when this thread ends.
    public var diesWithParent = false
    /// Who the child runs as; nil keeps this process's user.
    public var user: UserIdentity?

    public init(path: String, arguments: [String], environment: [String]) {
        self.path = path
        self.arguments = arguments
        self.environment = environment
    }
}

/// A process that was started here and has not been reaped: held by a descriptor, so that a signal
/// never reaches another process that got the same number later.
public struct ChildProcess: ~Copyable, Sendable {
    public let pid: Int32
    /// Readable when the process has ended.
    public let pidfd: Descriptor

    public init(pid: Int32, pidfd: consuming Descriptor) {
        self.pid = pid
        self.pidfd = pidfd
    }

    /// Starts a program without copying this process.
    ///
    /// - Throws: the error of this side or of the child before its program ran (`ENOENT`, `EACCES`,
    ///   `EPERM`, …); nothing is left behind then.
    public static func spawn(_ request: SpawnRequest) throws(Errno) -> ChildProcess {
        var pidfd: Int32 = -1
        let fds = request.descriptors.map { $0 ?? -1 }
        let groups = request.user?.groups ?? []
        let pid = unsafe withCStrings(request.arguments) { arguments in
            unsafe withCStrings(request.environment) { environment in
                unsafe withOptionalCString(request.directory) { directory in
                    // SAFETY: every pointer in `call` outlives it; the child only reads.
                    unsafe request.path.withCString { path in
                        unsafe fds.withUnsafeBufferPointer { fds in
                            unsafe groups.withUnsafeBufferPointer { groups in
                                var call = unsafe cs_spawn_request()
                                unsafe call.path = unsafe path
                                unsafe call.argv = unsafe arguments
                                unsafe call.envp = unsafe environment
                                unsafe call.fds = fds.baseAddress
                                unsafe call.fd_count = Int32(fds.count)
                                unsafe call.directory = unsafe directory
                                unsafe call.directory_is_optional =
                                    request.directoryIsOptional ? 1 : 0
                                unsafe call.new_session = request.newSession ? 1 : 0
                                unsafe call.controlling_terminal = request.controllingTerminal ?? -1
                                unsafe call.die_with_parent = request.diesWithParent ? 1 : 0
                                if let user = request.user {
                                    unsafe call.change_user = 1
                                    unsafe call.uid = user.uid
                                    unsafe call.gid = user.gid
                                    unsafe call.groups = groups.baseAddress
                                    unsafe call.group_count = groups.count
                                }
                                return unsafe cs_spawn(&call, &pidfd)
                            }
                        }
                    }
                }
            }
        }
        return ChildProcess(pid: try check(pid), pidfd: Descriptor(taking: pidfd))
    }

    /// Sends a signal; a process that has ended already is no error.
    public func signal(_ signal: Int32) {
        _ = cs_pidfd_send_signal(pidfd.number, signal)
    }

    /// Sends a signal to the process group that the child leads (`newSession`).
    public func signalGroup(_ signal: Int32) {
        // The child is not reaped yet, so its number, and that of its group, is still its own.
        _ = Glibc.kill(-pid, signal)
    }

    /// Takes the exit status of the ended process, or waits for its end.
    ///
    /// - Returns: its exit status, or 128 + the signal that killed it.
    public consuming func reap() throws(Errno) -> Int32 {
        var status: Int32 = 0
        let pid = self.pid
        _ = try retrying { unsafe waitpid(pid, &status, 0) }
        return cs_exit_status(status)
    }
}

private func withOptionalCString<Result>(
    _ string: String?, _ body: (UnsafePointer<CChar>?) -> Result
) -> Result {
    guard let string else { return body(nil) }
    return unsafe string.withCString { unsafe body($0) }
}

/// Strings as a NULL-terminated vector of C strings in one allocation.
func withCStrings<Result>(
    _ strings: [String],
    _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
    var bytes: [CChar] = []
    var offsets: [Int] = []
    for string in strings {
        offsets.append(bytes.count)
        for byte in string.utf8 { bytes.append(CChar(bitPattern: byte)) }
        bytes.append(0)
    }
    // SAFETY: the vector points into `bytes`, which is not touched while `body` runs.
    return unsafe bytes.withUnsafeMutableBufferPointer { storage in
        var vector: [UnsafeMutablePointer<CChar>?] = unsafe []
        for offset in offsets { unsafe vector.append(storage.baseAddress! + offset) }
        unsafe vector.append(nil)
        return unsafe vector.withUnsafeBufferPointer { unsafe body($0.baseAddress!) }
    }
}

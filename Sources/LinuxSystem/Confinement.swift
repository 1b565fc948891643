import CLinuxSystem
import Glibc
public import SystemPackage

/// Shutting this process into one directory before it reads bytes of another qube.
public enum Confinement {
    /// From now on this thread creates and writes only beneath the directory, and reaches neither
    /// other files nor the network; what is open stays usable. `ENOSYS` and `EOPNOTSUPP` where the
    /// kernel has no Landlock.
    public static func allowOnly(beneath directory: borrowing Descriptor) throws(Errno) {
        _ = try check(cs_landlock_only(directory.number))
    }

    /// From now on this thread makes only the system calls that reading open descriptors and writing
    /// files needs: no sockets, no programs, no signals to others; those fail with `EPERM`.
    /// `EINVAL` where the kernel has no such filters.
    public static func allowOnlyFileCalls() throws(Errno) { _ = try check(cs_only_file_calls()) }

    /// Makes the directory this process's root, through a mount of its own without devices, set-uid
    /// programs or execution; needs root.
    ///
    /// - Returns: the new root.
    public static func enter(root directory: borrowing Descriptor) throws(Errno) -> Descriptor {
        Descriptor(taking: try check(cs_enter_root(directory.number)))
    }

    /// Gives up every identity but this one, for good. A process that dies with its parent still
    /// does so.
    public static func become(user: UInt32, group: UInt32) throws(Errno) {
        let dies = cs_dies_with_parent() == 1
        _ = try check(cs_become_user(user, group))
        if dies { _ = try check(cs_die_with_parent()) }
    }

    /// Does something with a user's rights and returns to those of before. Where this process is
    /// not root it has no other rights, and nothing changes.
    public static func acting<Result: ~Copyable, Failure: Error>(
        as user: UInt32, group: UInt32, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        if geteuid() != 0 || user == 0 { return try body() }
        let before = getegid()
        precondition(setegid(group) == 0 && seteuid(user) == 0, "cannot act as user \(user)")
        defer { precondition(seteuid(0) == 0 && setegid(before) == 0, "cannot return to root") }
        return try body()
    }

    /// The user who started this program, also when it is set-uid.
    public static var realUser: UInt32 { getuid() }
    public static var realGroup: UInt32 { getgid() }

    /// Makes the permission bits of new files those that were asked for.
    public static func clearUmask() { _ = umask(0) }
}

extension CurrentProcess {
    /// Lets this process open as many files as it may, for trees that are nested deeply.
    public static func raiseDescriptorLimit() { _ = cs_raise_descriptor_limit() }
}

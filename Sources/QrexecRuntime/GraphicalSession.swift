import LinuxSystem

/// The graphical session of a user of this qube, as the service `qubes.WaitForSession` sees it
/// (specification 16.2): it is up when the user's fork server listens.
public enum GraphicalSession {
    /// What makes a qube one with a graphical session: the programs that bring its windows to the
    /// screen.
    private static let displayAgents = ["/usr/bin/qubes-gui", "/usr/bin/qubes-gui-agent"]

    /// Whether this qube will have one; where not, nobody waits for it.
    public static var isExpected: Bool { displayAgents.contains { FileStatus.isExecutable($0) } }

    /// Where a user's fork server listens.
    public static func forkServer(of user: String) -> String {
        "/var/run/qubes/qrexec-server.\(user).sock"
    }

    /// Whether there is something to wait for.
    public static func isAwaited(of user: String) -> Bool {
        isExpected && (try? FileStatus.kind(of: forkServer(of: user))) != .socket
    }
}

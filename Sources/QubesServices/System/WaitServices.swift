import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// The service `qubes.WaitForSession`: ends when the graphical session of a user is up, which is
/// when that user's fork server listens (specification 16.2). A qube that has no graphical session
/// is not waited for.
public enum WaitForSessionService {
    private static let interval: UInt32 = 50_000

    /// - Parameter arguments: all of argv; the user's name comes on standard input.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.WaitForSession")
        guard let line = StandardInput.line(limit: 255) else {
            complain(program, "expected one line with a user's name")
            return 1
        }
        let own = UserAccount.numbered(CurrentProcess.effectiveUser)?.name
        // The one who runs this is the qube's default user when nobody is named.
        guard let user = line.isEmpty ? own : line, !user.contains("/"), !user.hasPrefix("."),
            let account = UserAccount.named(user)
        else {
            complain(program, "no user \(LogText.value(line)) here")
            return 1
        }
        wait(
            for: GraphicalSession.forkServer(of: account.name),
            isExpected: GraphicalSession.isExpected)
        return 0
    }

    /// Waits for a fork server's socket, when there is going to be one.
    static func wait(for socket: String, isExpected: Bool) {
        while isExpected, (try? FileStatus.kind(of: socket)) != .socket { usleep(interval) }
    }
}

/// The service `qubes.WaitForRunningSystem`: ends when the system has started: with 0 also when some
/// units of it failed, with 1 when it will not run. Without systemd there is nothing to wait for.
public enum WaitForRunningSystemService {
    private static let systemd = "/run/systemd/system"

    /// - Parameter arguments: all of argv; the service takes none.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.WaitForRunningSystem")
        guard (try? FileStatus.kind(of: systemd)) == .directory else { return 0 }
        guard let systemctl = Programs.find("systemctl") else {
            complain(program, "systemctl is not in PATH")
            return 1
        }
        do throws(Errno) {
            let output = try Descriptor.memoryFile(named: "state")
            let null = try Descriptor.open("/dev/null", O_RDONLY)
            var request = SpawnRequest(
                path: systemctl, arguments: ["systemctl", "is-system-running", "--wait"],
                environment: CurrentProcess.environment)
            request.descriptors = [null.number, output.number, 2]
            request.diesWithParent = true
            _ = try ChildProcess.spawn(request).reap()
            try output.seek(0, .start)
            var bytes = [UInt8](repeating: 0, count: 256)
            let count = try output.read(into: &bytes)
            let state = String(decoding: bytes[..<count].prefix { $0 != 0x0A }, as: UTF8.self)
            if state == "running" || state == "degraded" { return 0 }
            complain(program, "the system is in the state \(LogText.value(state))")
            return 1
        } catch {
            complain(program, "systemctl cannot be started: \(error.message)")
            return 1
        }
    }
}

import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// What the policy service has in force, as a file for `qubes-policy status`.
public enum PolicyStatus {
    public static let defaultPath = "/run/qubes/policy.status"

    /// Writes the state of a service; that it cannot be written changes nothing.
    static func write(
        to path: String, policy: Policy?, loadedAt: String?, errors: [PolicyDiagnostic],
        feed: SystemInformationFeed
    ) {
        let isKnown = feed.isKnown
        let json = JSONValue.object([
            ("pid", .number("\(CurrentProcess.id)")),
            ("rules", policy.map { .number("\($0.ruleCount)") } ?? .null),
            ("files", policy.map { .number("\($0.files.count)") } ?? .null),
            ("loaded_at", loadedAt.map { .string($0) } ?? .null),
            ("errors", .array(errors.map { .string($0.file.path + ": " + $0.description) })),
            ("qubes_known", .bool(isKnown)),
            ("qubes", .number("\(isKnown ? feed.information.qubes.count : 0)")),
            ("problem", isKnown ? .null : .string(feed.problem)),
        ])
        try? FileChange.replace(path, with: Array((json.text + "\n").utf8), mode: 0o644)
    }
}

import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// What the policy service has in force, as a file for `qubes-policy status`.
public enum PolicyStatus {
    public static let defaultPath = "/run/qubes/policy.status"

    /// The state of a service as text.
    static func text(
        policy: Policy?, loadedAt: String?, errors: [PolicyDiagnostic],
        feed: SystemInformationFeed
    ) -> String {
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
        return json.text + "\n"
    }
}

/// The version of all programs of this package.
public enum Version {
    public static let string = "0.1.0"

    /// What `--version` prints.
    public static func line(_ program: String) -> String { "\(program) (swift-qrexec) \(string)" }
}

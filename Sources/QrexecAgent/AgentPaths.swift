/// Where the agent's sockets are (section 8).
enum AgentPaths {
    /// Local programs ask for services here.
    static let trigger = "/var/run/qubes/qrexec-agent"

    /// A user's fork server; `%s` stands for the user.
    static let forkServer = "/var/run/qubes/qrexec-server.%s.sock"

    /// Between the agent and its data process: beside the trigger socket.
    static func data(trigger: String) -> String { trigger + "-data" }

    /// A pattern with the user's name in the place of `%s`; nil for a name that would lead
    /// elsewhere.
    static func forkServer(_ pattern: String, user: String) -> String? {
        guard !user.isEmpty, !user.contains("/"), user != ".", user != ".." else { return nil }
        var result = ""
        var rest = pattern[...]
        while let percent = rest.firstIndex(of: "%") {
            result += rest[..<percent]
            let next = rest[rest.index(after: percent)...]
            if next.first == "s" {
                result += user
                rest = next.dropFirst()
            } else {
                result += "%"
                rest = next
            }
        }
        return result + rest
    }
}

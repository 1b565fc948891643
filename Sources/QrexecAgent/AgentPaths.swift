/// Where the agent's sockets are (section 8).
enum AgentPaths {
    /// Local programs ask for services here.
    static let trigger = "/var/run/qubes/qrexec-agent"

    /// Between the agent and its data process: beside the trigger socket.
    static func data(trigger: String) -> String { trigger + "-data" }
}

import LinuxSystem

/// How calls are made: in a qube as everybody there does, outside as the environment says.
enum Client {
    private static let path =
        CurrentProcess.variable("CALLS_CLIENT") ?? "/usr/bin/qrexec-client-vm"

    /// What leads to the agent.
    static let options =
        CurrentProcess.variable("CALLS_AGENT").map { ["--agent-socket=\($0)"] } ?? []

    /// Makes calls one after the other, in a process that lives on.
    static let worker = CurrentProcess.variable("CALLS_WORKER") ?? Yardstick.program

    static func command(_ target: String, _ service: String) -> [String] {
        [path] + options + [target, service]
    }

    /// Of programs that are started here: little, but what leads to the transport.
    static let environment =
        ["PATH=/usr/bin:/bin"]
        + CurrentProcess.environment.filter {
            $0.hasPrefix("QREXEC_VCHAN=") || $0.hasPrefix("VCHAN_") || $0.hasPrefix("CALLS_")
        }
}

import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Finds or starts the agent's data process.
enum AgentDataStarter {
    static let programName = "qrexec-agent-data"
    /// Number of the listening socket in the new process.
    static let listenerNumber: Int32 = 3

    /// A connection to the data process at `path`, which is started when there is none.
    static func connection(_ path: String, _ options: CallOptions) throws(Errno) -> Descriptor {
        do throws(Errno) {
            return try UnixSocket.connect(path, .sequencedPacket)
        } catch .noSuchFileOrDirectory, .connectionRefused {
            try FileStatus.remove(path)
            try start(path, options)
            return try UnixSocket.connect(path, .sequencedPacket)
        }
    }

    /// The socket exists before the process does, so that nobody has to wait for it.
    private static func start(_ path: String, _ options: CallOptions) throws(Errno) {
        let listener = try UnixSocket.listen(path, .sequencedPacket, mode: 0o600)
        var request = SpawnRequest(
            path: "/proc/self/exe", arguments: [programName, path] + options.arguments,
            environment: CurrentProcess.environment.filter {
                !$0.hasPrefix(ServiceManager.variable + "=")
            })
        request.descriptors = [nil, nil, 2, listener.number]
        let null = try Descriptor.open("/dev/null", 2)
        request.descriptors[0] = null.number
        request.descriptors[1] = null.number
        request.newSession = true
        // Not reaped here: the process outlives the agent, and this qube's process 1 reaps it.
        _ = try ChildProcess.spawn(request)
    }
}

import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Finds or starts the agent's data process.
enum AgentDataStarter {
    static let programName = "qrexec-agent-data"
    /// Number of the listening socket in the new process.
    static let listenerNumber: Int32 = 3

    /// A connection to the data process at `path`, which is started when there is none.
    static func connection(
        _ path: String, _ options: CallOptions, loop: EventLoop
    ) throws(Errno) -> Descriptor {
        do throws(Errno) {
            return try UnixSocket.connect(path, .sequencedPacket)
        } catch .noSuchFileOrDirectory, .connectionRefused {
            try FileStatus.remove(path)
            try start(path, options, loop)
            return try UnixSocket.connect(path, .sequencedPacket)
        }
    }

    /// The socket exists before the process does, so that nobody has to wait for it.
    private static func start(
        _ path: String, _ options: CallOptions, _ loop: EventLoop
    ) throws(Errno) {
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
        try Started(ChildProcess.spawn(request)).reapAtItsEnd(in: loop)
    }

    /// A data process of this agent. One that outlives the agent is reaped by the qube's process 1.
    private final class Started {
        private var child: ChildProcess?

        init(_ child: consuming ChildProcess) { self.child = consume child }

        /// The loop holds it until then.
        func reapAtItsEnd(in loop: EventLoop) throws(Errno) {
            guard let number = child?.pidfd.number else { return }
            try loop.watch(number, .readable) { _ in
                loop.unwatch(number)
                if let child = self.child.take() { _ = try? child.reap() }
            }
        }
    }
}

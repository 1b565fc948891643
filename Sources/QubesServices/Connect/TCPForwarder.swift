import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Makes each connection to a local port a call of `qubes.ConnectTCP` in another qube: the client of
/// the call gets the connection itself, so that no byte passes through here.
final class TCPForwarder {
    /// Connections at a time; more wait to be taken. dom0 has ports for 256 calls of a qube.
    static let maximumConnections = 128

    private let loop: EventLoop
    private let listener: Descriptor
    private let command: [String]
    private let reporter: String
    private var children: [Int32: Child] = [:]

    private final class Child {
        private var process: ChildProcess?

        init(_ process: consuming ChildProcess) { self.process = consume process }

        func signal(_ signal: Int32) { process?.signal(signal) }

        func reap() -> Int32? {
            guard let ended = process.take() else { return nil }
            return try? ended.reap()
        }
    }

    /// - Parameter client: path of `qrexec-client-vm`.
    init(
        listener: consuming Descriptor, target: String, port: UInt16, client: String,
        reporter: String
    ) throws(Errno) {
        loop = try EventLoop()
        let number = listener.number
        self.listener = consume listener
        self.reporter = reporter
        command = [client, "--use-stdin-socket", "--", target, "qubes.ConnectTCP+\(port)"]
        try self.listener.setNonblocking(true)
        try loop.watch(number, .readable) { [unowned self] _ in self.accept() }
        try loop.onSignals([SIGINT, SIGTERM, SIGHUP]) { [unowned self] _ in self.loop.stop() }
    }

    /// Serves until a signal comes; then the connections end.
    func run() throws(Errno) {
        try loop.run()
        for child in children.values {
            child.signal(SIGTERM)
            _ = child.reap()
        }
    }

    private func accept() {
        do throws(Errno) {
            let connection = try UnixSocket.accept(listener)
            var request = SpawnRequest(
                path: command[0], arguments: command, environment: CurrentProcess.environment)
            request.descriptors = [connection.number, connection.number, 2]
            request.diesWithParent = true
            let process = try ChildProcess.spawn(request)
            let number = process.pidfd.number
            children[number] = Child(process)
            try loop.watch(number, .readable) { [unowned self] _ in self.ended(number) }
        } catch .resourceTemporarilyUnavailable {
        } catch .connectionAbort {
        } catch {
            complain(reporter, "a connection is dropped: \(error.message)")
        }
        if children.count >= Self.maximumConnections { loop.setInterest(listener.number, []) }
    }

    private func ended(_ number: Int32) {
        loop.unwatch(number)
        if let status = children.removeValue(forKey: number)?.reap(), status == 126 {
            complain(reporter, "the policy refuses \(command[4]) at \(command[3])")
        }
        loop.setInterest(listener.number, .readable)
    }
}

import Glibc
import LinuxSystem
import SystemPackage

/// A call of a service in another qube, through `qrexec-client-vm`.
struct RemoteCall {
    /// Whom to call: a qube, or a keyword like `@default`.
    var target: String
    /// The service, with `+` and its argument if it has one.
    var service: String
    /// The local program and its arguments; empty connects the standard streams.
    var localProgram: [String] = []
    /// `NAME=value` entries of the client's environment.
    var environment = CurrentProcess.environment
    /// Text for the service instead of standard input.
    var input: String?

    /// Makes the call and waits for its end. A signal to us ends the call first.
    ///
    /// - Returns: its exit status, 128 + a signal when that ended it.
    func run() throws(FileProblem) -> Int32 {
        let client = try Programs.client()
        var request = SpawnRequest(
            path: client, arguments: [client, target, service] + localProgram,
            environment: environment)
        request.diesWithParent = true
        do throws(Errno) {
            let signals = try CurrentProcess.signalDescriptor([SIGINT, SIGTERM, SIGHUP])
            guard let input else {
                return try Self.wait(for: try ChildProcess.spawn(request), signals)
            }
            let pipe = try Descriptor.pipe()
            request.descriptors = [pipe.first.number, 1, 2]
            let child = try ChildProcess.spawn(request)
            // Short enough for the pipe, whoever reads it.
            try Descriptor.writeAll(Array(input.utf8), to: pipe.second.number)
            discard(pipe)
            return try Self.wait(for: child, signals)
        } catch {
            throw FileProblem(Array(client.utf8), "cannot be started: \(error.message)")
        }
    }

    /// Closes both ends.
    private func discard(_ pipe: consuming DescriptorPair) {}

    private static func wait(
        for child: consuming ChildProcess, _ signals: borrowing Descriptor
    ) throws(Errno) -> Int32 {
        var received: Int32?
        while try !Descriptor.waitForEither(child.pidfd.number, signals.number).first {
            guard let signal = try CurrentProcess.nextSignal(of: signals) else { continue }
            // The terminal sends Ctrl-C to the call too, but a second one does no harm.
            child.signal(signal)
            received = signal
        }
        let status = try child.reap()
        // The call may have ended well in the same moment.
        if let received, status != 0 { return 128 + received }
        return status
    }
}

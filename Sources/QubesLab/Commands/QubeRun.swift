import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qubes-lab run` and `shell`: a program in a qube with this process's streams, terminal, signals
/// and exit status.
///
/// The streams themselves are handed over, so nothing copies bytes on the way and ends are passed on
/// as they are. Only a terminal is copied: the qube has one of its own, and ours becomes its window.
final class QubeRun {
    private static let forwarded = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH]

    private let loop: EventLoop
    private let connection: Descriptor
    private var terminal: TerminalBridge?
    private var status: Int32 = 125
    private var failure: String?

    private init(_ connection: consuming Descriptor) throws(Errno) {
        loop = try EventLoop()
        self.connection = connection
    }

    /// Runs the program to its end.
    ///
    /// - Parameter request: gets a terminal when this process has one at both ends.
    /// - Returns: its exit status, or 128 + the signal that killed it.
    static func run(
        _ request: ProgramRequest, in qube: String, of state: StateDirectory
    ) throws(LabError) -> Int32 {
        let client = try ManagerClient(state)
        _ = try client.ask(.run(qube))
        var request = request
        request.environment["TERM"] = CurrentProcess.variable("TERM") ?? "dumb"
        if TerminalDevice.isTerminal(0), TerminalDevice.isTerminal(1),
            let size = try? TerminalDevice.size(0)
        {
            request.terminal = .init(rows: size.rows, columns: size.columns)
        }
        let run: QubeRun
        do throws(Errno) {
            run = try QubeRun(try client.socket.duplicate())
            defer { run.terminal?.end() }
            try run.begin(request)
            try run.loop.run()
        } catch {
            throw LabError("cannot run it: \(error)")
        }
        if let failure = run.failure {
            try? Descriptor.writeAll(Array("qubes-lab: \(failure)\n".utf8), to: 2)
        }
        return run.status
    }

    private func begin(_ request: ProgramRequest) throws(Errno) {
        CurrentProcess.ignoreBrokenPipes()
        try loop.onSignals(Self.forwarded) { [unowned self] signal in self.forward(signal) }
        try loop.watch(connection.number, .readable) { [unowned self] _ in self.receive() }
        let file = try Descriptor.memoryFile("qubes-lab-request")
        try file.writeAll(Packet.encode(request))
        try file.seek(to: 0)
        let null = try Descriptor.open("/dev/null", O_RDWR)
        var descriptors = [file.number]
        if request.terminal == nil {
            for stream in Int32(0)...2 {
                // A stream that is closed here is empty there.
                let isOpen = (try? Descriptor.kind(of: stream)) != nil
                descriptors.append(isOpen ? stream : null.number)
                PathStatus.openPipe(stream)
            }
        }
        _ = try UnixSocket.send(connection, [1], descriptors: descriptors, wait: true)
    }

    private func forward(_ signal: Int32) {
        if signal == SIGWINCH {
            terminal?.passSize()
        } else {
            _ = try? UnixSocket.send(connection.number, ClientSignal(signal).bytes.span)
        }
    }

    private func receive() {
        var descriptors = DescriptorList()
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try UnixSocket.receive(
                connection, limit: InitReport.maximumLength, maximumDescriptors: 1,
                descriptors: &descriptors)
        } catch .resourceTemporarilyUnavailable {
            return
        } catch {
            return finish(137, "the qube was stopped")
        }
        guard let report = InitReport(bytes) else { return finish(137, "the qube was stopped") }
        switch report.kind {
        case .started:
            guard let master = descriptors.takeFirst() else { return }
            do throws(Errno) {
                terminal = try TerminalBridge(loop: loop, master: master)
            } catch {
                finish(125, "cannot use the terminal: \(error)")
            }
        case .failed: finish(report.value, LogText.line(report.text))
        case .ended: finish(report.value, nil)
        case .ready: break
        }
    }

    private func finish(_ status: Int32, _ failure: String?) {
        self.status = status
        self.failure = failure
        loop.unwatch(connection.number)
        loop.stop()
    }
}

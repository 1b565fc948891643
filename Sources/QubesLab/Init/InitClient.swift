import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// One `qubes-lab run` or `shell` in process 1 of its domain: takes the request with the
/// descriptors, starts the program, passes signals on, and tells the exit status.
final class InitClient {
    /// How long a program whose client is gone may take to end after SIGHUP.
    private static let patience = seconds(5)
    /// Bytes of a request: what the system takes as arguments, and the JSON around it.
    static let maximumRequest = 4 << 20

    private let connection: Descriptor
    private let loop: EventLoop
    private unowned let process: QubeInit
    private var program: QubeInit.Program?
    private var isClosed = false

    init(connection: consuming Descriptor, loop: EventLoop, process: QubeInit) {
        self.connection = connection
        self.loop = loop
        self.process = process
    }

    func begin() {
        do throws(Errno) {
            try loop.watch(connection.number, .readable) { [unowned self] _ in self.receive() }
        } catch {
            process.forget(self)
        }
    }

    private func close() {
        guard !isClosed else { return }
        isClosed = true
        loop.unwatch(connection.number)
        process.forget(self)
    }

    private func report(_ report: InitReport, _ descriptors: [Int32] = []) {
        _ = try? UnixSocket.send(connection, report.bytes, descriptors: descriptors)
    }

    private func receive() {
        var descriptors = DescriptorList()
        let bytes: [UInt8]
        do throws(Errno) {
            bytes = try UnixSocket.receive(
                connection, limit: 64, maximumDescriptors: 4, descriptors: &descriptors)
        } catch .resourceTemporarilyUnavailable {
            return
        } catch {
            return hangUp()
        }
        if bytes.isEmpty { return hangUp() }
        guard let program else { return start(&descriptors) }
        if let signal = ClientSignal(bytes: bytes), process.isRunning(program) {
            program.child.signalGroup(signal.number)
        }
    }

    /// The client is gone: its program hears it as from a closed terminal.
    private func hangUp() {
        close()
        guard let program, process.isRunning(program) else { return }
        program.child.signalGroup(SIGHUP)
        program.child.signalGroup(SIGCONT)
        loop.schedule(after: Self.patience) { [process] in
            if process.isRunning(program) { program.child.signalGroup(SIGKILL) }
        }
    }

    private func start(_ descriptors: inout DescriptorList) {
        do throws(ProgramStart.Failure) {
            guard let file = descriptors.takeFirst(),
                let bytes = try? file.readAll(limit: Self.maximumRequest),
                let request = Packet.decode(ProgramRequest.self, bytes)
            else { throw ProgramStart.Failure(status: 125, reason: "no request") }
            if let size = request.terminal {
                try startInTerminal(request, size)
            } else {
                try startPlain(request, &descriptors)
            }
        } catch {
            report(InitReport(kind: .failed, value: error.status, text: error.reason))
            close()
        }
    }

    private func startPlain(
        _ request: ProgramRequest, _ descriptors: inout DescriptorList
    ) throws(ProgramStart.Failure) {
        guard let input = descriptors.takeFirst(), let output = descriptors.takeFirst(),
            let errors = descriptors.takeFirst()
        else { throw ProgramStart.Failure(status: 125, reason: "no descriptors") }
        let child = try ProgramStart(request).spawn(
            descriptors: [input.number, output.number, errors.number], terminal: false)
        report(InitReport(kind: .started))
        keep(child)
    }

    private func startInTerminal(
        _ request: ProgramRequest, _ size: ProgramRequest.TerminalSize
    ) throws(ProgramStart.Failure) {
        let start = try ProgramStart(request)
        let pair = try makeTerminal(owner: start.account?.identity.uid ?? 0, size)
        let slave = pair.second.number
        let child = try start.spawn(descriptors: [slave, slave, slave], terminal: true)
        report(InitReport(kind: .started), [pair.first.number])
        keep(child)
    }

    private func makeTerminal(
        owner: UInt32, _ size: ProgramRequest.TerminalSize
    ) throws(ProgramStart.Failure) -> DescriptorPair {
        do throws(Errno) {
            let pair = try TerminalDevice.makePair(owner: owner)
            try TerminalDevice.setSize(
                pair.first.number, TerminalDevice.Size(rows: size.rows, columns: size.columns))
            return pair
        } catch {
            throw ProgramStart.Failure(status: 125, reason: "cannot make a terminal: \(error)")
        }
    }

    private func keep(_ child: consuming ChildProcess) {
        program = process.keep(child) { [self] status in
            report(InitReport(kind: .ended, value: status))
            close()
            // Its action holds this client.
            program = nil
        }
    }
}

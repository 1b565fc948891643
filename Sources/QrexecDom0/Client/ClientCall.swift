import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// A call from dom0 to a qube: command to its daemon, then the data channel.
final class ClientCall {
    private let arguments: ClientProgram.Arguments
    private let log: Log
    private let loop: EventLoop
    private let directory: TargetDirectory
    private var reach: TargetReach?
    private var connection: DaemonConnection?
    private var session: CallerSession?
    private var result: Result<Int32, StartFailure> = .success(CallStatus.problem)

    private static let killTime = seconds(60)

    init(_ arguments: ClientProgram.Arguments, log: Log) throws {
        self.arguments = arguments
        self.log = log
        loop = try EventLoop()
        directory = TargetDirectory(
            loop: loop, socketDirectory: arguments.socketDirectory, qubesd: QubesdCall(loop: loop))
        try loop.onSignals([SIGINT, SIGTERM, SIGHUP]) { [unowned self] signal in
            self.session?.restoreStreams()
            CurrentProcess.die(of: signal)
        }
    }

    func run() throws -> Int32 {
        let reach = TargetReach(arguments.target, in: directory, start: .whenNeeded)
        self.reach = reach
        reach.connect { [unowned self] in self.reached($0) }
        try loop.run()
        if arguments.killsTarget { try kill() }
        return try result.get()
    }

    private func end(_ result: Result<Int32, StartFailure>) {
        self.result = result
        // The loop may not run yet.
        loop.defer { [loop] in loop.stop() }
    }

    private func kill() throws {
        directory.qubesd.call(
            "admin.vm.Kill", destination: arguments.target, timeout: Self.killTime
        ) { [unowned self] in
            if case .failure(let failure) = $0 {
                self.log.warning("\(self.arguments.target) cannot be killed: \(failure)")
            }
            self.loop.stop()
        }
        try loop.run()
    }

    private func reached(_ result: Result<HeldDescriptor, TargetReach.Failure>) {
        do {
            let type: MessageType = arguments.startsOnly ? .justExec : .execCommandLine
            let request = ExecRequest(
                connect: ConnectParameters(domain: 0, port: 0), command: arguments.command)
            guard request.body.count <= Limits.localBody else {
                throw StartFailure(reason: "the command is longer than \(Limits.localBody) bytes")
            }
            let held = try result.get()
            try DaemonConnection.send(type, request.body, to: held)
            connection = try DaemonConnection(loop: loop, sent: type, on: held) {
                [unowned self] in self.answered($0)
            }
        } catch {
            fail(error)
        }
    }

    private func answered(_ answer: Result<ConnectParameters, DaemonConnection.Failure>) {
        do { try serve(answer.get()) } catch { fail(error) }
    }

    private func fail(_ error: any Error) {
        end(.failure(error as? StartFailure ?? StartFailure(reason: "\(error)")))
    }

    private func serve(_ place: ConnectParameters) throws {
        var options = arguments.session
        if let program = arguments.localProgram {
            options.localProgram = try localProgram(program)
        }
        let preparation = try CallerSession.Preparation(
            ringSize: Limits.dataRing, options: options)
        session = try CallerSession.serving(
            place, preparation, loop: loop, options: options, log: log
        ) { [unowned self] in self.end(.success($0)) }
    }

    private func localProgram(_ text: String) throws -> SpawnRequest {
        let command = try Command(Array(text.utf8), hasUser: false)
        switch command.kind {
        case .service(let call): return try InnerCall.request(for: call)
        case .shell(let line):
            var request = try Dom0Host.make().request(.shell(line), nil)
            request.environment.append("QREXEC_REMOTE_DOMAIN=\(arguments.target)")
            return request
        }
    }
}

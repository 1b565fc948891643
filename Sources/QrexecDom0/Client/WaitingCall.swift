import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage
import Vchan

/// A request of a qube whose daemon waits for somebody to connect it: `-c IDENT,SOURCE,DOMID`.
struct WaitingRequest {
    let ident: RequestIdent
    let source: String
    let domain: DomainID

    init(_ text: String) throws(OptionParser.UsageError) {
        let fields = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard fields.count == 3, let ident = RequestIdent(fields[0]), !fields[0].isEmpty,
            !fields[1].isEmpty, fields[1].utf8.allSatisfy(Names.isTargetCharacter),
            let number = UInt32(fields[2]), let domain = DomainID(number)
        else {
            throw OptionParser.UsageError("-c: expected IDENT,SOURCE,DOMID, not '\(text)'")
        }
        guard domain != .dom0, !AllowedCall.isDom0(fields[1]) else {
            throw OptionParser.UsageError("-c: dom0 makes its own calls without -c")
        }
        self.ident = ident
        source = fields[1]
        self.domain = domain
    }
}

/// Connects a waiting request to a qube, or to dom0 (specification, section 7). The helper of an
/// implementation whose policy program makes the call itself.
final class WaitingCall {
    private let arguments: ClientProgram.Arguments
    private let waiting: WaitingRequest
    private let log: Log
    private let loop: EventLoop
    private let directory: TargetDirectory
    private var target: DaemonConnection?
    private var source: DaemonConnection?
    private var session: ServiceSession?
    private var result: Result<Int32, StartFailure> = .success(CallStatus.problem)

    /// The status of a call to a qube that could not be connected.
    private static let failedStatus: Int32 = 137

    init(_ arguments: ClientProgram.Arguments, log: Log) throws {
        self.arguments = arguments
        self.log = log
        waiting = arguments.waiting!
        loop = try EventLoop()
        directory = TargetDirectory(
            loop: loop, socketDirectory: arguments.socketDirectory, qubesd: QubesdCall(loop: loop))
    }

    func run() throws -> Int32 {
        if arguments.isForDom0 {
            let nowhere = ServiceConnect(
                connect: ConnectParameters(domain: 0, port: 0), ident: waiting.ident)
            try connectSource(nowhere) { [unowned self] in self.serve($0) }
            try loop.run()
            return try result.get()
        }
        do {
            try connectTarget()
            try loop.run()
            return try result.get()
        } catch {
            log.error("\((error as? StartFailure)?.reason ?? "\(error)")")
            return Self.failedStatus
        }
    }

    private func end(_ result: Result<Int32, StartFailure>) {
        self.result = result
        loop.defer { [loop] in loop.stop() }
    }

    private func fail(_ error: any Error) {
        end(.failure(error as? StartFailure ?? StartFailure(reason: "\(error)")))
    }

    /// Connects at once: it is a running qube's daemon.
    private func connect(_ name: String) throws(TargetReach.Failure) -> HeldDescriptor {
        var result: Result<HeldDescriptor, TargetReach.Failure>?
        TargetReach(name, in: directory, start: .never).connect { result = $0 }
        guard let result else {
            throw .unreachable(path: name, .resourceTemporarilyUnavailable)
        }
        return try result.get()
    }

    // MARK: To a qube

    private func connectTarget() throws {
        let request = ExecRequest(
            connect: ConnectParameters(domain: UInt32(waiting.domain.rawValue), port: 0),
            command: arguments.command)
        let held = try connect(arguments.target)
        try DaemonConnection.send(.execCommandLine, request.body, to: held)
        let target = try DaemonConnection(loop: loop, sent: .execCommandLine, on: held) {
            [unowned self] answer in
            do {
                let place = try answer.get()
                try self.connectSource(ServiceConnect(connect: place, ident: self.waiting.ident))
            } catch {
                self.fail(error)
            }
        }
        self.target = target
        target.onCallEnd = { [unowned self] in
            if self.arguments.waitsForEnd { self.end(.success(0)) }
        }
    }

    // MARK: The waiting request

    /// - Parameter onAnswer: for a place that the daemon allocates; without it there is no answer.
    private func connectSource(
        _ request: ServiceConnect, onAnswer: ((ConnectParameters) -> Void)? = nil
    ) throws {
        let held: HeldDescriptor
        do throws(TargetReach.Failure) {
            held = try connect(waiting.source)
        } catch {
            held = try connect("\(waiting.domain)")
        }
        try DaemonConnection.send(.serviceConnect, request.body, to: held)
        let source = try DaemonConnection(loop: loop, sent: .serviceConnect, on: held) {
            [unowned self] in
            switch $0 {
            case .success(let place): onAnswer?(place)
            case .failure(let failure): self.fail(failure)
            }
        }
        self.source = source
        source.onGreeting = { [unowned self] in
            // There is no other answer.
            if onAnswer == nil { self.sourceConnected() }
        }
    }

    private func sourceConnected() {
        if !arguments.waitsForEnd { end(.success(0)) }
        // The daemon has the message; that it ends the connection means nothing any more.
        loop.defer { [unowned self] in self.source?.close() }
    }

    // MARK: To dom0

    private func serve(_ place: ConnectParameters) {
        do {
            guard let port = Port(place.port), let domain = DomainID(place.domain) else {
                throw StartFailure(reason: "the daemon named no data port")
            }
            var host = Dom0Host.make()
            let plain = host.request
            let variable = "QREXEC_REMOTE_DOMAIN=\(waiting.source)"
            host.request = { (program, user) throws(StartFailure) in
                var request = try plain(program, user)
                if case .shell = program { request.environment.append(variable) }
                return request
            }
            let request = ExecRequest(connect: place, command: arguments.command)
            try Dom0Session.waitIfConfigured(for: arguments.command)
            let session = ServiceSession(
                loop: loop, host: host, request: request, justExec: false,
                channel: try Transport.selected().connect(to: domain, port: port), log: log
            ) { [unowned self] in
                self.end(.success(self.session?.status ?? CallStatus.problem))
            }
            self.session = session
            try session.start()
        } catch {
            fail(error)
        }
    }
}

import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// A service of dom0 that is started for a confined daemon: the daemon moves the data, this keeps
/// the process.
final class Dom0Service {
    /// What the daemon is told.
    struct Started {
        let fields: [String: String]
        let descriptors: [HeldDescriptor]
        /// There is no process to wait for.
        let isOver: Bool
    }

    private let loop: EventLoop
    private let log: Log
    private let user: UInt32
    private let errors: HeldDescriptor
    private let host = Dom0Host.make()
    private var child: ChildProcess?
    private var connection: PendingConnection?

    /// The program has ended, with its status; nil where there was none.
    var onEnd: (Int32?) -> Void = { _ in }

    init(loop: EventLoop, log: Log, user: UInt32, errors: HeldDescriptor) {
        self.loop = loop
        self.log = log
        self.user = user
        self.errors = errors
    }

    func start(_ command: Command, _ completion: @escaping (Started) -> Void) {
        guard case .service(let call) = command.kind else {
            return fail(StartFailure(reason: "no service"), completion)
        }
        do throws(StartFailure) {
            let config = try config(of: call)
            let service: ServiceLookup.Service
            do throws(ServiceLookup.Failure) {
                service = try host.lookup.find(call)
            } catch {
                throw StartFailure(status: error.status, reason: "\(call.service): \(error)")
            }
            switch service {
            case .executable(let path): completion(try run(path, call))
            case .unixSocket(let path):
                try connect(call, config, completion) { () throws(Errno) in
                    try UnixSocket.connect(path)
                }
            case .tcp(let host, let port):
                try connect(call, config, completion) { () throws(Errno) in
                    try TCPSocket.connect(host: host, port: port)
                }
            }
        } catch {
            fail(error, completion)
        }
    }

    private func fail(_ failure: StartFailure, _ completion: (Started) -> Void) {
        log.warning(
            "a call to dom0 cannot be started",
            ["status": "\(failure.status)", "reason": failure.reason])
        completion(
            Started(
                fields: ["kind": "none", "status": "\(failure.status)"], descriptors: [],
                isOver: true))
    }

    private func config(of call: ServiceCall) throws(StartFailure) -> RPCConfig {
        do throws(RPCConfig.Invalid) {
            return try RPCConfig.load(for: call) { [log] key in
                log.warning("unknown key in the service's configuration", ["key": key])
            }
        } catch {
            throw StartFailure(reason: error.description)
        }
    }

    // MARK: Programs

    private func run(_ path: String, _ call: ServiceCall) throws(StartFailure) -> Started {
        var spawn = try host.request(.executable(path: path, call: call), nil)
        spawn.newSession = true
        if CurrentProcess.effectiveUser == 0, user != 0 {
            // As the user who started the daemon, as if the daemon had started it.
            guard let account = UserAccount.numbered(user) else {
                throw StartFailure(reason: "the daemon's user \(user) has no account")
            }
            spawn.user = account.identity
        }
        do throws(Errno) {
            let input = try UnixSocket.pair()
            let output = try UnixSocket.pair()
            spawn.descriptors = [input.second.number, output.second.number, errors.number ?? 2]
            let started = try ChildProcess.spawn(spawn)
            let number = started.pidfd.number
            child = consume started
            // Holds this object until the process is reaped.
            try loop.watch(number, .readable) { _ in self.exited() }
            return Started(
                fields: ["kind": "program"],
                descriptors: [HeldDescriptor(input.first), HeldDescriptor(output.first)],
                isOver: false)
        } catch {
            let notFound = error == .noSuchFileOrDirectory
            throw StartFailure(
                status: notFound ? CallStatus.notFound : CallStatus.problem,
                reason: "\(path): \(error)")
        }
    }

    private func exited() {
        guard let ended = child.take() else { return }
        loop.unwatch(ended.pidfd.number)
        let handler = onEnd
        onEnd = { _ in }
        handler((try? ended.reap()) ?? CallStatus.problem)
    }

    /// Its caller is gone.
    func hangUp() {
        guard child != nil else { return }
        HangUp.begin(in: loop) { [weak self] signal in
            guard let self, self.child != nil else { return }
            self.child!.signalGroup(signal)
        }
    }

    // MARK: Socket services

    private func connect(
        _ call: ServiceCall, _ config: RPCConfig, _ completion: @escaping (Started) -> Void,
        _ open: () throws(Errno) -> Descriptor
    ) throws(StartFailure) {
        let header = config.skipServiceDescriptor ? [] : Array(call.words.utf8) + [0]
        let name = call.service
        do throws(Errno) {
            connection = try PendingConnection(
                loop: loop, taking: open(), header: header
            ) { [self] error in
                guard var pending = connection.take() else { return }
                if let error {
                    let reason = "\(name): cannot connect: \(error)"
                    return fail(StartFailure(reason: reason), completion)
                }
                let fields = [
                    "kind": "socket", "client-eof": config.exitOnClientEOF ? "1" : "0",
                    "service-eof": config.exitOnServiceEOF ? "1" : "0",
                ]
                completion(
                    Started(
                        fields: fields, descriptors: [HeldDescriptor(pending.take())],
                        isOver: true))
            }
        } catch {
            throw StartFailure(reason: "\(name): cannot connect: \(error)")
        }
    }
}

import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// `wait-for-session` in dom0: services that need the graphical session start when the program
/// `qubes.WaitForSession` has ended, with whatever status (specification, sections 6 and 11).
enum Dom0Session {
    /// The program to wait for; nil for calls that wait for nothing.
    static func program(for call: ServiceCall) -> SpawnRequest? {
        // A configuration that is broken is told by the start of the service.
        guard let config = try? RPCConfig.load(for: call, ignored: { _ in }),
            config.waitForSession
        else { return nil }
        let waiting = ServiceCall(descriptor: "qubes.WaitForSession", source: "dom0")
        guard case .executable(let path) = try? ServiceLookup.configured.find(waiting) else {
            return nil
        }
        return SpawnRequest(
            path: path, arguments: [path],
            environment: ServiceEnvironment.inherited + ["QREXEC_REMOTE_DOMAIN=dom0"])
    }

    private static func start(_ program: SpawnRequest) throws(Errno) -> ChildProcess {
        var program = program
        // Upstream closes its input: it is not told a user.
        let null = try Descriptor.open("/dev/null", 2)
        program.descriptors = [null.number, null.number, 2]
        return try ChildProcess.spawn(program)
    }

    /// Waits, for programs that do nothing else.
    static func waitIfConfigured(for call: ServiceCall) throws {
        guard let program = program(for: call) else { return }
        _ = try start(program).reap()
    }

    static func waitIfConfigured(for command: [UInt8]) throws {
        guard let command = try? Command(command, hasUser: false),
            case .service(let call) = command.kind
        else { return }
        try waitIfConfigured(for: call)
    }

    /// Waits in a loop.
    ///
    /// - Parameter action: called at once when there is nothing to wait for.
    static func whenReady(
        for command: Command, loop: EventLoop, log: Log, _ action: @escaping () -> Void
    ) {
        guard case .service(let call) = command.kind, let program = program(for: call) else {
            return action()
        }
        do throws(Errno) {
            let waiter = Waiter(try start(program))
            let number = waiter.number
            try loop.watch(number, .readable) { _ in
                loop.unwatch(number)
                waiter.reap()
                action()
            }
        } catch {
            log.warning("\(program.path) cannot be started", ["reason": error.description])
            action()
        }
    }

    private final class Waiter {
        private var child: ChildProcess?
        let number: Int32

        init(_ child: consuming ChildProcess) {
            number = child.pidfd.number
            self.child = consume child
        }

        func reap() {
            if let child = child.take() { _ = try? child.reap() }
        }
    }
}

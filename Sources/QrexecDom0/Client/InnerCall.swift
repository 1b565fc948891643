import LinuxSystem
import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// A call from dom0 to dom0: this process becomes the service.
enum InnerCall {
    static func run(_ arguments: ClientProgram.Arguments) throws -> Int32 {
        guard arguments.localProgram == nil else {
            throw StartFailure(reason: "-l cannot be used with a call from dom0 to dom0")
        }
        guard arguments.session.prefix.isEmpty, !arguments.session.usesInputSocket else {
            throw StartFailure(
                reason: "-p and --use-stdin-socket cannot be used with a call from dom0 to dom0")
        }
        let command: Command
        do throws(ProtocolError) {
            command = try Command(arguments.command, hasUser: true)
        } catch {
            throw StartFailure(reason: error.description)
        }
        guard command.user == "DEFAULT", case .service(let call) = command.kind else {
            throw StartFailure(reason: "in dom0 only DEFAULT:QUBESRPC … can be called")
        }
        let request = try request(for: call)
        try Dom0Session.waitIfConfigured(for: call)
        // Exit status, signals and terminal are the service's own.
        CurrentProcess.restoreBrokenPipes()
        do throws(Errno) {
            try CurrentProcess.execute(
                request.path, request.arguments, environment: request.environment)
        } catch {
            throw StartFailure(
                status: error == .noSuchFileOrDirectory ? CallStatus.notFound : CallStatus.problem,
                reason: "\(request.path): \(error)")
        }
    }

    /// The local service of a `QUBESRPC …` command, which must be an executable.
    static func request(for call: ServiceCall) throws -> SpawnRequest {
        let service: ServiceLookup.Service
        do throws(ServiceLookup.Failure) {
            service = try ServiceLookup.configured.find(call)
        } catch {
            throw StartFailure(status: error.status, reason: "\(call.service): \(error)")
        }
        guard case .executable(let path) = service else {
            throw StartFailure(reason: "\(call.service): no executable service")
        }
        return try Dom0Host.make().request(.executable(path: path, call: call), nil)
    }
}

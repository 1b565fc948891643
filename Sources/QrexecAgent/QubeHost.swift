import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime

/// How programs are started in a qube (specification, section 8).
enum QubeHost {
    /// As root: any user, in that user's login environment. Otherwise: only as this process's own
    /// user, in its own environment.
    static func make() -> ServiceHost {
        ServiceHost(
            lookup: .configured, commandsNameUser: true, sendsError: true,
            connectTimeout: TimeLimits.qubeConnect,
            request: { program, user throws(StartFailure) in
                guard let user else { throw StartFailure(reason: "the command names no user") }
                return CurrentProcess.effectiveUser == 0
                    ? try asUser(program, user) : try asSelf(program, user)
            })
    }

    private static var agentVariable: String { "QREXEC_AGENT_PID=\(CurrentProcess.id)" }

    // MARK: As root

    /// Exports `NAME=value` parameters up to `--`, then runs the rest. Values never are part of
    /// the script's text.
    private static let loginScript =
        #"while [ "$1" != -- ]; do export "$1"; shift; done; shift; exec "$@""#

    private static func asUser(
        _ program: ServiceProgram, _ user: String
    ) throws(StartFailure) -> SpawnRequest {
        guard let account = UserAccount.named(user) else {
            throw StartFailure(reason: "no user '\(LogText.line(user))' in this qube")
        }
        let path: String
        let arguments: [String]
        switch program {
        case .executable(let file, let call):
            path = "/bin/sh"
            arguments =
                ["sh", "-lc", loginScript, "sh"] + ServiceEnvironment.variables(call) + ["--"]
                + ServiceEnvironment.arguments(file, call)
        case .shell(let line):
            path = account.shell
            arguments = [
                "-" + basename(account.shell), "-c", String(decoding: line, as: UTF8.self),
            ]
        }
        var request = SpawnRequest(
            path: path, arguments: arguments,
            environment: [
                agentVariable, "HOME=\(account.home)", "SHELL=\(account.shell)",
                "USER=\(account.name)", "LOGNAME=\(account.name)",
            ])
        request.user = account.identity
        request.directory = account.home
        request.directoryIsOptional = true
        return request
    }

    // MARK: As this process's user

    private static func asSelf(
        _ program: ServiceProgram, _ user: String
    ) throws(StartFailure) -> SpawnRequest {
        let own = UserAccount.numbered(CurrentProcess.effectiveUser)?.name
        guard user == own else {
            throw StartFailure(
                reason: "the agent does not run as root: it serves user "
                    + "'\(own ?? "\(CurrentProcess.effectiveUser)")' only, not "
                    + "'\(LogText.line(user))'")
        }
        let environment =
            ServiceEnvironment.inherited.filter { !$0.hasPrefix("QREXEC_AGENT_PID=") }
            + [agentVariable]
        switch program {
        case .executable(let file, let call):
            return SpawnRequest(
                path: file, arguments: ServiceEnvironment.arguments(file, call),
                environment: environment + ServiceEnvironment.variables(call))
        case .shell(let line):
            return SpawnRequest(
                path: "/bin/sh",
                arguments: ["sh", "-c", String(decoding: line, as: UTF8.self)],
                environment: environment)
        }
    }

    private static func basename(_ path: String) -> String {
        path.split(separator: "/").last.map(String.init) ?? path
    }
}

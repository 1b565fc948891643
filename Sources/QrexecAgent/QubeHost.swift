import Glibc
import LinuxSystem
import QrexecProtocol
import QrexecRuntime

/// How programs are started in a qube (specification, section 8).
enum QubeHost {
    /// As root: any user, in that user's login environment. Otherwise: only as this process's own
    /// user, in its own environment.
    static func make(_ options: CallOptions) -> ServiceHost {
        if CurrentProcess.effectiveUser != 0 {
            let own = UserAccount.numbered(CurrentProcess.effectiveUser)?.name
            return host { (program, user) throws(StartFailure) in
                guard user == own else {
                    throw StartFailure(
                        reason: "the agent does not run as root: it serves user "
                            + "'\(own ?? "\(CurrentProcess.effectiveUser)")' only, not "
                            + "'\(LogText.line(user ?? ""))'")
                }
                return asSelf(program, shell: "/bin/sh")
            }
        }
        let helper = options.usesPAM ? PAMHelper.path : nil
        return host { (program, user) throws(StartFailure) in
            guard let user else { throw StartFailure(reason: "the command names no user") }
            guard let helper else { return try asUser(program, user) }
            return PAMHelper.request(helper, program, user, agent: agentVariable)
        }
    }

    /// Inside a user's session: as that user, with the session's environment (section 9).
    static func ofSession() -> ServiceHost {
        let shell = CurrentProcess.variable("SHELL").flatMap { $0.hasPrefix("/") ? $0 : nil }
        var host = host { (program, _) throws(StartFailure) in
            asSelf(program, shell: shell ?? "/bin/sh")
        }
        host.commandsNameUser = false
        return host
    }

    private static func host(
        _ request: @escaping (ServiceProgram, String?) throws(StartFailure) -> SpawnRequest
    ) -> ServiceHost {
        var host = ServiceHost(
            lookup: .configured, commandsNameUser: true, sendsError: true,
            connectTimeout: TimeLimits.qubeConnect, request: request)
        host.errorLog = SystemLog()
        return host
    }

    private static var agentVariable: String { "QREXEC_AGENT_PID=\(CurrentProcess.id)" }

    // MARK: As root, without PAM

    /// Exports `NAME=value` parameters up to `--`, then runs the rest. Values never are part of
    /// the script's text.
    private static let loginScript =
        #"while [ "$1" != -- ]; do export "$1"; shift; done; shift; exec "$@""#

    /// The arguments of a login shell that runs a service.
    static func loginShell(_ file: String, _ call: ServiceCall) -> [String] {
        ["sh", "-lc", loginScript, "sh"] + ServiceEnvironment.variables(call) + ["--"]
            + ServiceEnvironment.arguments(file, call)
    }

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
            arguments = loginShell(file, call)
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

    private static func asSelf(_ program: ServiceProgram, shell: String) -> SpawnRequest {
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
                path: shell,
                arguments: [basename(shell), "-c", String(decoding: line, as: UTF8.self)],
                environment: environment)
        }
    }

    private static func basename(_ path: String) -> String {
        path.split(separator: "/").last.map(String.init) ?? path
    }
}

/// `qrexec-pam-session`: keeps a PAM session open for as long as one program runs. Only it links
/// PAM, and with it the shared C library and whatever modules and user directories a qube has.
enum PAMHelper {
    static let name = "qrexec-pam-session"
    /// The helper's descriptor for its own messages, beside the program's streams.
    static let logNumber = 3

    /// Beside this program.
    static var path: String {
        let own = FileStatus.linkText("/proc/self/exe") ?? "/usr/lib/qubes/"
        return own[..<(own.lastIndex(of: "/") ?? own.startIndex)] + "/" + name
    }

    /// The helper looks the user up, opens the session and starts the program in it.
    static func request(
        _ helper: String, _ program: ServiceProgram, _ user: String, agent: String
    ) -> SpawnRequest {
        let rest: [String]
        switch program {
        case .executable(let file, let call):
            rest = ["program", "/bin/sh"] + QubeHost.loginShell(file, call)
        case .shell(let line):
            rest = ["command", String(decoding: line, as: UTF8.self)]
        }
        var request = SpawnRequest(
            path: helper, arguments: [name, agent, user] + rest,
            environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
        request.descriptors = [0, 1, 2, 2]
        return request
    }
}

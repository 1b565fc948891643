import LinuxSystem
import QrexecProtocol
import QrexecRuntime

/// How services run in dom0 (specification, section 6): as the daemon's own user, standard error to
/// the log.
enum Dom0Host {
    static func make() -> ServiceHost {
        ServiceHost(
            lookup: .configured, commandsNameUser: false, sendsError: false,
            connectTimeout: TimeLimits.dom0Execute,
            request: { program, _ throws(StartFailure) in
                switch program {
                case .executable(let path, let call):
                    return SpawnRequest(
                        path: path, arguments: ServiceEnvironment.arguments(path, call),
                        environment: ServiceEnvironment.inherited
                            + ServiceEnvironment.variables(call))
                case .shell(let line):
                    return SpawnRequest(
                        path: "/bin/bash",
                        arguments: ["bash", "-c", String(decoding: line, as: UTF8.self)],
                        environment: ServiceEnvironment.inherited)
                }
            })
    }
}

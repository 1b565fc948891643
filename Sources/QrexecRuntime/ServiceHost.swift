public import LinuxSystem
public import QrexecProtocol

/// What is to be run for a call, after lookup.
public enum ServiceProgram: Sendable, Equatable {
    case executable(path: String, call: ServiceCall)
    /// A command line for the user's shell.
    case shell([UInt8])
}

/// A call that cannot be started: its status and the log's reason.
public struct StartFailure: Error, Sendable, Equatable {
    public let status: Int32
    public let reason: String

    public init(status: Int32 = CallStatus.problem, reason: String) {
        self.status = status
        self.reason = reason
    }
}

/// How programs are started here: as which user, with which environment. A qube and dom0 differ.
public struct ServiceHost {
    public var lookup: ServiceLookup
    /// Whether commands begin with a user part.
    public var commandsNameUser: Bool
    /// Whether a service's standard error goes to the caller (qube) or to the log (dom0).
    public var sendsError: Bool
    /// Seconds to wait for the caller's end of the data channel.
    public var connectTimeout: UInt64
    /// Gets a copy of what services print on standard error (qubes).
    public var errorLog: SystemLog?
    /// Everything about a program but its descriptors.
    public var request: (ServiceProgram, _ user: String?) throws(StartFailure) -> SpawnRequest

    public init(
        lookup: ServiceLookup, commandsNameUser: Bool, sendsError: Bool, connectTimeout: UInt64,
        request: @escaping (ServiceProgram, _ user: String?) throws(StartFailure) -> SpawnRequest
    ) {
        self.lookup = lookup
        self.commandsNameUser = commandsNameUser
        self.sendsError = sendsError
        self.connectTimeout = connectTimeout
        self.request = request
    }
}

/// The environment of services (section 10).
public enum ServiceEnvironment {
    /// What tells a service about its call.
    public static func variables(_ call: ServiceCall) -> [String] {
        var variables = [
            "QREXEC_SERVICE_FULL_NAME=\(call.descriptor)",
            "QREXEC_REMOTE_DOMAIN=\(call.source)",
            "QREXEC_REQUESTED_TARGET_TYPE=\(call.requestedTarget?.kind.rawValue ?? "")",
        ]
        switch call.requestedTarget?.kind {
        case .name: variables.append("QREXEC_REQUESTED_TARGET=\(call.requestedTarget!.text)")
        case .keyword:
            variables.append("QREXEC_REQUESTED_TARGET_KEYWORD=\(call.requestedTarget!.text)")
        case nil: break
        }
        if let argument = call.argument {
            variables.append("QREXEC_SERVICE_ARGUMENT=\(argument)")
        }
        return variables
    }

    /// This process's environment without what belongs to another call.
    public static var inherited: [String] {
        CurrentProcess.environment.filter {
            !$0.hasPrefix("QREXEC") || $0.hasPrefix("QREXEC_SERVICE_PATH=")
                || $0.hasPrefix("QREXEC_AGENT_PID=")
        }
    }

    /// The arguments of a service: its path, and its argument when there is one.
    public static func arguments(_ path: String, _ call: ServiceCall) -> [String] {
        guard let argument = call.argument, !argument.isEmpty else { return [path] }
        return [path, argument]
    }
}

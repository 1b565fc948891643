import LinuxSystem
public import QrexecProtocol

/// A command taken apart, with its service's settings: all that is known of a call before anything
/// of it is started.
public struct PreparedCall: Sendable {
    public let command: Command
    /// The standard settings for a command that is no service.
    public let config: RPCConfig

    public init(command: Command, config: RPCConfig) {
        self.command = command
        self.config = config
    }

    /// - Parameter hasUser: whether the command begins with a user part.
    /// - Throws: status 125 for a command that cannot be read and for bad settings.
    public init(_ text: [UInt8], hasUser: Bool, log: Log) throws(StartFailure) {
        do throws(ProtocolError) {
            command = try Command(text, hasUser: hasUser)
        } catch {
            throw StartFailure(reason: error.description)
        }
        guard case .service(let call) = command.kind else {
            config = RPCConfig()
            return
        }
        do throws(RPCConfig.Invalid) {
            config = try RPCConfig.load(for: call) { key in
                log.warning("unknown key in the service's configuration", ["key": key])
            }
        } catch {
            throw StartFailure(reason: error.description)
        }
    }

    /// Who the call runs as: the service's own choice comes first.
    public var user: String? { config.forceUser ?? command.user }
}

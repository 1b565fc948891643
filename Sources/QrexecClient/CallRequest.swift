import Glibc
public import LinuxSystem
public import QrexecProtocol
import QrexecRuntime
import SystemPackage

/// Asks this qube's agent for a call (specification, section 9).
public struct CallRequest: Sendable {
    public var target: String
    /// With `+` and the argument, if there is one.
    public var service: String
    /// The remote qube that the call is made for; empty for this qube (relays only).
    public var source = ""
    public var agentSocket = standardSocket

    /// What an agent says on a call's connection when it ends the call; any other word takes leave
    /// of a call that goes on.
    public static let endOfCall: [UInt8] = [0]

    /// Where the agent listens for local programs (section 8).
    public static let standardSocket = "/var/run/qubes/qrexec-agent"

    /// Why there was no decision.
    public struct Failure: Error, Sendable {
        public let reason: String
    }

    public init(target: String, service: String) {
        self.target = target
        self.service = service
    }

    /// How long an agent that is started again, or connected again to dom0, may be away.
    private static let returnTime = seconds(5)
    private static let returnInterval: UInt32 = 20_000

    /// The connection that the request goes over; the agent keeps it until the call ends.
    public func connect() throws(Failure) -> Descriptor {
        let deadline = CurrentProcess.now + Self.returnTime
        while true {
            do throws(Errno) {
                let socket = try UnixSocket.connect(agentSocket)
                try socket.setNonblocking(false)
                return socket
            } catch {
                let isAway = error == .noSuchFileOrDirectory || error == .connectionRefused
                if isAway, CurrentProcess.now < deadline {
                    usleep(Self.returnInterval)
                    continue
                }
                throw Failure(
                    reason: "no qrexec agent at \(agentSocket): \(error); does qrexec-agent run, "
                        + "and is its qube connected to dom0?")
            }
        }
    }

    /// Sends the request and waits for the decision, which may need a person's answer.
    ///
    /// - Returns: where the other side will look for the channel; nil when it was refused.
    public func ask(_ agent: borrowing Descriptor) throws(Failure) -> ConnectParameters? {
        try send(agent)
        var answer = Answer()
        while try !answer.read(agent) {}
        return try answer.place
    }

    /// Sends the request.
    func send(_ agent: borrowing Descriptor) throws(Failure) {
        let request = ServiceRequest(
            claimedSource: Self.cut(source), target: Self.cut(target),
            ident: RequestIdent("SOCKET")!, service: service)
        do throws(Errno) {
            try agent.writeAll(encoded(.triggerService4, request.body(.triggerService4)))
        } catch {
            throw Failure(reason: "the agent does not answer: \(error)")
        }
    }

    private static func cut(_ name: String) -> String {
        String(decoding: name.utf8.prefix(Limits.targetName), as: UTF8.self)
    }

    /// The decision, as far as it has come.
    struct Answer {
        private var bytes: [UInt8] = []
        private(set) var isWhole = false

        /// Reads once.
        ///
        /// - Returns: whether that is all. An agent that closes or goes away before has refused.
        mutating func read(_ agent: borrowing Descriptor) throws(Failure) -> Bool {
            var part = [UInt8](repeating: 0, count: ConnectParameters.size - bytes.count)
            var count = 0
            do throws(Errno) {
                count = try agent.read(into: &part)
            } catch {
                if error != .connectionReset {
                    throw Failure(reason: "the agent does not answer: \(error)")
                }
            }
            bytes += part[..<count]
            isWhole = count == 0 || bytes.count == ConnectParameters.size
            return isWhole
        }

        /// Where the other side will look for the channel; nil when the call was refused.
        var place: ConnectParameters? {
            get throws(Failure) {
                if bytes.count < ConnectParameters.size { return nil }
                guard let place = try? ConnectParameters(body: bytes, of: .serviceConnect) else {
                    throw Failure(reason: "the agent's answer makes no sense")
                }
                return place
            }
        }
    }
}

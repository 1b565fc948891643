import Foundation

/// What the commands ask of a lab's manager.
enum ControlRequest: Codable, Equatable {
    case status
    /// Ends the lab.
    case down
    case start(String)
    case shutdown(String)
    case kill(String)
    case restart(String)
    /// Hands the connection over to process 1 of the qube.
    case run(String)
}

/// An answer; several for a request that takes time, the last with `isDone`.
struct ControlReply: Codable, Equatable {
    var isDone = false
    /// What has been done so far.
    var progress: String?
    var error: String?
    var status: LabStatus?

    /// Packets are as long as this at most, in bytes.
    static let maximumLength = 150_000
}

/// What `qubes-lab status --json` shows; paths and process ids are the host's.
struct LabStatus: Codable, Equatable {
    struct Entry: Codable, Equatable {
        var name: String
        var domid: UInt32?
        var type: String
        var label: String
        var powerState: String
        var inUse: Bool
        var root: String
        var agentPID: Int32?
        var daemonPID: Int32?

        enum CodingKeys: String, CodingKey {
            case name, domid, type, label, root
            case powerState = "power_state"
            case inUse = "in_use"
            case agentPID = "agent_pid"
            case daemonPID = "daemon_pid"
        }

        /// Every key is always there: what is not known is null.
        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(name, forKey: .name)
            try container.encode(domid, forKey: .domid)
            try container.encode(type, forKey: .type)
            try container.encode(label, forKey: .label)
            try container.encode(powerState, forKey: .powerState)
            try container.encode(inUse, forKey: .inUse)
            try container.encode(root, forKey: .root)
            try container.encode(agentPID, forKey: .agentPID)
            try container.encode(daemonPID, forKey: .daemonPID)
        }
    }

    var state: String
    var policyDirectory: String
    var qubes: [Entry]

    enum CodingKeys: String, CodingKey {
        case state, qubes
        case policyDirectory = "policy_dir"
    }
}

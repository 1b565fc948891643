import QrexecRuntime
import Vchan

/// The options by which a tool names one end of a vchan.
struct EndOptions {
    var transportName: String?
    var state: String?
    var ownDomain: DomainID?
    var peer: DomainID?
    var port: Port?
    var ring = RingSize(atLeast: 65536)!

    static let options: [OptionParser.Option] = [
        .init(long: "domain", takesValue: true),
        .init(long: "port", takesValue: true),
        .init(long: "own-domain", takesValue: true),
        .init(long: "transport", takesValue: true),
        .init(long: "ring", takesValue: true),
        .init(long: "state", takesValue: true),
    ]

    /// - Returns: false for an option of somebody else.
    mutating func take(
        _ name: String, _ value: String
    ) throws(OptionParser.UsageError) -> Bool {
        switch name {
        case "domain": peer = try Self.domain(value, name)
        case "own-domain": ownDomain = try Self.domain(value, name)
        case "port":
            guard let number = UInt32(value), let port = Port(number) else {
                throw .init("--port \(value): expected 0 to 2147483647")
            }
            self.port = port
        case "ring":
            guard let bytes = Int(value), let ring = RingSize(atLeast: bytes) else {
                throw .init("--ring \(value): expected 0 to 1048576 bytes")
            }
            self.ring = ring
        case "transport": transportName = value
        case "state": state = value
        default: return false
        }
        return true
    }

    private static func domain(
        _ value: String, _ option: String
    ) throws(OptionParser.UsageError) -> DomainID {
        guard let number = UInt32(value), let domain = DomainID(number) else {
            throw .init("--\(option) \(value): expected a domain number from 0 to 32751")
        }
        return domain
    }

    /// Refuses what can never work together.
    func check() throws(OptionParser.UsageError) {
        let known = ["xen", "local", "libxenvchan", "socket"]
        if let name = transportName, !known.contains(name) {
            throw .init("--transport \(name): expected xen, local, libxenvchan or socket")
        }
        switch transportName {
        case nil, "local":
            if (state == nil) != (ownDomain == nil) {
                throw .init("--state and --own-domain belong together")
            }
        case "socket": break
        case let name?:
            if state != nil || ownDomain != nil {
                throw .init("--state and --own-domain are not for the transport \(name)")
            }
        }
    }

    /// The transport these options ask for: with a state directory and an own number the local one
    /// stands alone, without them it is that of this machine. For socket, what is missing comes
    /// from the environment.
    func transport() throws(VchanError) -> Transport {
        if transportName == "socket" {
            return try .socket(directory: state, ownDomainOrVariable: ownDomain)
        }
        guard let state, let ownDomain else { return try .selected(option: transportName) }
        return .local(state: state, ownDomain: ownDomain)
    }
}

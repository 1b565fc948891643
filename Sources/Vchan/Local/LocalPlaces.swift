import Glibc
import LinuxSystem
import SystemPackage

/// Where the domains of one machine meet (design: the local transport).
enum LocalPlaces: Sendable {
    /// What a qube of a lab sees: `domid`, `self/<C>/`, `peers/<S>/`.
    case sandbox(root: String)
    /// A lab's state as a program outside the sandboxes sees it: `xen/<S>/<C>/`.
    case state(String, own: DomainID)

    func ownDomain() throws(VchanError) -> DomainID {
        switch self {
        case .state(_, let own): return own
        case .sandbox(let root):
            let path = root + "/domid"
            let bytes: [UInt8]
            do throws(Errno) {
                bytes = try Descriptor.open(path, O_RDONLY).readAll(limit: 16)
            } catch {
                throw .noIdentity(path: path, reason: "\(error); is this a qube of a lab?")
            }
            let text = String(decoding: bytes, as: UTF8.self)
            guard text.hasSuffix("\n"),
                let number = parseDecimal(text.dropLast(), maximum: .max),
                let domain = DomainID(number)
            else {
                throw .noIdentity(
                    path: path, reason: "expected 0 to 32751 and a newline")
            }
            return domain
        }
    }

    /// The directory in which this domain offers channels to another.
    func offers(to client: DomainID) throws(VchanError) -> String {
        switch self {
        case .sandbox(let root): return "\(root)/self/\(client)"
        case .state(let state, let own): return try Self.meeting(state, server: own, client: client)
        }
    }

    /// The directory in which another domain offers channels to this one.
    func offers(from server: DomainID) throws(VchanError) -> String {
        switch self {
        case .sandbox(let root): return "\(root)/peers/\(server)"
        case .state(let state, let own): return try Self.meeting(state, server: server, client: own)
        }
    }

    private static func meeting(
        _ state: String, server: DomainID, client: DomainID
    ) throws(VchanError) -> String {
        guard server != client else { throw .ownDomain(server) }
        var path = state
        for part in ["", "/xen", "/\(server)", "/\(client)"] {
            path += part
            // SAFETY: a C string that outlives the call.
            guard unsafe mkdir(path, 0o777) < 0, errno != EEXIST else { continue }
            throw .system(call: "mkdir \(path)", Errno(rawValue: errno))
        }
        return path
    }
}

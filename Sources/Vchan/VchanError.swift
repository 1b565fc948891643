public import SystemPackage

/// What can go wrong with a vchan. The description says what was expected, what came, and what to
/// do about it.
public enum VchanError: Error, Sendable, Hashable {
    /// No option, no variable, no Xen and no lab: nothing says how domains are to be reached.
    case noTransport
    /// A transport was asked for by a name that does not exist.
    case unknownTransport(String)
    /// The transport that was chosen cannot work here.
    case transportUnavailable(String, reason: String)
    /// The own domain's number could not be had.
    case noIdentity(path: String, reason: String)
    /// A domain asked for a vchan to itself.
    case ownDomain(DomainID)
    /// There is no place to meet this domain.
    case unknownPeer(DomainID, path: String, Errno)
    /// Another server listens on this port for this domain.
    case portInUse(DomainID, Port, path: String)
    /// A limit of Xen, its drivers, its store or this process was met.
    case limit(XenLimit, Errno)
    /// A device of Xen's drivers cannot be opened.
    case missingDevice(String, module: String, Errno)
    /// A system call failed.
    case system(call: String, Errno)
    /// What the peer sent to set up the channel is not what the protocol says.
    case badOffer(String)
    /// Ring orders outside protocol 1.2.
    case badOrders(left: UInt16, right: UInt16)
    /// An index of the peer left the ring or went back: the channel is closed.
    case badIndex(Direction, peer: UInt32, own: UInt32, size: Int)
    /// More bytes at once than the ring can ever hold.
    case tooLarge(bytes: Int, ring: Int)
    /// The channel is closed; for a writer there is nobody left to read.
    case closed(peerDied: Bool)
    /// The deadline passed first.
    case timedOut

    /// Which of the two rings, as this side sees them.
    public enum Direction: String, Sendable, Hashable {
        case reading, writing
    }
}

extension VchanError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .noTransport:
            "no way to reach other domains: this is neither a Xen domain (no /dev/xen, no "
                + "/proc/xen) nor a qube of a lab (no /run/xen-local); choose a transport with "
                + "QREXEC_VCHAN=xen|libxenvchan|local|socket"
        case .unknownTransport(let name):
            "transport '\(name)' does not exist: expected xen, libxenvchan, local or socket"
        case .transportUnavailable(let name, let reason):
            "transport '\(name)' cannot be used: \(reason)"
        case .noIdentity(let path, let reason):
            "own domain number: \(path): \(reason)"
        case .ownDomain(let domain):
            "domain \(domain) is this domain: a vchan joins two different ones"
        case .unknownPeer(let domain, let path, let error):
            "domain \(domain) cannot be reached: \(path): \(error); does the domain run?"
        case .portInUse(let domain, let port, let path):
            "port \(port) for domain \(domain) is in use: another server listens on \(path)"
        case .limit(let limit, let error):
            "\(limit) (\(error))"
        case .missingDevice(let path, let module, let error):
            error == .permissionDenied || error == .notPermitted
                ? "\(path) may not be opened by this user: run as root, or give its group access "
                    + "with a rule of udev (\(error))"
                : "\(path) cannot be opened (\(error)): is this a Xen domain with the kernel module "
                    + "\(module)? Load it with modprobe, and at every start by "
                    + "/etc/modules-load.d"
        case .system(let call, let error):
            "\(call): \(error)"
        case .badOffer(let what):
            "the peer's offer of a channel is refused: \(what)"
        case .badOrders(let left, let right):
            "the peer's ring orders are refused: left \(left), right \(right); expected 10 to "
                + "20 each, and not the same place twice"
        case .badIndex(let direction, let peer, let own, let size):
            "the peer moved its index out of the ring while \(direction.rawValue): \(peer), own "
                + "index \(own), ring of \(size) bytes; the peer is broken or hostile, the channel "
                + "is closed"
        case .tooLarge(let bytes, let ring):
            "\(bytes) bytes at once never fit a ring of \(ring) bytes: send smaller pieces or make "
                + "the ring larger"
        case .closed(let peerDied):
            peerDied ? "the peer died" : "the channel is closed"
        case .timedOut:
            "the deadline has passed"
        }
    }
}

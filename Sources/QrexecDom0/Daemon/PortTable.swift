import LinuxSystem
import QrexecProtocol

/// Which data ports of this daemon's qube are in use, and by which peer (specification 5.5).
final class PortTable {
    private var peers = [UInt32?](repeating: nil, count: Limits.dataPorts)
    /// When each was taken, in nanoseconds of `CurrentProcess.now`.
    private var since = [UInt64](repeating: 0, count: Limits.dataPorts)
    private let ownDomain: UInt32

    init(ownDomain: UInt32) { self.ownDomain = ownDomain }

    /// A free port for a call with `peer`; nil when none is left. The daemons of a pair both
    /// allocate for it: they never meet, as the lower-numbered one takes the even ports and the
    /// other the odd ones.
    func allocate(peer: UInt32) -> UInt32? {
        let first = peer > ownDomain ? 1 : 0
        let step = peer == 0 ? 1 : 2
        for slot in stride(from: first, to: peers.count, by: step) where peers[slot] == nil {
            peers[slot] = peer
            since[slot] = CurrentProcess.now
            return Limits.firstDataPort + UInt32(slot)
        }
        return nil
    }

    /// Nanoseconds since a port was taken.
    func age(of port: UInt32) -> UInt64 {
        guard Limits.isDataPort(port) else { return 0 }
        return CurrentProcess.now - since[Int(port - Limits.firstDataPort)]
    }

    /// Frees a port, if it is this peer's; whether it was.
    @discardableResult
    func free(_ place: ConnectParameters) -> Bool {
        guard Limits.isDataPort(place.port) else { return false }
        let slot = Int(place.port - Limits.firstDataPort)
        guard peers[slot] == place.domain else { return false }
        peers[slot] = nil
        return true
    }
}

import QrexecProtocol

/// Which data ports of this daemon's qube are in use, and by which peer (specification 5.5).
struct PortTable {
    private var peers = [UInt32?](repeating: nil, count: Limits.dataPorts)
    private let ownDomain: UInt32

    init(ownDomain: UInt32) { self.ownDomain = ownDomain }

    /// A free port for a call with `peer`; nil when none is left. The daemons of a pair both
    /// allocate for it: they never meet, as the lower-numbered one takes the even ports and the
    /// other the odd ones.
    mutating func allocate(peer: UInt32) -> UInt32? {
        let first = peer > ownDomain ? 1 : 0
        let step = peer == 0 ? 1 : 2
        for slot in stride(from: first, to: peers.count, by: step) where peers[slot] == nil {
            peers[slot] = peer
            return Limits.firstDataPort + UInt32(slot)
        }
        return nil
    }

    /// Whether the number is that of a data port at all.
    static func isDataPort(_ port: UInt32) -> Bool {
        port >= Limits.firstDataPort && port < Limits.firstDataPort + UInt32(Limits.dataPorts)
    }

    /// Frees a port, if it is this peer's; whether it was.
    @discardableResult
    mutating func free(_ place: ConnectParameters) -> Bool {
        guard Self.isDataPort(place.port) else { return false }
        let slot = Int(place.port - Limits.firstDataPort)
        guard peers[slot] == place.domain else { return false }
        peers[slot] = nil
        return true
    }
}

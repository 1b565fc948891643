import Glibc
import LinuxSystem
public import Vchan

/// What a conformance case found to be otherwise than promised.
public struct ConformanceFailure: Error, Sendable, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }
}

/// One end of a conformance case: how it reaches the other end, and what its transport can promise.
public struct ConformanceSide: Sendable {
    public enum Role: String, Sendable { case server, client }

    let role: Role
    let transport: Transport
    let peer: DomainID
    let port: Port
    /// Whether a death can be told from an orderly close: not over a byte stream.
    let tellsDeath: Bool
    /// Whether a crash is this process's own end. Else both ends live in one process, and a crash is
    /// the end of the channel without a close, which looks the same to the peer.
    let crashesForReal: Bool
    /// Told now and then how far a case that takes long has come.
    let progress: (@Sendable (String) -> Void)?

    public init(
        role: Role, transport: Transport, peer: DomainID, port: Port, tellsDeath: Bool,
        crashesForReal: Bool, progress: (@Sendable (String) -> Void)? = nil
    ) {
        self.role = role
        self.transport = transport
        self.peer = peer
        self.port = port
        self.tellsDeath = tellsDeath
        self.crashesForReal = crashesForReal
        self.progress = progress
    }

    /// Long enough for anything that works, on a slow machine too.
    var deadline: UInt64 { CurrentProcess.now + 120_000_000_000 }

    /// The same side on another vchan. Without a handshake, a client that comes at once after
    /// another one can land with the server of that one (protocol 4).
    func round(_ number: Int) -> ConformanceSide {
        let port = Port(port.rawValue + 1024 * UInt32(number % 64))!
        return ConformanceSide(
            role: role, transport: transport, peer: peer, port: port, tellsDeath: tellsDeath,
            crashesForReal: crashesForReal, progress: progress)
    }

    /// This side of the channel, not open yet.
    func begin(_ ring: RingSize) throws(VchanError) -> Channel {
        switch role {
        case .server: try transport.listen(for: peer, port: port, read: ring, write: ring)
        case .client: try transport.connect(to: peer, port: port)
        }
    }

    func open(_ ring: RingSize) throws(VchanError) -> Channel {
        var channel = try begin(ring)
        try channel.waitUntilOpen(deadline: deadline)
        return channel
    }

    func crash(_ channel: consuming Channel) {
        if crashesForReal { _ = kill(getpid(), SIGKILL) }
    }
}

/// A reproducible stream of bytes, without a period that a ring could hide behind.
struct Pattern: Sendable {
    /// A prime, so that no position of a ring meets the same byte again soon.
    private static let period = 65521
    private let table: [UInt8]

    init(seed: UInt64) {
        var random = Random(seed: seed)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.period * 2)
        for _ in 0..<Self.period { bytes.append(UInt8(truncatingIfNeeded: random.next() >> 24)) }
        table = bytes + bytes
    }

    /// At most `count` bytes from a position of the stream on.
    func slice(from position: Int, count: Int) -> ArraySlice<UInt8> {
        let start = position % Self.period
        return table[start..<start + min(count, Self.period)]
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random: RandomNumberGenerator, Sendable {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }
}

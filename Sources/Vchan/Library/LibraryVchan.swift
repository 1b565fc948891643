import CLinuxSystem
import CXen
import Glibc
import LinuxSystem
import SystemPackage

/// A channel of the C libxenvchan, never blocking: to a `Channel` it is a byte stream.
@safe
struct LibraryVchan: ~Copyable {
    private let ends: UnsafeMutablePointer<libxenvchan>
    private let library: VchanLibrary
    /// Readable when `wait` does not block.
    let number: Int32

    private init(_ ends: UnsafeMutablePointer<libxenvchan>, of library: VchanLibrary) {
        unsafe cxen_set_nonblocking(ends)
        unsafe self.ends = ends
        self.library = library
        number = unsafe library.descriptor(ends)
    }

    deinit { unsafe library.close(ends) }

    /// A server that waits for its client.
    static func listen(
        for peer: DomainID, port: Port, read: RingSize, write: RingSize
    ) throws(VchanError) -> LibraryVchan {
        let library = try VchanLibrary.ofThisMachine()
        guard try library.ownDomain() != peer else { throw .ownDomain(peer) }
        let path = "data/vchan/\(peer)/\(port)"
        let ends = unsafe library.listen(
            nil, Int32(peer.rawValue), path, read.bytes, write.bytes)
        guard let ends = unsafe ends else {
            // The library gives no reason for most of its failures.
            throw .transportUnavailable(
                "libxenvchan",
                reason: "libxenvchan_server_init failed for \(path): a device or a module is "
                    + "missing or not for us, or a limit was met (transport xen says which)")
        }
        return unsafe LibraryVchan(ends, of: library)
    }

    /// - Returns: nil while there is no server, or for another reason: the library does not tell.
    static func connect(to peer: DomainID, port: Port, own: DomainID) -> LibraryVchan? {
        guard let library = try? VchanLibrary.ofThisMachine() else { return nil }
        let path = "/local/domain/\(peer)/data/vchan/\(own)/\(port)"
        guard let ends = unsafe library.connect(nil, Int32(peer.rawValue), path) else { return nil }
        return unsafe LibraryVchan(ends, of: library)
    }

    enum State: Int32 {
        case closed = 0
        case open = 1
        case waiting = 2
    }

    var state: State { State(rawValue: unsafe library.isOpen(ends)) ?? .closed }

    /// Takes an event if there is one.
    func takeEvent(milliseconds: Int32 = 0) {
        guard let ready = try? poll(number, .readable, milliseconds: milliseconds), !ready.isEmpty
        else { return }
        _ = unsafe library.wait(ends)
    }

    /// Moves what is there into the ring. After this there is no room, or the library has asked the
    /// peer for a notification.
    ///
    /// - Returns: false when the peer is gone and everything it sent was moved.
    func fill(_ ring: inout RingEnd) -> Bool {
        while ring.pending > 0 {
            let position = ring.pendingPosition
            let count = min(ring.pending, Int(ring.size) - position)
            // SAFETY: `count` bytes from `position` on are inside the ring's memory and hold nothing.
            let got = unsafe library.read(ends, ring.base! + position, count)
            if got > 0 {
                ring.streamed(Int(got))
            } else if got < 0, unsafe library.dataReady(ends) <= 0 {
                // The library looks at the data before it looks whether the peer has closed; what
                // was sent in between is only found by the second look.
                return false
            }
            if 0..<Int32(count) ~= got { return true }
        }
        return true
    }

    /// Moves what is staged to the library as far as it has room; else it has asked the peer.
    ///
    /// - Returns: false when the peer is gone.
    func drain(_ ring: inout RingEnd) -> Bool {
        while ring.pending > 0 {
            let position = ring.pendingPosition
            let count = min(ring.pending, Int(ring.size) - position)
            // SAFETY: `count` bytes from `position` on are inside the ring's memory and staged.
            let put = unsafe library.write(ends, ring.base! + position, count)
            if put < 0 { return false }
            ring.streamed(Int(put))
            if put < count { return true }
        }
        return true
    }
}

/// One end of a channel of the C library on its way to the other. The library offers no way to wait
/// for a server: a client tries again, ever more rarely.
struct LibraryConnector: ~Copyable {
    private let peer: DomainID
    private let port: Port
    private let own: DomainID?
    private var channel: LibraryVchan?
    private var timer: Descriptor?
    private var timerNumber: Int32 = -1
    private var pause = 2_000_000
    private static let longestPause = 100_000_000
    private(set) var pollDescriptor: Int32

    /// A server.
    init(
        for peer: DomainID, port: Port, read: RingSize, write: RingSize
    ) throws(VchanError) {
        self.peer = peer
        self.port = port
        own = nil
        timer = nil
        let channel = try LibraryVchan.listen(for: peer, port: port, read: read, write: write)
        pollDescriptor = channel.number
        self.channel = consume channel
    }

    /// A client.
    init(to peer: DomainID, port: Port) throws(VchanError) {
        let own = try VchanLibrary.ofThisMachine().ownDomain()
        guard own != peer else { throw .ownDomain(peer) }
        self.init(to: peer, port: port, own: own, timer: try .timer())
    }

    private init(to peer: DomainID, port: Port, own: DomainID, timer: consuming Descriptor) {
        self.peer = peer
        self.port = port
        self.own = own
        channel = nil
        timerNumber = timer.number
        pollDescriptor = timer.number
        self.timer = consume timer
        // The first try is made by the first `advance`, at once.
        _ = cs_timer_set(timerNumber, 1)
    }

    /// One step; the caller comes back when the descriptor is readable.
    mutating func advance() throws(VchanError) -> StreamLink? {
        guard let waiting = channel.take() else {
            _ = cs_counter_take(timerNumber)
            guard let own, let joined = LibraryVchan.connect(to: peer, port: port, own: own) else {
                _ = cs_timer_set(timerNumber, pause)
                pause = min(pause * 2, Self.longestPause)
                return nil
            }
            return StreamLink(library: joined)
        }
        waiting.takeEvent()
        guard waiting.state == .waiting else { return StreamLink(library: waiting) }
        channel = consume waiting
        return nil
    }
}

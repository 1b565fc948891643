import CLinuxSystem
import Glibc
import LinuxSystem
import SystemPackage

/// A connected byte stream and the private rings between it and the channel: what the peer's index
/// is to a shared ring, a system call is here. No call waits but `finish`.
struct StreamLink: ~Copyable {
    private let socket: Descriptor?
    private let edges: Descriptor?
    /// In place of a socket: a channel of the C library.
    private let library: LibraryVchan?
    /// Readable after a change of the socket; -1 for a channel that is not over a byte stream.
    let number: Int32
    /// Everything the peer will ever send was received.
    private(set) var atEnd = false
    /// The peer takes nothing more.
    private(set) var isBroken = false
    /// The peer closed with bytes of ours unread.
    private(set) var wasReset = false

    init() {
        socket = nil
        edges = nil
        library = nil
        number = -1
    }

    init(library: consuming LibraryVchan) {
        socket = nil
        edges = nil
        number = library.number
        self.library = consume library
    }

    /// - Parameter edges: an epoll descriptor that watches the socket for changes.
    init(socket: consuming Descriptor, edges: consuming Descriptor) {
        number = edges.number
        library = nil
        self.socket = consume socket
        self.edges = consume edges
    }

    /// An epoll descriptor for `init` and for the way there.
    static func makeEdges() throws(VchanError) -> Descriptor {
        do throws(Errno) {
            return Descriptor(taking: try check(cs_epoll_create()))
        } catch {
            throw .system(call: "epoll_create1", error)
        }
    }

    /// A channel of the C library, which has no half-close.
    var isLibrary: Bool { number >= 0 && socketNumber < 0 }

    private var socketNumber: Int32 {
        switch socket {
        case .some(let socket): socket.number
        case .none: -1
        }
    }

    /// Forgets the changes so far: what they mean is found out by trying.
    func clear() {
        switch library {
        case .some(let library): library.takeEvent()
        case .none: cs_edges_clear(number)
        }
    }

    /// Receives as much as there is room for, in one call.
    mutating func fill(_ ring: inout RingEnd) {
        guard !atEnd, ring.pending > 0 else { return }
        switch library {
        case .some(let library):
            atEnd = !library.fill(&ring)
            // A vchan has no half-close.
            isBroken = isBroken || atEnd
            return
        case .none: break
        }
        // SAFETY: the pieces from pendingPosition on are inside the ring's memory and hold nothing.
        let got = again {
            unsafe cs_read_into_ring(
                socketNumber, ring.base, Int(ring.size), ring.pendingPosition, ring.pending, 1)
        }
        if got > 0 {
            ring.streamed(got)
        } else if got == 0 || errno != EAGAIN {
            wasReset = got < 0
            atEnd = true
        } else if isBroken {
            atEnd = true
        }
    }

    /// Sends as much of what is staged as the socket takes.
    mutating func drain(_ ring: inout RingEnd) {
        switch library {
        case .some(let library):
            if !isBroken { isBroken = !library.drain(&ring) }
            return
        case .none: break
        }
        while number >= 0, !isBroken, ring.pending > 0 {
            // SAFETY: the pieces from pendingPosition on are inside the ring's memory and staged.
            let put = again {
                unsafe cs_write_from_ring(
                    socketNumber, ring.base, Int(ring.size), ring.pendingPosition, ring.pending, 1)
            }
            if put > 0 {
                ring.streamed(put)
            } else {
                isBroken = errno != EAGAIN
                return
            }
        }
    }

    /// Ends the writing direction; what is staged goes out first, as far as the socket takes it.
    mutating func shutdownWhenSent(_ ring: inout RingEnd) {
        finish(&ring)
        if socketNumber >= 0 { UnixSocket.shutdown(socketNumber, writing: true) }
    }

    /// Sends what is left, waiting a little for a peer that is slow to take it.
    mutating func finish(_ ring: inout RingEnd) {
        let patience: Int32 = 1000
        let deadline = CurrentProcess.now + UInt64(patience) * 1_000_000
        while true {
            drain(&ring)
            if isBroken || ring.pending == 0 { return }
            switch library {
            case .some(let library):
                guard CurrentProcess.now < deadline else { return }
                library.takeEvent(milliseconds: patience)
                continue
            case .none: break
            }
            var entry = pollfd(fd: socketNumber, events: Int16(POLLOUT), revents: 0)
            // SAFETY: one entry that outlives the call.
            if unsafe Glibc.poll(&entry, 1, patience) <= 0 { return }
        }
    }

    private func again(_ call: () -> Int) -> Int {
        while true {
            let result = call()
            if result >= 0 || errno != EINTR { return result }
        }
    }
}

/// The memory of both private rings, freed once.
@safe
struct PrivateMemory: ~Copyable {
    private let base: UnsafeMutableRawPointer
    let readSize: Int
    let writeSize: Int

    init(read: RingSize, write: RingSize) {
        let page = RingOrders.pageSize
        readSize = max(read.bytes, page)
        writeSize = max(write.bytes, page)
        unsafe base = .allocate(byteCount: readSize + writeSize, alignment: page)
    }

    deinit { unsafe base.deallocate() }

    func rings() -> (reading: RingEnd, writing: RingEnd) {
        unsafe (
            RingEnd(.consumer, base: base, size: readSize, index: 0),
            RingEnd(.producer, base: base + readSize, size: writeSize, index: 0)
        )
    }
}

/// One end of one ring: private indices over shared bytes (protocol 1.3). Producer and consumer
/// differ in one thing only: the peer gives the one room, and the other one bytes.
///
/// Nothing is copied from the shared page but by `advance`, which checks it; the shared word is
/// looked at only when the private copy says that there is nothing left to use.
@safe
@usableFromInline
struct RingEnd {
    @usableFromInline let base: UnsafeMutableRawPointer?
    @usableFromInline let size: UInt32
    /// Written so far by a producer, read so far by a consumer: shown to the peer or not.
    @usableFromInline var own: UInt32
    /// What the peer was shown of it.
    @usableFromInline var published: UInt32
    /// How far `own` may go: what the peer has produced, or what it has consumed and a ring's size.
    @usableFromInline var limit: UInt32
    /// How far the limit is ahead of the peer's index: a producer may fill a ring's size.
    private let lead: UInt32
    /// Bytes that are worth showing to the peer without being asked.
    @usableFromInline let batch: Int
    /// Bytes that can be used without a thought: available, in one piece, and not yet worth
    /// showing. 0 says no more than that somebody has to think.
    @usableFromInline var window = 0

    enum Kind { case producer, consumer }

    static var none: RingEnd { unsafe RingEnd(.consumer, base: nil, size: 0, index: 0) }

    /// - Parameter base: `size` mapped bytes that outlive this value; `size` is a power of two.
    init(_ kind: Kind, base: UnsafeMutableRawPointer?, size: Int, index: UInt32) {
        unsafe self.base = base
        self.size = UInt32(size)
        lead = kind == .producer ? self.size : 0
        // A producer shows a quarter ring at a time: often enough that the peer never waits for
        // long, seldom enough that the shared lines stay with whoever works. Room is given back half
        // a ring at a time: a peer that waits for it then wakes at most twice for each ring filled.
        batch = kind == .producer ? size / 4 : size / 2
        (own, published, limit) = (index, index, index &+ lead)
    }

    /// Free bytes of a producer, ready bytes of a consumer, as far as known here.
    @inlinable var available: Int { Int(limit &- own) }
    /// Where the next byte lies.
    @inlinable var position: Int { Int(own & (size &- 1)) }
    /// Bytes from here to the ring's end that are available in one piece.
    @inlinable var contiguous: Int { min(available, Int(size) - position) }
    /// Bytes that were written or read and not shown to the peer.
    @inlinable var unpublished: Int { Int(own &- published) }

    /// Checks an index of the peer: it never goes back, a consumer's never overtakes what it was
    /// shown, and a producer's never leaves the room it was shown.
    ///
    /// - Returns: false when the peer is broken or hostile; nothing is changed then.
    mutating func advance(to index: UInt32) -> Bool {
        let ahead = index &+ lead &- published
        guard ahead <= size, ahead >= limit &- published else { return false }
        limit = index &+ lead
        return true
    }

    /// Counts bytes that were copied in or out.
    @inlinable
    mutating func use(_ count: Int) {
        assert(count <= available)
        own &+= UInt32(truncatingIfNeeded: count)
        window = 0
    }

    /// Counts bytes that were copied in or out through the window.
    @inlinable
    mutating func useThroughWindow(_ count: Int) {
        assert(count <= window && count <= contiguous)
        own &+= UInt32(truncatingIfNeeded: count)
        window &-= count
    }

    /// Works out the window again, after what is worth showing was shown.
    mutating func openWindow() { window = max(0, min(contiguous, batch - unpublished)) }

    mutating func closeWindow() { window = 0 }

    mutating func markPublished() { published = own }

    /// Forgets what is available: nothing of a poisoned ring is used.
    mutating func abandon() {
        limit = own
        window = 0
    }
}

// MARK: The bytes

extension RingEnd {
    /// Copies bytes behind what is written already, `offset` bytes on; the caller has made sure of
    /// the room.
    @inlinable
    func copyIn(_ source: UnsafeRawBufferPointer, offset: Int = 0) {
        guard let base = unsafe base, let from = source.baseAddress else { return }
        precondition(source.count + offset <= available, "a ring holds no more than its room")
        let start = (position + offset) & (Int(size) - 1)
        let first = min(source.count, Int(size) - start)
        // SAFETY: start + first <= size, and the rest is less than size: inside the mapping.
        unsafe (base + start).copyMemory(from: from, byteCount: first)
        if first < source.count {
            unsafe base.copyMemory(from: from + first, byteCount: source.count - first)
        }
    }

    /// Copies the next bytes out once; the caller has made sure that they are ready.
    @inlinable
    func copyOut(to target: UnsafeMutableRawBufferPointer) {
        guard let base = unsafe base, let to = target.baseAddress else { return }
        precondition(target.count <= available, "a ring gives no more than is ready")
        let start = position
        let first = min(target.count, Int(size) - start)
        // SAFETY: start + first <= size, and the rest is less than size: inside the mapping.
        unsafe to.copyMemory(from: base + start, byteCount: first)
        if first < target.count {
            unsafe (to + first).copyMemory(from: base, byteCount: target.count - first)
        }
    }

    /// Copies bytes that fit before the ring's end; `contiguous` has said so.
    @inlinable
    func copyInOnePiece(_ source: UnsafeRawBufferPointer) {
        guard let base = unsafe base, let from = source.baseAddress else { return }
        // SAFETY: position + count <= size, inside the mapping.
        unsafe copyShort(to: base + position, from: from, source.count)
    }

    /// Copies bytes that end before the ring does; `contiguous` has said so.
    @inlinable
    func copyOutInOnePiece(to target: UnsafeMutableRawBufferPointer) {
        guard let base = unsafe base, let to = target.baseAddress else { return }
        // SAFETY: position + count <= size, inside the mapping.
        unsafe copyShort(to: to, from: base + position, target.count)
    }
}

// MARK: Before a byte stream

extension RingEnd {
    /// Bytes that a byte stream has still to take from a producer's ring, or room for those that it
    /// brings to a consumer's.
    var pending: Int { Int(size) - available }
    /// Where they begin.
    var pendingPosition: Int { Int(limit & (size &- 1)) }
    /// Counts bytes that a byte stream took or brought.
    mutating func streamed(_ count: Int) { limit &+= UInt32(count) }
}

/// Copies between a ring and private memory, which never overlap. Messages of a line or two are the
/// common case, and for them the call of the library's copy costs as much as the copy.
@inlinable
@inline(__always)
func copyShort(to: UnsafeMutableRawPointer, from: UnsafeRawPointer, _ count: Int) {
    typealias Block = SIMD16<UInt8>
    let block = MemoryLayout<Block>.size
    guard block...8 * block ~= count else {
        unsafe to.copyMemory(from: from, byteCount: count)
        return
    }
    // SAFETY: every block ends at or before `count`; the last one may overlap the one before it.
    var offset = 0
    while offset < count - block {
        let bytes = unsafe from.loadUnaligned(fromByteOffset: offset, as: Block.self)
        unsafe to.storeBytes(of: bytes, toByteOffset: offset, as: Block.self)
        offset += block
    }
    let last = unsafe from.loadUnaligned(fromByteOffset: count - block, as: Block.self)
    unsafe to.storeBytes(of: last, toByteOffset: count - block, as: Block.self)
}

/// The producing end of one ring: private indices over shared bytes (protocol 1.3).
///
/// `peer` is the last checked value of the consumer's index; the shared word is looked at only when
/// this copy says that there is no room.
@safe
@usableFromInline
struct ProducerRing {
    @usableFromInline let base: UnsafeMutableRawPointer?
    @usableFromInline let size: UInt32
    /// Written so far, published or not.
    @usableFromInline var staged: UInt32
    /// What the peer was shown.
    @usableFromInline var published: UInt32
    @usableFromInline var peer: UInt32
    /// Bytes that can be written without a thought: free, in one piece, and not yet worth showing.
    /// 0 says no more than that somebody has to think.
    @usableFromInline var window = 0

    static var none: ProducerRing { unsafe ProducerRing(base: nil, size: 0, index: 0) }

    /// - Parameter base: `size` mapped bytes that outlive this value; `size` is a power of two.
    init(base: UnsafeMutableRawPointer?, size: Int, index: UInt32) {
        unsafe self.base = base
        self.size = UInt32(size)
        (staged, published, peer) = (index, index, index)
    }

    /// Free bytes as far as known here.
    @inlinable var space: Int { Int(size &- (staged &- peer)) }
    @inlinable var position: Int { Int(staged & (size &- 1)) }
    @inlinable var unpublished: Int { Int(staged &- published) }

    /// Checks a consumer's index: it stays between where it was and what was published.
    ///
    /// - Returns: false when the peer is broken or hostile; nothing is changed then.
    mutating func advancePeer(to index: UInt32) -> Bool {
        guard published &- index <= published &- peer else { return false }
        peer = index
        return true
    }

    /// Copies bytes behind what is staged already, `offset` bytes on; the caller has made sure of
    /// the room.
    @inlinable
    func copyIn(_ source: UnsafeRawBufferPointer, offset: Int = 0) {
        guard let base = unsafe base, let from = source.baseAddress else { return }
        precondition(source.count + offset <= space, "a ring holds no more than its room")
        let start = (position + offset) & (Int(size) - 1)
        let first = min(source.count, Int(size) - start)
        // SAFETY: start + first <= size, and the rest is less than size: inside the mapping.
        unsafe (base + start).copyMemory(from: from, byteCount: first)
        if first < source.count {
            unsafe base.copyMemory(from: from + first, byteCount: source.count - first)
        }
    }

    /// Copies bytes that fit before the ring's end; `contiguousSpace` has said so.
    @inlinable
    func copyInOnePiece(_ source: UnsafeRawBufferPointer) {
        guard let base = unsafe base, let from = source.baseAddress else { return }
        // SAFETY: position + count <= size, inside the mapping.
        unsafe copyShort(to: base + position, from: from, source.count)
    }

    /// Counts bytes that were copied in.
    @inlinable
    mutating func stage(_ count: Int) {
        assert(count <= space)
        staged &+= UInt32(truncatingIfNeeded: count)
        window = 0
    }

    /// Counts bytes that were copied in through the window.
    @inlinable
    mutating func stageThroughWindow(_ count: Int) {
        assert(count <= window && count <= contiguousSpace)
        staged &+= UInt32(truncatingIfNeeded: count)
        window &-= count
    }

    /// Works out the window again, after what is staged was shown if it was worth it.
    mutating func openWindow() {
        window = max(0, min(contiguousSpace, Int(size) / 4 - unpublished))
    }

    mutating func closeWindow() { window = 0 }

    mutating func markPublished() { published = staged }

    /// Bytes from here to the ring's end that can be written in one piece.
    @inlinable var contiguousSpace: Int { min(space, Int(size) - position) }

    /// Counts bytes that a byte stream took from the start of what is staged.
    mutating func sent(_ count: Int) { peer &+= UInt32(count) }
    /// Staged bytes that no byte stream has taken yet, and where they begin.
    var unsent: Int { Int(staged &- peer) }
    var unsentPosition: Int { Int(peer & (size &- 1)) }
}

/// The consuming end of one ring; see `ProducerRing`.
@safe
@usableFromInline
struct ConsumerRing {
    @usableFromInline let base: UnsafeMutableRawPointer?
    @usableFromInline let size: UInt32
    /// Read so far, published or not.
    @usableFromInline var taken: UInt32
    /// What the peer was shown.
    @usableFromInline var published: UInt32
    @usableFromInline var peer: UInt32
    /// Bytes that can be read without a thought, see `ProducerRing.window`.
    @usableFromInline var window = 0

    static var none: ConsumerRing { unsafe ConsumerRing(base: nil, size: 0, index: 0) }

    /// - Parameter base: `size` mapped bytes that outlive this value; `size` is a power of two.
    init(base: UnsafeMutableRawPointer?, size: Int, index: UInt32) {
        unsafe self.base = base
        self.size = UInt32(size)
        (taken, published, peer) = (index, index, index)
    }

    /// Bytes ready as far as known here.
    @inlinable var ready: Int { Int(peer &- taken) }
    @inlinable var position: Int { Int(taken & (size &- 1)) }
    @inlinable var unpublished: Int { Int(taken &- published) }

    /// Checks a producer's index: it never goes back and never exceeds the room it was shown.
    ///
    /// - Returns: false when the peer is broken or hostile; nothing is changed then.
    mutating func advancePeer(to index: UInt32) -> Bool {
        let held = index &- published
        guard held <= size, held >= peer &- published else { return false }
        peer = index
        return true
    }

    /// Copies the next bytes out once; the caller has made sure that they are ready.
    @inlinable
    func copyOut(to target: UnsafeMutableRawBufferPointer) {
        guard let base = unsafe base, let to = target.baseAddress else { return }
        precondition(target.count <= ready, "a ring gives no more than is ready")
        let start = position
        let first = min(target.count, Int(size) - start)
        // SAFETY: start + first <= size, and the rest is less than size: inside the mapping.
        unsafe to.copyMemory(from: base + start, byteCount: first)
        if first < target.count {
            unsafe (to + first).copyMemory(from: base, byteCount: target.count - first)
        }
    }

    /// Copies bytes that end before the ring does; `contiguousReady` has said so.
    @inlinable
    func copyOutInOnePiece(to target: UnsafeMutableRawBufferPointer) {
        guard let base = unsafe base, let to = target.baseAddress else { return }
        // SAFETY: position + count <= size, inside the mapping.
        unsafe copyShort(to: to, from: base + position, target.count)
    }

    @inlinable
    mutating func take(_ count: Int) {
        assert(count <= ready)
        taken &+= UInt32(truncatingIfNeeded: count)
        window = 0
    }

    /// Counts bytes that were copied out through the window.
    @inlinable
    mutating func takeThroughWindow(_ count: Int) {
        assert(count <= window && count <= contiguousReady)
        taken &+= UInt32(truncatingIfNeeded: count)
        window &-= count
    }

    /// Works out the window again, after room was given back if it was worth it.
    mutating func openWindow() {
        window = max(0, min(contiguousReady, Int(size) / 2 - unpublished))
    }

    mutating func markPublished() { published = taken }

    /// Bytes from here to the ring's end that can be read in one piece.
    @inlinable var contiguousReady: Int { min(ready, Int(size) - position) }

    /// Counts bytes that a byte stream delivered behind what is ready.
    mutating func delivered(_ count: Int) { peer &+= UInt32(count) }
    /// Room for bytes of a byte stream, and where it begins.
    var fillable: Int { Int(size) - ready }
    var fillPosition: Int { Int(peer & (size &- 1)) }

    /// Forgets what is ready: nothing of a poisoned ring is used.
    mutating func abandon() {
        peer = taken
        window = 0
    }
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

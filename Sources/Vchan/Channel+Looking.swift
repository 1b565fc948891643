extension Channel {
    typealias Direction = VchanError.Direction

    /// Bytes that can be read now. A look: it asks the peer for nothing.
    public mutating func bytesReady() throws(VchanError) -> Int {
        try lookForData(atLeast: Int(reading.size))
        return reading.available
    }

    /// Bytes that can be written now. A look: it asks the peer for nothing.
    public mutating func bytesFree() throws(VchanError) -> Int {
        try lookForSpace(atLeast: Int(writing.size))
        return writing.available
    }

    /// Shows the peer what was written and what was read, and wakes it if it asked for that (steps P1
    /// to P3 of Tests/Models/ring.pml, for both rings at once).
    public mutating func flush() throws(VchanError) {
        guard let page, state != .closed else { return try flushStream() }
        let (written, read) = (writing.unpublished > 0, reading.unpublished > 0)
        // One exchange is a fence for both indices; what was written comes last and has it.
        if written {
            if read { page.storeConsumed(reading.own) }
            page.publishProduced(writing.own)  // P1
            writing.markPublished()
        } else if read {
            page.publishConsumed(reading.own)  // P1
        } else {
            if link.owesNotice { link.notify() }
            return
        }
        if read { reading.markPublished() }
        let done: Notification = written ? (read ? [.write, .read] : .write) : .read
        if page.isAsked(done) || link.owesNotice { notify(of: done) }
    }

    /// Apart, so that a flush that wakes nobody has nothing to save and restore.
    @inline(never)
    private mutating func notify(of done: Notification) {
        if let page, page.takeAsked(done) || link.owesNotice { link.notify() }  // P2, P3
    }

    @inline(never)
    private mutating func flushStream() throws(VchanError) {
        if page == nil { try pushStaged() }
    }

    /// Gets ready to sleep until so many bytes can be read: flushes, asks the peer for a
    /// notification, and looks again (steps S1 to S3 of the model).
    ///
    /// - Parameter atLeast: more than the ring holds is refused with `tooLarge`.
    /// - Returns: true when there is no reason to sleep: the bytes are there, or the channel is
    ///   closed. False: wait for `pollDescriptor`, call `progress`, and look again.
    public mutating func armForData(atLeast: Int = 1) throws(VchanError) -> Bool {
        try arm(.reading, atLeast)
    }

    /// Gets ready to sleep until so many bytes can be written; see `armForData`.
    public mutating func armForSpace(atLeast: Int = 1) throws(VchanError) -> Bool {
        try arm(.writing, atLeast)
    }

    mutating func arm(_ direction: Direction, _ count: Int) throws(VchanError) -> Bool {
        try flush()  // S1
        guard page != nil || stream.number >= 0 else { return state == .closed }
        let size = Int(direction == .reading ? reading.size : writing.size)
        guard count <= size else { throw .tooLarge(bytes: count, ring: size) }
        if try isDue(direction, count) { return true }
        // The changes of a byte stream need no asking: the look has found it empty or full.
        guard let page else { return false }
        let wish: Notification = direction == .reading ? .write : .read
        page.ask(wish)  // S2
        guard try isDue(direction, count) else { return false }  // S3
        page.withdraw(wish)
        return true
    }

    /// Looks whether so many bytes can be read or written, or never will be.
    mutating func isDue(_ direction: Direction, _ count: Int) throws(VchanError) -> Bool {
        if direction == .reading {
            try lookForData(atLeast: count)
            return reading.available >= count || state == .closed
        }
        try lookForSpace(atLeast: count)
        return writing.available >= count || !isWritable
    }

    /// Whether what is written now may still arrive: a byte stream whose peer has ended its own
    /// direction may go on reading.
    var isWritable: Bool {
        state != .closed || (stream.number >= 0 && !stream.isBroken)
    }

    /// Touches the shared line only when the private copy does not have enough; and only when the
    /// peer has not written enough is it asked whether it still lives.
    @usableFromInline
    mutating func lookForData(atLeast: Int) throws(VchanError) {
        guard reading.available < atLeast, state != .closed || page == nil else { return }
        try loadProduced()  // L1
        if reading.available < atLeast { try noticeClose() }  // L2, L3
    }

    @usableFromInline
    mutating func lookForSpace(atLeast: Int) throws(VchanError) {
        guard writing.available < atLeast, isWritable else { return }
        guard let page else { return try pushStaged() }
        let index = page.loadPeerConsumed()  // L1
        if !writing.advance(to: index) { throw poison(index, .writing) }
        if writing.available < atLeast { try noticeClose() }  // L2
    }

    mutating func loadProduced() throws(VchanError) {
        guard let page else { return stream.fill(&reading) }
        let index = page.loadPeerProduced()
        if !reading.advance(to: index) { throw poison(index, .reading) }
    }

    /// Shows the peer what was written when it is worth it.
    @inlinable
    mutating func publishProducedInBatches() {
        if writing.unpublished >= writing.batch { publishProduced() }
    }

    @usableFromInline
    @inline(never)
    mutating func publishProduced() {
        guard let page else {
            writing.markPublished()
            return stream.drain(&writing)
        }
        page.publishProduced(writing.own)
        writing.markPublished()
        if page.isAsked(.write) { notify(of: .write) }
    }

    /// Gives room back when it is worth it.
    @inlinable
    mutating func publishConsumedInBatches() {
        if reading.unpublished >= reading.batch { publishConsumed() }
    }

    @usableFromInline
    @inline(never)
    mutating func publishConsumed() {
        guard state == .open, let page else { return reading.markPublished() }
        page.publishConsumed(reading.own)
        reading.markPublished()
        if page.isAsked(.read) { notify(of: .read) }
    }

    /// Hands what is staged to a byte stream, as far as it takes it.
    mutating func pushStaged() throws(VchanError) {
        guard isWritable else { return }
        stream.drain(&writing)
        writing.markPublished()
        try noticeClose()
    }

    /// A writer's channel must have somebody at the other end, or get somebody.
    @inlinable
    mutating func requireWritable() throws(VchanError) {
        if state == .closed { try requireOpenStream() }
    }

    // Mutating, as all that is called from the hot path: the compiler copies a whole channel to call
    // anything else on it.
    @usableFromInline
    @inline(never)
    mutating func requireOpenStream() throws(VchanError) {
        if !isWritable { throw .closed(peerDied: peerDied) }
    }
}

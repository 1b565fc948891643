extension Channel {
    /// Bytes that can be read now. A look: it asks the peer for nothing.
    public mutating func bytesReady() throws(VchanError) -> Int {
        try lookForData(atLeast: Int(reading.size))
        return reading.ready
    }

    /// Bytes that can be written now. A look: it asks the peer for nothing.
    public mutating func bytesFree() throws(VchanError) -> Int {
        try lookForSpace(atLeast: Int(writing.size))
        return writing.space
    }

    /// Shows the peer what was written and what was read, and wakes it if it asked for that (steps P1
    /// to P3 of Tests/Models/ring.pml, for both rings at once).
    public mutating func flush() throws(VchanError) {
        guard let page else { return try pushStaged() }
        guard state != .closed else { return }
        var done: Notification = []
        if writing.unpublished > 0 {
            page.publishProduced(writing.staged)
            writing.markPublished()
            done.insert(.write)
        }
        if reading.unpublished > 0 {
            page.publishConsumed(reading.taken)
            reading.markPublished()
            done.insert(.read)
        }
        if !done.isEmpty, page.takeAsked(done) { link.notify() }
    }

    /// Gets ready to sleep until so many bytes can be read: flushes, asks the peer for a
    /// notification, and looks again (steps S1 to S3 of the model).
    ///
    /// - Parameter atLeast: more than the ring holds is refused with `tooLarge`.
    /// - Returns: true when there is no reason to sleep: the bytes are there, or the channel is
    ///   closed. False: wait for `pollDescriptor`, call `progress`, and look again.
    public mutating func armForData(atLeast: Int = 1) throws(VchanError) -> Bool {
        try flush()
        guard page != nil || stream.number >= 0 else { return state == .closed }
        guard atLeast <= Int(reading.size) else {
            throw .tooLarge(bytes: atLeast, ring: Int(reading.size))
        }
        try lookForData(atLeast: atLeast)
        if reading.ready >= atLeast || state == .closed { return true }
        // The changes of a byte stream need no asking: the look has found it empty.
        guard let page else { return false }
        page.ask(.write)  // S2
        try lookForData(atLeast: atLeast)  // S3
        guard reading.ready >= atLeast || state == .closed else { return false }
        page.withdraw(.write)
        return true
    }

    /// Gets ready to sleep until so many bytes can be written; see `armForData`.
    public mutating func armForSpace(atLeast: Int = 1) throws(VchanError) -> Bool {
        try flush()
        guard page != nil || stream.number >= 0 else { return state == .closed }
        guard atLeast <= Int(writing.size) else {
            throw .tooLarge(bytes: atLeast, ring: Int(writing.size))
        }
        try lookForSpace(atLeast: atLeast)
        if writing.space >= atLeast || !isWritable { return true }
        guard let page else { return false }
        page.ask(.read)  // S2
        try lookForSpace(atLeast: atLeast)  // S3
        guard writing.space >= atLeast || state == .closed else { return false }
        page.withdraw(.read)
        return true
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
        guard reading.ready < atLeast, state != .closed || page == nil else { return }
        try loadProduced()  // L1
        if reading.ready < atLeast { try noticeClose() }  // L2, L3
    }

    @usableFromInline
    mutating func lookForSpace(atLeast: Int) throws(VchanError) {
        guard writing.space < atLeast, isWritable else { return }
        guard let page else { return try pushStaged() }
        let index = page.loadPeerConsumed()
        guard writing.advancePeer(to: index) else {
            throw poison(
                .badIndex(
                    .writing, peer: index, own: writing.published, size: Int(writing.size)))
        }
        if writing.space < atLeast { try noticeClose() }
    }

    mutating func loadProduced() throws(VchanError) {
        guard let page else { return stream.fill(&reading) }
        let index = page.loadPeerProduced()
        guard reading.advancePeer(to: index) else {
            throw poison(
                .badIndex(
                    .reading, peer: index, own: reading.published, size: Int(reading.size)))
        }
    }

    /// Shows the peer a quarter ring at a time: often enough that it never waits for long, seldom
    /// enough that the shared lines stay with whoever works.
    @inlinable
    mutating func publishProducedInBatches() {
        guard writing.unpublished >= Int(writing.size) / 4 else { return }
        publishProduced()
    }

    @usableFromInline
    @inline(never)
    mutating func publishProduced() {
        guard let page else {
            writing.markPublished()
            return stream.drain(&writing)
        }
        page.publishProduced(writing.staged)
        writing.markPublished()
        if page.takeAsked(.write) { link.notify() }
    }

    /// Gives room back half a ring at a time; a peer that waits for room then wakes at most twice
    /// for each ring filled.
    @inlinable
    mutating func publishConsumedInBatches() {
        guard reading.unpublished >= Int(reading.size) / 2 else { return }
        publishConsumed()
    }

    @usableFromInline
    @inline(never)
    mutating func publishConsumed() {
        guard state == .open, let page else { return reading.markPublished() }
        page.publishConsumed(reading.taken)
        reading.markPublished()
        if page.takeAsked(.read) { link.notify() }
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

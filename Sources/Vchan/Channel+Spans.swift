/// The ring itself, in place: for bytes that are made or used where they lie, once. Nothing that
/// is looked at twice belongs in here: the peer can change what lies in the ring at any time.
extension Channel {
    /// Reserves free bytes of the ring, and commits as many as were written.
    ///
    /// - Parameters:
    ///   - count: the most that is wanted. Fewer are given where the ring ends: the rest follows
    ///     with the next call.
    ///   - body: fills the bytes from the start and returns how many of them count. It is not
    ///     called when there is no room.
    /// - Returns: bytes committed.
    @inlinable
    public mutating func write(
        atMost count: Int, _ body: (inout MutableSpan<UInt8>) -> Int
    ) throws(VchanError) -> Int {
        try requireWritable()
        if writing.available < count {
            try lookForSpace(atLeast: min(count, Int(writing.size)))
            try requireWritable()
        }
        let room = min(count, writing.contiguous)
        guard room > 0, let base = unsafe writing.base else { return 0 }
        // SAFETY: `room` bytes from `position` on are inside the ring's memory, and free.
        var span = unsafe MutableSpan<UInt8>(
            _unsafeStart: (base + writing.position).assumingMemoryBound(to: UInt8.self),
            count: room)
        let written = body(&span)
        precondition(0...room ~= written, "no more than the reserved bytes can be committed")
        writing.use(written)
        publishProducedInBatches()
        return written
    }

    /// Shows bytes that are ready, and consumes as many as were used.
    ///
    /// - Parameters:
    ///   - count: the most that is wanted. Fewer are shown where the ring ends: the rest follows
    ///     with the next call.
    ///   - body: returns how many bytes it has used; the others are shown again. It is not called
    ///     when nothing is ready.
    /// - Returns: bytes consumed.
    @inlinable
    public mutating func read(
        atMost count: Int, _ body: (Span<UInt8>) -> Int
    ) throws(VchanError) -> Int {
        if reading.available < count {
            try lookForData(atLeast: min(count, Int(reading.size)))
        }
        let there = min(count, reading.contiguous)
        guard there > 0, let base = unsafe reading.base else { return 0 }
        // SAFETY: `there` bytes from `position` on are inside the ring's memory, and ready.
        let span = unsafe Span<UInt8>(
            _unsafeStart: UnsafePointer(
                (base + reading.position).assumingMemoryBound(to: UInt8.self)),
            count: there)
        let used = body(span)
        precondition(0...there ~= used, "no more than the shown bytes can be consumed")
        reading.use(used)
        publishConsumedInBatches()
        return used
    }
}

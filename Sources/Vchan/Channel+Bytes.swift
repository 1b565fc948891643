extension Channel {
    /// Writes as much of a byte stream as there is room for now.
    ///
    /// - Returns: how many bytes were written, maybe 0 (`armForSpace` waits for room).
    /// - Throws: `closed`.
    @inlinable
    public mutating func write(_ bytes: Span<UInt8>) throws(VchanError) -> Int {
        guard bytes.count <= writing.window else { return try writeWithALook(bytes) }
        // SAFETY: the span outlives the copy.
        unsafe bytes.withUnsafeBytes { unsafe writing.copyInOnePiece($0) }
        writing.useThroughWindow(bytes.count)
        return bytes.count
    }

    @usableFromInline
    mutating func writeWithALook(_ bytes: Span<UInt8>) throws(VchanError) -> Int {
        try requireWritable()
        try lookForSpace(atLeast: min(bytes.count, Int(writing.size)))
        try requireWritable()
        let count = min(bytes.count, writing.available)
        // SAFETY: the span outlives the copy.
        unsafe bytes.extracting(first: count).withUnsafeBytes { unsafe writing.copyIn($0) }
        writing.use(count)
        publishProducedInBatches()
        if state == .open { writing.openWindow() }
        return count
    }

    /// Reads as many bytes as the buffer holds behind `start` and as are there.
    ///
    /// - Returns: how many; 0 when none are ready.
    @inlinable
    public mutating func read(
        into buffer: inout [UInt8], from start: Int = 0
    ) throws(VchanError) -> Int {
        let count = buffer.count - start
        guard count <= reading.window, start == 0 else {
            return try readWithALook(into: &buffer, from: start)
        }
        // SAFETY: `count` is all of the array's own storage.
        unsafe buffer.withUnsafeMutableBytes { unsafe reading.copyOutInOnePiece(to: $0) }
        reading.useThroughWindow(count)
        return count
    }

    /// Fills the whole span, or reads nothing: messages of a known size.
    ///
    /// - Returns: whether so many bytes were there.
    @inlinable
    public mutating func read(whole span: inout MutableSpan<UInt8>) throws(VchanError) -> Bool {
        let count = span.count
        guard count <= reading.window else { return try readWholeWithALook(&span) }
        // SAFETY: `count` is all of the span, which outlives the copy.
        unsafe span.withUnsafeMutableBytes { unsafe reading.copyOutInOnePiece(to: $0) }
        reading.useThroughWindow(count)
        return true
    }

    @usableFromInline
    mutating func readWholeWithALook(
        _ span: inout MutableSpan<UInt8>
    ) throws(VchanError) -> Bool {
        try lookForData(atLeast: span.count)
        if reading.available < span.count { return false }
        // SAFETY: the span outlives the copy.
        unsafe span.withUnsafeMutableBytes { unsafe reading.copyOut(to: $0) }
        reading.use(span.count)
        publishConsumedInBatches()
        reading.openWindow()
        return true
    }

    @usableFromInline
    mutating func readWithALook(
        into buffer: inout [UInt8], from start: Int
    ) throws(VchanError) -> Int {
        precondition(0...buffer.count ~= start, "a position in the buffer")
        let wanted = buffer.count - start
        try lookForData(atLeast: min(wanted, Int(reading.size)))
        let count = min(wanted, reading.available)
        // SAFETY: `count` bytes behind `start` are in the array's own storage.
        unsafe buffer.withUnsafeMutableBytes {
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: $0[start..<start + count])
            unsafe reading.copyOut(to: target)
        }
        reading.use(count)
        publishConsumedInBatches()
        reading.openWindow()
        return count
    }

    /// Reads from a descriptor straight into the ring, without a frame.
    ///
    /// - Parameters:
    ///   - isSocket: sockets are read without waiting whatever their mode; anything else must be
    ///     non-blocking, or known to have data.
    ///   - limit: bytes at most.
    public mutating func write(
        from descriptor: Int32, isSocket: Bool, limit: Int = .max
    ) throws(VchanError) -> FillResult {
        try fill(from: descriptor, isSocket: isSocket, limit: limit, headerOf: nil)
    }

    /// Bytes that are best moved at a time between a descriptor and a ring of so many bytes: one
    /// side fills one half while the other empties the other one, and what is under way stays in the
    /// processors' caches. For loops that move a stream; `limit` of `write(from:)` and of `drain`.
    public static func piece(ofRing bytes: Int) -> Int {
        max(min(bytes, 4096), min(bytes / 2, 128 << 10))
    }

    /// Bytes written here that the peer has not read yet.
    public mutating func bytesUnread() throws(VchanError) -> Int {
        try lookForSpace(atLeast: Int(writing.size))
        return Int(writing.size) - writing.available
    }

    /// Tells the peer that nothing more will be written, where there is a way to say so.
    ///
    /// A vchan has no half-close (protocol 1). Between two ends of this library it is a bit of the
    /// notify byte that others ignore; over a byte stream it is a shutdown, which the reference
    /// implementation takes for the end of the channel.
    public mutating func endWriting() throws(VchanError) {
        try flush()
        guard state != .closed || isWritable else { return }
        if let page {
            page.ask(.ended)
            link.notify()
        } else {
            stream.shutdownWhenSent(&writing)
        }
    }

    /// Whether `endWriting` tells the peer: over the C library only `close` does.
    public var canEndWriting: Bool { page != nil || !stream.isLibrary }

    /// Whether the peer said that it will write nothing more, or is gone.
    public var peerEndedWriting: Bool {
        guard state == .open, let page else { return state == .closed }
        return page.isAsked(.ended)
    }
}

extension Channel {
    /// Closed, and nothing that is written now can arrive any more. The same as `closed` but for
    /// byte streams, whose peer may end one direction only.
    public var isOver: Bool { !isWritable }

    /// Connected over a byte stream (protocol 4), where a close with unread bytes takes from the peer
    /// what was written last.
    public var isByteStream: Bool { stream.number >= 0 }
}

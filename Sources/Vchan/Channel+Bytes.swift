extension Channel {
    /// Writes as much of a byte stream as there is room for now.
    ///
    /// - Returns: how many bytes were written, maybe 0 (`armForSpace` waits for room).
    /// - Throws: `closed`.
    public mutating func write(_ bytes: Span<UInt8>) throws(VchanError) -> Int {
        try requireWritable()
        try lookForSpace(atLeast: min(bytes.count, Int(writing.size)))
        try requireWritable()
        let count = min(bytes.count, writing.space)
        // SAFETY: the span outlives the copy.
        unsafe bytes.extracting(first: count).withUnsafeBytes { unsafe writing.copyIn($0) }
        writing.stage(count)
        publishProducedInBatches()
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

    /// Bytes written here that the peer has not read yet.
    public mutating func bytesUnread() throws(VchanError) -> Int {
        try lookForSpace(atLeast: Int(writing.size))
        return Int(writing.size) - writing.space
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
}

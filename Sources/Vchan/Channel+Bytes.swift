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
}

import CLinuxSystem
import Glibc
public import SystemPackage

/// The header of a framed message: two little-endian words before its payload (protocol 5.2).
public struct FrameHeader: Hashable, Sendable {
    public let type: UInt32
    /// Bytes of payload that follow: the peer's word, to be checked against the message's limits
    /// before anything waits for them.
    public let length: UInt32

    /// Bytes of a header.
    public static let size = 8

    public init(type: UInt32, length: UInt32) {
        self.type = type
        self.length = length
    }
}

/// What became of a transfer from a descriptor into the ring.
public enum FillResult: Hashable, Sendable {
    /// One frame with so many bytes of payload was written.
    case moved(Int)
    case endOfFile
    /// The descriptor has nothing now.
    case wouldBlock
    /// The ring has no room for a header and one byte.
    case noRoom
    /// The descriptor failed; the channel is as it was.
    case failed(Errno)
}

/// What became of a transfer from the ring to a descriptor.
public enum DrainResult: Hashable, Sendable {
    /// So many bytes were taken from the ring; 0 when none were ready.
    case moved(Int)
    /// The descriptor takes nothing now.
    case wouldBlock
    /// The descriptor failed; nothing was taken.
    case failed(Errno)
}

extension Channel {
    /// Writes one whole frame, or nothing.
    ///
    /// - Returns: false when there is no room now (`armForSpace` with the frame's size waits).
    /// - Throws: `tooLarge` for a frame that the ring can never hold, `closed`.
    public mutating func send(
        type: UInt32, _ payload: Span<UInt8>
    ) throws(VchanError) -> Bool {
        try requireWritable()
        let total = FrameHeader.size + payload.count
        if writing.available < total {
            guard writing.size > 0 else { return false }
            guard total <= Int(writing.size) else {
                throw .tooLarge(bytes: total, ring: Int(writing.size))
            }
            try lookForSpace(atLeast: total)
            try requireWritable()
            if writing.available < total { return false }
        }
        putHeader(FrameHeader(type: type, length: UInt32(payload.count)))
        // SAFETY: the span outlives the copy.
        unsafe payload.withUnsafeBytes {
            unsafe writing.copyIn($0, offset: FrameHeader.size)
        }
        writing.use(total)
        publishProducedInBatches()
        return true
    }

    /// Reads from a descriptor straight into the ring, as one frame.
    ///
    /// - Parameters:
    ///   - isSocket: sockets are read without waiting whatever their mode; anything else must be
    ///     non-blocking, or known to have data.
    ///   - limit: bytes of payload at most.
    public mutating func send(
        type: UInt32, from descriptor: Int32, isSocket: Bool, limit: Int
    ) throws(VchanError) -> FillResult {
        try fill(from: descriptor, isSocket: isSocket, limit: limit, headerOf: type)
    }

    /// - Parameter headerOf: the type of the frame that the bytes become; nil for bare bytes.
    mutating func fill(
        from descriptor: Int32, isSocket: Bool, limit: Int, headerOf type: UInt32?
    ) throws(VchanError) -> FillResult {
        try requireWritable()
        let header = type == nil ? 0 : FrameHeader.size
        let size = Int(writing.size)
        try lookForSpace(atLeast: limit < size - header ? header + limit : size)
        try requireWritable()
        guard writing.available > header, limit > 0 else { return .noRoom }
        let count = min(limit, writing.available - header)
        let start = (writing.position + header) & (size - 1)
        // SAFETY: the pieces from `start` on are inside the ring's mapping and free.
        let got = interruptible {
            unsafe cs_read_into_ring(
                descriptor, writing.base, size, start, count, isSocket ? 1 : 0)
        }
        guard got >= 0 else {
            let error = Errno(rawValue: errno)
            return error == .resourceTemporarilyUnavailable ? .wouldBlock : .failed(error)
        }
        if got == 0 { return .endOfFile }
        if let type { putHeader(FrameHeader(type: type, length: UInt32(got))) }
        writing.use(header + got)
        publishProducedInBatches()
        return .moved(got)
    }

    private mutating func putHeader(_ header: FrameHeader) {
        var words = (header.type.littleEndian, header.length.littleEndian)
        // SAFETY: two words without padding.
        unsafe withUnsafeBytes(of: &words) { unsafe writing.copyIn($0) }
    }

    /// Takes the next header. It is copied out once and given back to the peer: nothing of it is
    /// looked at in the ring again.
    ///
    /// - Returns: nil while fewer than 8 bytes are ready.
    public mutating func receiveHeader() throws(VchanError) -> FrameHeader? {
        try lookForData(atLeast: FrameHeader.size)
        guard reading.available >= FrameHeader.size else { return nil }
        var words: (UInt32, UInt32) = (0, 0)
        // SAFETY: two words without padding.
        unsafe withUnsafeMutableBytes(of: &words) { unsafe reading.copyOut(to: $0) }
        reading.use(FrameHeader.size)
        publishConsumedInBatches()
        return FrameHeader(
            type: UInt32(littleEndian: words.0), length: UInt32(littleEndian: words.1))
    }

    /// Appends up to `count` of the bytes that are ready.
    ///
    /// - Returns: how many; 0 when none are ready.
    public mutating func receive(
        into buffer: inout [UInt8], count: Int
    ) throws(VchanError) -> Int {
        let moved = try readable(atMost: count)
        if moved == 0 { return 0 }
        let old = buffer.count
        buffer.append(contentsOf: repeatElement(0, count: moved))
        // SAFETY: the last `moved` bytes of the array's own storage.
        unsafe buffer.withUnsafeMutableBytes {
            unsafe reading.copyOut(to: UnsafeMutableRawBufferPointer(rebasing: $0[old...]))
        }
        reading.use(moved)
        publishConsumedInBatches()
        return moved
    }

    /// Writes up to `count` of the bytes that are ready straight from the ring to a descriptor.
    ///
    /// - Parameter isSocket: sockets are written without waiting whatever their mode and without a
    ///   SIGPIPE; anything else must be non-blocking, or known to have room.
    public mutating func drain(
        _ count: Int, to descriptor: Int32, isSocket: Bool
    ) throws(VchanError) -> DrainResult {
        let available = try readable(atMost: count)
        if available == 0 { return .moved(0) }
        let (size, start) = (Int(reading.size), reading.position)
        // SAFETY: the pieces from `start` on are inside the ring's mapping and ready.
        let put = interruptible {
            unsafe cs_write_from_ring(
                descriptor, reading.base, size, start, available, isSocket ? 1 : 0)
        }
        guard put >= 0 else {
            let error = Errno(rawValue: errno)
            return error == .resourceTemporarilyUnavailable ? .wouldBlock : .failed(error)
        }
        reading.use(put)
        publishConsumedInBatches()
        return .moved(put)
    }

    /// Throws away up to `count` of the bytes that are ready.
    ///
    /// - Returns: how many.
    public mutating func discard(_ count: Int) throws(VchanError) -> Int {
        let moved = try readable(atMost: count)
        reading.use(moved)
        publishConsumedInBatches()
        return moved
    }

    /// The shared index is looked at only when the private copy has less than wanted.
    private mutating func readable(atMost count: Int) throws(VchanError) -> Int {
        precondition(count >= 0, "a count of bytes")
        try lookForData(atLeast: min(count, Int(reading.size)))
        return min(count, reading.available)
    }
}

/// Makes a system call again when a signal interrupts it.
private func interruptible(_ call: () -> Int) -> Int {
    while true {
        let result = call()
        if result >= 0 || errno != EINTR { return result }
    }
}

import LinuxSystem
import SystemPackage
import Vchan

extension ConformanceCase {
    /// Both directions at once, every ring size, chunk sizes around each boundary.
    static func streams(_ extent: Extent) -> [ConformanceCase] {
        ringSizes.flatMap { ring in
            let size = ring.bytes
            let chunks = [
                1, 7, 8, 9, size / 4 - 1, size / 4, size / 4 + 1, size / 2, size - 1, size,
                size + 1,
                3 * size,
            ]
            return chunks.map { chunk in
                let total = min(extent.bytes, max(4 * size, 5000), 8000 * chunk)
                return ConformanceCase(
                    "streams both ways, ring \(size), chunks of \(chunk)", isOfMany: true,
                    server: { try exchange($0, ring, chunk: chunk, total: total) },
                    client: { try exchange($0, ring, chunk: chunk, total: total) })
            }
        }
    }

    /// Sends and receives `total` bytes at the same time; the server closes, the client sees it.
    private static func exchange(
        _ side: ConformanceSide, _ ring: RingSize, chunk: Int, total: Int
    ) throws {
        var channel = try side.open(ring)
        var flow = Flow(side, chunk: chunk, total: total)
        while !flow.isDone {
            guard try !flow.step(&channel) else { continue }
            if try flow.mustNotSleep(&channel) { continue }
            let ready = try poll(channel.pollDescriptor, .readable, milliseconds: 120_000)
            if ready.isEmpty { throw ConformanceFailure("no wake-up at \(flow)") }
            try channel.progress()
        }
        if side.role == .client {
            let rest = try channel.waitForData(deadline: side.deadline)
            if rest > 0 { throw ConformanceFailure("\(rest) bytes more than were sent") }
            if channel.peerDied { throw ConformanceFailure("an orderly close looks like a death") }
        } else {
            // The client still reads: a close with data in the ring loses nothing.
            try channel.flush()
        }
        channel.close()
    }
}

/// The bytes of one side of a streaming case.
struct Flow: CustomStringConvertible {
    private let chunk: Int
    private let total: Int
    private let outgoing: Pattern
    private let incoming: Pattern
    private var sent = 0
    private(set) var received = 0

    init(_ side: ConformanceSide, chunk: Int, total: Int) {
        self.chunk = chunk
        self.total = total
        let (left, right) = (Pattern(seed: 1), Pattern(seed: 2))
        (outgoing, incoming) = side.role == .client ? (left, right) : (right, left)
    }

    var isDone: Bool { sent == total && received == total }
    var description: String { "\(sent) bytes sent, \(received) received of \(total)" }

    /// - Returns: whether anything moved.
    mutating func step(_ channel: inout Channel) throws -> Bool {
        var moved = 0
        if sent < total {
            let slice = outgoing.slice(from: sent, count: min(chunk, total - sent))
            moved = try channel.write(slice.span)
            sent += moved
        }
        return try receive(&channel, atMost: chunk) || moved > 0
    }

    /// Takes what is there, and compares it with what must have been sent.
    mutating func receive(_ channel: inout Channel, atMost count: Int) throws -> Bool {
        var bytes: [UInt8] = []
        let got = try channel.receive(into: &bytes, count: min(count, 65000))
        guard got > 0 else { return false }
        guard received + got <= total, bytes[...] == incoming.slice(from: received, count: got)
        else {
            throw ConformanceFailure("bytes that were never sent, or not in this order, at \(self)")
        }
        received += got
        return true
    }

    func mustNotSleep(_ channel: inout Channel) throws -> Bool {
        let data = try received < total && channel.armForData()
        let space = try sent < total && channel.armForSpace()
        return data || space
    }
}

import Glibc
import LinuxSystem
import Testing

@testable import Vchan

/// Runs a body on a thread of its own, so that both ends may block.
func onThread(_ body: @escaping @Sendable () throws -> Void) -> Task<Void, any Error> {
    Task.detached { try body() }
}

@Suite struct Streaming {
    struct Case: Sendable, CustomTestStringConvertible {
        let ring: Int
        let chunk: Int
        var testDescription: String { "ring \(ring), chunks of \(chunk)" }
    }

    static let rings: [Int] = [1 << 10, 1 << 11, 1 << 12, 1 << 14, 1 << 16, 1 << 20]
    static let cases: [Case] = rings.flatMap { (ring: Int) -> [Case] in
        let chunks: [Int] = [1, 7, 64, ring / 4 - 1, ring / 2, ring - 9, ring - 8]
        return chunks.map { Case(ring: ring, chunk: $0) }
    }

    @Test(arguments: cases)
    func bothDirectionsProgressAndNothingIsLostAtTheClose(_ which: Case) async throws {
        let meeting = Meeting()
        let total = min(which.ring * 4 / which.chunk + 10, 2000)
        let server = onThread {
            var channel = try meeting.listen(size(which.ring), firstIndex: .max - 5000)
            try channel.waitUntilOpen(deadline: soon())
            try echo(&channel, frames: total)
            channel.close()
        }
        let client = onThread {
            var channel = try meeting.connect()
            try channel.waitUntilOpen(deadline: soon())
            try exchange(&channel, chunk: which.chunk, frames: total)
            channel.close()
        }
        try await server.value
        try await client.value
    }
}

/// Sends back every frame.
private func echo(_ channel: inout Channel, frames: Int) throws {
    for _ in 0..<frames {
        _ = try channel.waitForData(atLeast: 8, deadline: soon())
        let header = try channel.receiveHeader()!
        var payload: [UInt8] = []
        while payload.count < Int(header.length) {
            _ = try channel.waitForData(deadline: soon())
            _ = try channel.receive(into: &payload, count: Int(header.length) - payload.count)
        }
        while try !channel.send(type: header.type, payload.span) {
            _ = try channel.waitForSpace(atLeast: 8 + payload.count, deadline: soon())
        }
    }
}

/// Keeps the ring as full as it gets and checks what comes back.
private func exchange(_ channel: inout Channel, chunk: Int, frames: Int) throws {
    var (sent, got) = (0, 0)
    while got < frames {
        while sent < frames, sent - got < 2 {
            let payload = pattern(from: sent, count: chunk)
            guard try channel.send(type: UInt32(sent), payload.span) else { break }
            sent += 1
        }
        _ = try channel.waitForData(atLeast: 8, deadline: soon())
        let header = try channel.receiveHeader()!
        #expect(header == FrameHeader(type: UInt32(got), length: UInt32(chunk)))
        var payload: [UInt8] = []
        while payload.count < chunk {
            _ = try channel.waitForData(deadline: soon())
            _ = try channel.receive(into: &payload, count: chunk - payload.count)
        }
        #expect(payload == pattern(from: got, count: chunk))
        got += 1
    }
}

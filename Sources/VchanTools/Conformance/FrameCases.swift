import LinuxSystem
import Vchan

extension ConformanceCase {
    /// Whole frames, packed and alone, up to the largest a ring holds.
    static func frames() -> [ConformanceCase] {
        ringSizes.map { ring in
            let lengths = [0, 1, 8, 64, ring.bytes / 2 - 9, ring.bytes / 2, ring.bytes - 8]
            return ConformanceCase(
                "frames, ring \(ring.bytes)", isOfMany: true,
                server: { side in
                    var channel = try side.open(ring)
                    for length in lengths + lengths.reversed() {
                        for type in UInt32(1)...3 {
                            try sendFrame(&channel, side, type: type, length: length)
                        }
                    }
                    channel.close()
                },
                client: { side in
                    var channel = try side.open(ring)
                    for length in lengths + lengths.reversed() {
                        for type in UInt32(1)...3 {
                            let expected = FrameHeader(type: type, length: UInt32(length))
                            try expectFrame(&channel, side, expected)
                        }
                    }
                    channel.close()
                })
        }
    }

    static func sendFrame(
        _ channel: inout Channel, _ side: ConformanceSide, type: UInt32, length: Int
    ) throws {
        let payload = [UInt8](repeating: UInt8(truncatingIfNeeded: length), count: length)
        let size = FrameHeader.size + length
        while try !channel.send(type: type, payload.span) {
            _ = try channel.waitForSpace(atLeast: size, deadline: side.deadline)
        }
    }

    static func expectFrame(
        _ channel: inout Channel, _ side: ConformanceSide, _ expected: FrameHeader
    ) throws {
        _ = try channel.waitForData(atLeast: FrameHeader.size, deadline: side.deadline)
        let header = try channel.receiveHeader()
        guard header == expected else {
            throw ConformanceFailure(
                "expected \(expected), got \(header.map { "\($0)" } ?? "the end")")
        }
        let length = Int(expected.length)
        var payload: [UInt8] = []
        while payload.count < length {
            let ready = try channel.waitForData(deadline: side.deadline)
            if ready == 0 { throw ConformanceFailure("the end in the middle of a frame") }
            _ = try channel.receive(into: &payload, count: length - payload.count)
        }
        let filler = UInt8(truncatingIfNeeded: length)
        if let wrong = payload.firstIndex(where: { $0 != filler }) {
            throw ConformanceFailure("byte \(wrong) of \(expected) is not what was sent")
        }
    }

    /// Sleeping on both sides for each message: a lost wake-up is a hang.
    static func pingPong() -> ConformanceCase {
        let ring = RingSize(atLeast: 1024)!
        let rounds = UInt32(2000)
        return ConformanceCase(
            "\(rounds) round trips, asleep each time",
            server: { side in
                var channel = try side.open(ring)
                for round in 0..<rounds {
                    let frame = FrameHeader(type: round, length: 5)
                    try expectFrame(&channel, side, frame)
                    try sendFrame(&channel, side, type: round, length: 5)
                }
                channel.close()
            },
            client: { side in
                var channel = try side.open(ring)
                for round in 0..<rounds {
                    try sendFrame(&channel, side, type: round, length: 5)
                    try expectFrame(&channel, side, FrameHeader(type: round, length: 5))
                }
                channel.close()
            })
    }

    /// What can never work is an error at once, and harms nothing.
    static func limits() -> ConformanceCase {
        let part: Part = { side in
            var channel = try side.open(RingSize(atLeast: 4096)!)
            let tooLong = [UInt8](repeating: 0, count: channel.writeCapacity - 7)
            let taken = try isRefused { () throws(VchanError) in
                _ = try channel.send(type: 1, tooLong.span)
            }
            let never = channel.readCapacity + 1
            let waited = try isRefused { () throws(VchanError) in
                _ = try channel.waitForData(atLeast: never, deadline: side.deadline)
            }
            guard taken, waited else {
                throw ConformanceFailure("more than a ring ever holds was not refused")
            }
            try sendFrame(&channel, side, type: 1, length: 100)
            try expectFrame(&channel, side, FrameHeader(type: 1, length: 100))
            try channel.flush()
            channel.close()
        }
        return ConformanceCase("what never fits is refused at once", server: part, client: part)
    }

    private static func isRefused(_ body: () throws(VchanError) -> Void) throws -> Bool {
        do throws(VchanError) { try body() } catch .tooLarge { return true }
        return false
    }
}

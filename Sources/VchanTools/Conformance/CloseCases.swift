import LinuxSystem
import Vchan

extension ConformanceCase {
    /// Nanoseconds between two words of progress.
    private static let pause: UInt64 = 10_000_000_000
    private static let written = Pattern(seed: 4)

    /// One end writes and closes at once, the other finds every byte: the race that loses data when
    /// "closed" is looked at after the data and the data is not looked at again.
    static func closes(_ extent: Extent) -> [ConformanceCase] {
        let ring = RingSize(atLeast: 1024)!
        return [ConformanceSide.Role.server, .client].map { closer in
            let part: Part = { side in
                var random = Random(seed: 3)
                var nextWord = CurrentProcess.now + pause
                for round in 0..<extent.closes {
                    let count = Int(random.next() % 1000) + 1
                    if side.role == closer {
                        try writeAndClose(side.round(round), ring, count)
                        continue
                    }
                    try readToTheEnd(side.round(round), ring, count, round: round)
                    if let progress = side.progress, CurrentProcess.now > nextWord {
                        progress("\(round + 1) of \(extent.closes) closes, nothing lost")
                        nextWord = CurrentProcess.now + pause
                    }
                }
            }
            return ConformanceCase(
                "\(extent.closes) closes by the \(closer.rawValue) lose nothing", server: part,
                client: part)
        }
    }

    private static func writeAndClose(
        _ side: ConformanceSide, _ ring: RingSize, _ count: Int
    ) throws {
        var channel = try side.open(ring)
        let bytes = written.slice(from: 0, count: count)
        // In two pieces, the second one published by the close alone.
        var sent = try channel.write(bytes.span.extracting(first: count / 2))
        try channel.flush()
        sent += try channel.write(bytes.span.extracting(last: count - count / 2))
        channel.close()
        if sent != count {
            throw ConformanceFailure("an empty ring took \(sent) of \(count) bytes")
        }
    }

    /// Every other round looks all the time, the others sleep.
    private static func readToTheEnd(
        _ side: ConformanceSide, _ ring: RingSize, _ count: Int, round: Int
    ) throws {
        var channel = try side.open(ring)
        var got: [UInt8] = []
        var looks = 0
        while true {
            looks += 1
            if looks % 64 == 0 { CurrentProcess.yield() }
            let ready =
                try round % 2 == 0
                ? channel.bytesReady() : channel.waitForData(deadline: side.deadline)
            if ready > 0 {
                _ = try channel.receive(into: &got, count: ready)
            } else if channel.state == .closed {
                break
            } else {
                // Over a byte stream the looks alone see the end too.
                if round % 2 == 0 { try channel.progress() }
            }
        }
        let died = channel.peerDied
        channel.close()
        if died { throw ConformanceFailure("round \(round): an orderly close looks like a death") }
        guard got[...] == written.slice(from: 0, count: count) else {
            throw ConformanceFailure(
                "round \(round): \(got.count) bytes arrived of \(count) that were sent")
        }
    }
}

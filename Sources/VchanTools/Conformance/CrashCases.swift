import LinuxSystem
import Vchan

extension ConformanceCase {
    /// Where the dying side is in its life.
    private enum Step: String, CaseIterable {
        case opened = "right after the channel is open"
        case staged = "with bytes written and not shown"
        case shown = "with bytes shown and not read"
        case asleep = "with its peer asleep"
        case reading = "in the middle of reading"
        case full = "with both rings full"
    }

    /// Death of either side at every step: the other sees it, and what it reads before is a prefix
    /// of what was sent.
    static func crashes() -> [ConformanceCase] {
        let ring = RingSize(atLeast: 4096)!
        return [ConformanceSide.Role.server, .client].flatMap { victim in
            Step.allCases.map { step in
                let part: Part = { side in
                    if side.role == victim {
                        try die(side, ring, step)
                    } else {
                        try survive(side, ring, step)
                    }
                }
                return ConformanceCase(
                    "the \(victim.rawValue) dies \(step.rawValue)", crashing: victim, server: part,
                    client: part)
            }
        }
    }

    private static func die(_ side: ConformanceSide, _ ring: RingSize, _ step: Step) throws {
        var channel = try side.open(ring)
        let bytes = Pattern(seed: 1).slice(from: 0, count: channel.writeCapacity)
        switch step {
        case .opened: break
        case .staged:
            // Below the batch that would be shown by itself.
            _ = try channel.write(bytes.span.extracting(first: 100))
        case .shown:
            _ = try channel.write(bytes.span.extracting(first: 1000))
            try channel.flush()
        case .asleep:
            var byte: [UInt8] = []
            _ = try channel.waitForData(deadline: side.deadline)
            _ = try channel.receive(into: &byte, count: 1)
        case .reading:
            _ = try channel.waitForData(atLeast: 10, deadline: side.deadline)
            var some: [UInt8] = []
            _ = try channel.receive(into: &some, count: 5)
            try channel.flush()
        case .full:
            _ = try channel.write(bytes.span)
            try channel.flush()
            _ = try channel.waitForData(atLeast: 4096, deadline: side.deadline)
        }
        side.crash(channel)
    }

    private static func survive(_ side: ConformanceSide, _ ring: RingSize, _ step: Step) throws {
        var channel = try side.open(ring)
        try provoke(&channel, step)
        // More than is ever sent: returns when the peer is seen dead.
        var got: [UInt8] = []
        while try channel.waitForData(deadline: side.deadline) > 0 {
            _ = try channel.receive(into: &got, count: 65536)
        }
        let died = channel.peerDied
        channel.close()
        if side.tellsDeath, !died { throw ConformanceFailure("a death looks like a close") }
        guard got[...] == Pattern(seed: 1).slice(from: 0, count: got.count) else {
            throw ConformanceFailure("\(got.count) bytes that are no prefix of what was sent")
        }
        let least = step == .shown ? 1000 : step == .full ? 4096 : 0
        if side.tellsDeath, got.count < least {
            throw ConformanceFailure("\(got.count) bytes arrived of \(least) that were shown")
        }
    }

    /// Does what the dying side waits for before it dies. A peer that is gone already is fine.
    private static func provoke(_ channel: inout Channel, _ step: Step) throws {
        let bytes = Pattern(seed: 2).slice(from: 0, count: channel.writeCapacity)
        do throws(VchanError) {
            switch step {
            case .asleep: _ = try channel.write(bytes.span.extracting(first: 1))
            case .reading: _ = try channel.write(bytes.span.extracting(first: 1000))
            case .full: _ = try channel.write(bytes.span)
            default: break
            }
            try channel.flush()
        } catch .closed {
        }
    }
}

import LinuxSystem
import Vchan

extension ConformanceCase {
    /// What one side does to the page that both share.
    private enum Harm: String, CaseIterable {
        case produced = "shows more than a ring holds"
        case producedBack = "takes back what it has shown"
        case consumed = "has read more than was written"
        case alive = "comes back from the dead"
        case orders = "changes the sizes of the rings"
        case storm = "sends a storm of events"

        /// Whether the channel lives on.
        var isHarmless: Bool { self == .orders || self == .storm }
    }

    /// Harm by either side ends in a typed error and a closed channel, or changes nothing.
    static func hostile() -> [ConformanceCase] {
        [ConformanceSide.Role.server, .client].flatMap { attacker in
            Harm.allCases.map { harm in
                let part: Part = { side in
                    if side.role == attacker {
                        try attack(side, harm)
                    } else {
                        try endure(side, harm)
                    }
                }
                return ConformanceCase(
                    "a hostile \(attacker.rawValue) \(harm.rawValue)", needsRings: true,
                    server: part, client: part)
            }
        }
    }

    private static let hostileRing = RingSize(atLeast: 4096)!
    private static let sign = FrameHeader(type: 7, length: 100)

    private static func attack(_ side: ConformanceSide, _ harm: Harm) throws {
        var channel = try side.open(hostileRing)
        guard let page = channel.rawPage else { throw ConformanceFailure("no shared page") }
        let isServer = side.role == .server
        // The other side is awake and has made its own preparations.
        try expectFrame(&channel, side, sign)
        try channel.flush()
        switch harm {
        case .produced: page.store(99_999, in: isServer ? .rightProduced : .leftProduced)
        case .producedBack:
            try sendFrame(&channel, side, type: 1, length: 200)
            try channel.flush()
            try expectFrame(&channel, side, sign)
            try channel.flush()
            page.store(8, in: isServer ? .rightProduced : .leftProduced)
        case .consumed: page.store(1 << 30, in: isServer ? .leftConsumed : .rightConsumed)
        case .alive: page.store(0, in: isServer ? .serverLive : .clientLive)
        case .orders:
            page.store(31, in: .leftOrder)
            page.store(20, in: .rightOrder)
        case .storm: channel.storm(2000)
        }
        channel.storm(1)
        if harm.isHarmless {
            try sendFrame(&channel, side, type: sign.type, length: Int(sign.length))
            try expectFrame(&channel, side, sign)
        } else {
            try waitForClose(&channel)
            if harm == .alive { page.store(1, in: isServer ? .serverLive : .clientLive) }
        }
        channel.close()
    }

    private static func endure(_ side: ConformanceSide, _ harm: Harm) throws {
        var channel = try side.open(hostileRing)
        try sendFrame(&channel, side, type: sign.type, length: Int(sign.length))
        switch harm {
        case .orders, .storm:
            try channel.flush()
            try expectFrame(&channel, side, sign)
            try sendFrame(&channel, side, type: sign.type, length: Int(sign.length))
            try channel.flush()
        case .alive:
            let ready = try channel.waitForData(deadline: side.deadline)
            guard ready == 0, channel.state == .closed else {
                throw ConformanceFailure("\(ready) bytes and \(channel.state) of a dead peer")
            }
        case .producedBack:
            try expectFrame(&channel, side, FrameHeader(type: 1, length: 200))
            try sendFrame(&channel, side, type: sign.type, length: Int(sign.length))
            try expectBadIndex(&channel) { channel throws(VchanError) in
                _ = try channel.waitForData(deadline: side.deadline)
            }
        case .produced:
            try expectBadIndex(&channel) { channel throws(VchanError) in
                _ = try channel.waitForData(deadline: side.deadline)
            }
        case .consumed:
            try expectBadIndex(&channel) { channel throws(VchanError) in
                let filler = [UInt8](repeating: 0, count: channel.writeCapacity)
                while true {
                    _ = try channel.write(filler.span)
                    _ = try channel.waitForSpace(atLeast: 4096, deadline: side.deadline)
                }
            }
        }
        channel.close()
    }

    private static func expectBadIndex(
        _ channel: inout Channel, _ body: (inout Channel) throws(VchanError) -> Void
    ) throws {
        do throws(VchanError) { try body(&channel) } catch {
            guard case .badIndex = error, channel.state == .closed else {
                throw ConformanceFailure("\(error), and the channel is \(channel.state)")
            }
            guard try channel.bytesReady() == 0 else {
                throw ConformanceFailure("bytes of a broken channel are given out")
            }
            return
        }
        throw ConformanceFailure("an index out of the ring was taken for a good one")
    }

    /// Until the other side has seen it and closed; nothing that would mend the page is done.
    private static func waitForClose(_ channel: inout Channel) throws {
        while channel.state == .open {
            if try poll(channel.pollDescriptor, .readable, milliseconds: 60_000).isEmpty {
                throw ConformanceFailure("the other side does not close")
            }
            try channel.progress()
        }
    }
}

import Glibc
import LinuxSystem
import SystemPackage
import Vchan

/// What the fuzzer found a channel to do that it must not.
public struct FuzzFinding: Error, Sendable, CustomStringConvertible {
    public let seed: UInt64
    public let what: String
    public var description: String { "seed \(seed): \(what)" }
}

/// Drives one end of a channel by its interface while the other end does anything at all to the
/// shared page, the rings and the link. A run is one channel; the same seed is the same run.
///
/// What must hold: each call returns, with an answer that fits the ring or with a typed error; the
/// channel of a peer that broke the protocol is closed; closed is for ever.
public struct Fuzzer: ~Copyable {
    private let seed: UInt64
    private var random: Choices
    private var victim: Channel
    private var attacker: Channel?
    private let zeroes: Descriptor
    private let nowhere: Descriptor
    /// Steps in a hundred at which the attacker does harm: many runs must live long.
    private let malice: Int
    private var wasClosed = false

    /// - Parameters:
    ///   - steps: calls of each side.
    ///   - directory: where the two ends meet.
    public static func run(seed: UInt64, steps: Int, directory: String) throws(FuzzFinding) {
        try run(Choices(seed: seed), seed: seed, steps: steps, directory: directory)
    }

    /// A run whose every decision is taken from these bytes, for a fuzzer that is guided by what
    /// they reach; it ends with them.
    public static func run(choices: [UInt8]) throws(FuzzFinding) {
        let directory: TemporaryDirectory
        do throws(Errno) {
            directory = try TemporaryDirectory(prefix: "/tmp/vchan-fuzz")
        } catch {
            throw FuzzFinding(seed: 0, what: "temporary directory: \(error)")
        }
        try run(Choices(bytes: choices), seed: 0, steps: 1000, directory: directory.path)
    }

    private static func run(
        _ choices: Choices, seed: UInt64, steps: Int, directory: String
    ) throws(FuzzFinding) {
        do {
            var fuzzer = try Fuzzer.meet(choices, seed: seed, directory: directory)
            for _ in 0..<steps where fuzzer.random.hasMore {
                fuzzer.attack()
                try fuzzer.use()
            }
        } catch let finding as FuzzFinding {
            throw finding
        } catch {
            throw FuzzFinding(seed: seed, what: "set-up: \(error)")
        }
    }

    private init(
        seed: UInt64, random: Choices, victim: consuming Channel, attacker: consuming Channel,
        zeroes: consuming Descriptor, nowhere: consuming Descriptor
    ) {
        self.seed = seed
        self.random = random
        malice = [1, 3, 10, 50][self.random.below(4)]
        self.victim = victim
        self.attacker = consume attacker
        self.zeroes = zeroes
        self.nowhere = nowhere
    }

    private static func meet(
        _ choices: Choices, seed: UInt64, directory: String
    ) throws -> Fuzzer {
        var random = choices
        let (one, two) = (DomainID(1)!, DomainID(2)!)
        let port = Port(UInt32(seed % 1_000_000))!
        let left = RingSize(atLeast: 1 << (10 + random.below(6)))!
        let right = RingSize(atLeast: 1 << (10 + random.below(6)))!
        var server = try Transport.local(state: directory, ownDomain: one)
            .listen(for: two, port: port, read: left, write: right)
        var client = try Transport.local(state: directory, ownDomain: two)
            .connect(to: one, port: port)
        try server.waitUntilOpen(deadline: CurrentProcess.now + 60_000_000_000)
        try client.waitUntilOpen(deadline: CurrentProcess.now + 60_000_000_000)
        let zeroes = try Descriptor.open("/dev/zero", O_RDONLY)
        let nowhere = try Descriptor.open("/dev/null", O_WRONLY)
        if random.below(2) == 0 {
            return Fuzzer(
                seed: seed, random: random, victim: server, attacker: client, zeroes: zeroes,
                nowhere: nowhere)
        }
        return Fuzzer(
            seed: seed, random: random, victim: client, attacker: server, zeroes: zeroes,
            nowhere: nowhere)
    }

    // MARK: The attacker

    private mutating func attack() {
        guard var peer = attacker.take() else { return }
        let page = peer.rawPage!
        if random.below(100) >= malice {
            behave(&peer)
            attacker = consume peer
            return
        }
        switch random.below(100) {
        case ..<30: page.store(nearIndex(page), in: field(4))
        case ..<40: page.store(UInt32(truncatingIfNeeded: random.next()), in: field(4))
        case ..<60: page.store(UInt32(random.below(256)), in: field(11))
        case ..<90:
            for _ in 0..<random.below(64) {
                page.scribble(UInt8(random.below(256)), at: random.below(page.size))
            }
        case ..<96: peer.storm(random.below(500))
        case ..<98:
            peer.close()
            return
        case ..<99: return
        default: break
        }
        attacker = consume peer
    }

    /// What an honest peer does, as far as its own harm lets it.
    private mutating func behave(_ peer: inout Channel) {
        let payload = [UInt8](repeating: 7, count: random.below(300))
        _ = try? peer.send(type: UInt32(random.below(4)), payload.span)
        _ = try? peer.discard(random.below(2000))
        try? peer.flush()
        if random.below(4) == 0 { _ = try? peer.armForData() }
        if random.below(4) == 0 { _ = try? peer.armForSpace() }
    }

    /// One of the first `count` fields of the page.
    private mutating func field(_ count: Int) -> RawPage.Field {
        RawPage.Field.allCases[random.below(count)]
    }

    /// An index next to something that matters: another index, the ring's size, the wrap.
    private mutating func nearIndex(_ page: RawPage) -> UInt32 {
        let base = page.load(field(4))
        let sizes: [UInt32] = [0, 1, 2, 8, 1024, 4096, 65536, 1 << 20, 1 << 31]
        let distance = sizes[random.below(sizes.count)] &+ UInt32(random.below(3)) &- 1
        return random.below(2) == 0 ? base &+ distance : base &- distance
    }

    // MARK: The victim

    private mutating func use() throws(FuzzFinding) {
        do throws(VchanError) {
            try call()
        } catch {
            switch error {
            case .badIndex:
                guard victim.state == .closed else {
                    throw FuzzFinding(seed: seed, what: "open after \(error)")
                }
            case .closed, .tooLarge: break
            default: throw FuzzFinding(seed: seed, what: "unexpected: \(error)")
            }
        }
        let isClosed = victim.state == .closed
        if wasClosed, !isClosed { throw FuzzFinding(seed: seed, what: "closed and open again") }
        wasClosed = isClosed
    }

    private mutating func call() throws(VchanError) {
        let limit = random.below(70000)
        switch random.below(14) {
        case 0: try within(victim.bytesReady(), victim.readCapacity)
        case 1: try within(victim.bytesFree(), victim.writeCapacity)
        case 2: _ = try victim.receiveHeader()
        case 3:
            var bytes: [UInt8] = []
            let count = try victim.receive(into: &bytes, count: limit)
            try within(count, min(limit, victim.readCapacity))
            try within(bytes.count, count)
        case 4:
            let to = nowhere.number
            if case .moved(let count) = try victim.drain(limit, to: to, isSocket: false) {
                try within(count, victim.readCapacity)
            }
        case 5: try within(victim.discard(limit), victim.readCapacity)
        case 6:
            let payload = [UInt8](repeating: 1, count: random.below(3000))
            _ = try victim.send(type: 1, payload.span)
        case 7:
            let from = zeroes.number
            _ = try victim.send(type: 2, from: from, isSocket: false, limit: limit)
        case 8: try victim.flush()
        case 9: _ = try victim.armForData(atLeast: 1 + random.below(8))
        case 10: _ = try victim.armForSpace(atLeast: 1 + random.below(64))
        case 11:
            var used = random.below(100)
            try within(
                victim.read(atMost: limit) { span in
                    used = min(used, span.count)
                    return used
                }, used)
        case 12:
            try within(victim.write(atMost: limit) { $0.count }, victim.writeCapacity)
        default: try victim.progress()
        }
    }

    private func within(_ count: Int, _ limit: Int) throws(VchanError) {
        if !(0...limit ~= count) {
            throw .badOffer("\(count) bytes, where at most \(limit) can be")
        }
    }
}

/// Where a run's decisions come from.
private struct Choices {
    private var random: Random
    private var bytes: ArraySlice<UInt8>?

    init(seed: UInt64) { random = Random(seed: seed) }

    init(bytes: [UInt8]) {
        random = Random(seed: 0)
        self.bytes = bytes[...]
    }

    var hasMore: Bool { bytes.map { !$0.isEmpty } ?? true }

    mutating func next() -> UInt64 {
        guard bytes != nil else { return random.next() }
        var value: UInt64 = 0
        for _ in 0..<4 { value = value << 8 | UInt64(bytes!.popFirst() ?? 0) }
        return value
    }

    /// A number from 0 to `limit - 1`.
    mutating func below(_ limit: Int) -> Int {
        guard bytes != nil else { return Int(random.next() >> 8) % limit }
        var value = 0
        var reach = 1
        while reach < limit {
            value = value << 8 | Int(bytes!.popFirst() ?? 0)
            reach <<= 8
        }
        return value % limit
    }
}

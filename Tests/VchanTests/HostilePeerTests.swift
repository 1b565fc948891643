import CLinuxSystem
import Glibc
import LinuxSystem
import SystemPackage
import Testing
import VchanTools

@testable import Vchan

/// Each thing that a peer can do to the shared page ends in a typed error and a closed channel, or
/// changes nothing.
@Suite struct HostilePeers {
    static let wild: [UInt32] = [4097, 5000, 1 << 20, 1 << 31, .max, .max - 4095]

    @Test(arguments: wild)
    func anIndexBeyondTheRingClosesTheReader(index: UInt32) throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        pair.client.rawPage!.store(index, in: .leftProduced)
        #expect(throws: VchanError.self) { _ = try pair.server.bytesReady() }
        #expect(pair.server.state == .closed)
        #expect(try pair.server.bytesReady() == 0)
        #expect(try pair.server.receiveHeader() == nil)
        // The peer is told, should it listen.
        try pair.client.progress()
        #expect(pair.client.state == .closed)
    }

    @Test(arguments: wild)
    func anIndexBeyondTheRingClosesTheWriter(index: UInt32) throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        // Only a writer without room looks at the peer's index.
        #expect(try pair.server.write(pattern(count: 100).span) == 100)
        pair.client.rawPage!.store(index, in: .rightConsumed)
        #expect(throws: VchanError.self) { _ = try pair.server.armForSpace(atLeast: 4096) }
        #expect(pair.server.state == .closed)
    }

    @Test func anIndexThatGoesBackClosesTheReader() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        #expect(try pair.client.write(pattern(count: 100).span) == 100)
        try pair.client.flush()
        #expect(try pair.server.bytesReady() == 100)
        pair.client.rawPage!.store(99, in: .leftProduced)
        #expect(throws: VchanError.self) { _ = try pair.server.bytesReady() }
        #expect(pair.server.state == .closed)
        // Not even what was valid before is used of a broken channel.
        #expect(try pair.server.discard(100) == 0)
    }

    @Test func ownIndicesAreNotReadBack() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        let page = pair.client.rawPage!
        #expect(try pair.server.write(pattern(count: 10).span) == 10)
        try pair.server.flush()
        page.store(12345, in: .rightProduced)
        page.store(54321, in: .leftConsumed)
        #expect(try pair.server.write(pattern(count: 10).span) == 10)
        try pair.server.flush()
        #expect(page.load(.rightProduced) == 20)
        #expect(try pair.server.bytesFree() == 4096 - 20)
        #expect(try pair.server.bytesReady() == 0)
    }

    @Test func ordersAreReadOnce() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        pair.server.rawPage!.store(20, in: .leftOrder)
        pair.server.rawPage!.store(31, in: .rightOrder)
        #expect(try pair.client.bytesFree() == 4096)
        #expect(pair.client.readCapacity == 4096)
        #expect(try pair.client.write(pattern(count: 5000).span) == 4096)
    }

    @Test func aClosedChannelStaysClosedWhateverTheLiveByteSays() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        let page = pair.client.rawPage!
        page.store(0, in: .clientLive)
        #expect(try pair.server.armForData() == true)
        #expect(pair.server.state == .closed)
        for value in [UInt32(1), 2, 0, 255] {
            page.store(value, in: .clientLive)
            page.store(50, in: .leftProduced)
            #expect(try pair.server.bytesReady() == 0)
            #expect(pair.server.state == .closed)
        }
    }

    @Test func nobodyWaitsForMoreThanTheRingHolds() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        let error = VchanError.tooLarge(bytes: 4097, ring: 4096)
        #expect(throws: error) { _ = try pair.server.waitForData(atLeast: 4097, deadline: soon()) }
        #expect(throws: error) { _ = try pair.server.waitForSpace(atLeast: 4097, deadline: soon()) }
        #expect(pair.server.state == .open)
    }

    @Test func aStormOfWakeUpsDoesNotOutlastADeadline() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        pair.client.storm(100_000)
        #expect(throws: VchanError.timedOut) {
            _ = try pair.server.waitForData(deadline: CurrentProcess.now + 20_000_000)
        }
        #expect(pair.server.state == .open)
    }

    @Test func unknownNotifyBitsAreLeftAlone() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        let page = pair.client.rawPage!
        page.store(0xF8 | 1, in: .serverNotify)
        #expect(try pair.server.write(pattern(count: 1).span) == 1)
        try pair.server.flush()
        #expect(page.load(.serverNotify) == 0xF8)
    }

    @Test func aStormOfWakeUpsGetsOneTurnAtATime() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        pair.client.storm(100_000)
        // Each turn ends, and the storm ends when nobody feeds it.
        var turns = 0
        while try poll(pair.server.pollDescriptor, .readable, milliseconds: 0) != [] {
            try pair.server.progress()
            turns += 1
        }
        #expect(1...100_000 ~= turns)
        #expect(pair.server.state == .open)
        #expect(try pair.server.armForData() == false)
    }

    @Test func aHeaderThatChangesAfterwardsIsTheOneThatWasRead() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        #expect(try pair.client.send(type: 1, pattern(count: 10).span) == true)
        try pair.client.flush()
        let header = try pair.server.receiveHeader()!
        // The left ring of two page-sized ones is the second page.
        for offset in 4096..<4104 { pair.client.rawPage!.scribble(0xFF, at: offset) }
        #expect(header == FrameHeader(type: 1, length: 10))
        #expect(try pair.server.receiveHeader()?.length != 10)
    }

    @Test(arguments: UInt64(1)...300)
    func nothingAPeerDoesBreaksAChannel(seed: UInt64) throws {
        let directory = try TemporaryDirectory(prefix: "/tmp/vchan-fuzz")
        try Fuzzer.run(seed: seed, steps: 200, directory: directory.path)
    }

    /// The page changes under the victim's hands, not between its calls.
    @Test func aPeerThatScribblesAllTheTimeBreaksNothing() async throws {
        for round in 0..<20 {
            let meeting = Meeting()
            var pair = try meeting.pair()
            let page = pair.client.rawPage!
            let scribbler = onThread {
                var value = UInt32(round)
                for _ in 0..<20_000 {
                    value = value &* 1_664_525 &+ 1_013_904_223
                    let field = RawPage.Field.allCases[Int(value >> 24) % 11]
                    page.store(value >> 20 & 0x1FFF, in: field)
                }
            }
            for _ in 0..<2000 {
                _ = try? pair.server.receiveHeader()
                _ = try? pair.server.discard(100)
                _ = try? pair.server.send(type: 1, pattern(count: 30).span)
                _ = try? pair.server.armForData()
                try? pair.server.progress()
                if pair.server.state == .closed { break }
            }
            try await scribbler.value
        }
    }
}

/// A server that offers what it must not: the client refuses before it maps anything.
@Suite struct HostileOffers {
    private static let text = "ring-ref=1\nevent-channel=1\n"

    /// What a client says to an offer.
    private func refusal(
        _ text: String, memory: Int32?, extra: [Int32] = []
    ) throws -> VchanError? {
        let meeting = Meeting()
        _ = try meeting.listen()
        let listener = try UnixSocket.listen(meeting.socketPath, .sequencedPacket, mode: 0o600)
        var client = try meeting.connect()
        let connection = try UnixSocket.accept(listener)
        let descriptors = (memory.map { [$0] } ?? []) + extra
        _ = try UnixSocket.send(connection, Array(text.utf8), descriptors: descriptors)
        do throws(VchanError) {
            try client.waitUntilOpen(deadline: soon())
            return nil
        } catch {
            #expect(client.state == .closed)
            return error
        }
    }

    /// Sealed memory of so many bytes with these orders.
    private func memory(_ left: UInt16, _ right: UInt16, size: Int) throws -> Descriptor {
        let number = unsafe cs_sealed_memory("test", size)
        let file = Descriptor(taking: try check(number))
        let bytes = [left, right].flatMap { [UInt8($0 & 0xFF), UInt8($0 >> 8)] }
        let done = unsafe bytes.withUnsafeBytes { unsafe pwrite(number, $0.baseAddress, 4, 16) }
        #expect(done == 4)
        return file
    }

    @Test func aProperOfferIsTaken() throws {
        let good = try memory(12, 12, size: 3 * 4096)
        #expect(try refusal(Self.text, memory: good.number) == nil)
    }

    @Test(arguments: [
        (9, 12), (12, 9), (21, 12), (12, 21), (10, 10), (11, 11), (0, 0), (65535, 12), (10, 20),
        (20, 10),
    ])
    func badOrdersAreRefused(left: Int, right: Int) throws {
        let file = try memory(UInt16(left), UInt16(right), size: 600 * 4096)
        let error = try refusal(Self.text, memory: file.number)
        #expect(error == .badOrders(left: UInt16(left), right: UInt16(right)))
    }

    @Test(arguments: [0, 100, 4096, 2 * 4096, 4 * 4096, 3 * 4096 + 1])
    func memoryOfAnotherSizeThanItsRingsIsRefused(size: Int) throws {
        let number = unsafe cs_sealed_memory("test", size)
        let file = Descriptor(taking: try check(number))
        let bytes: [UInt8] = [12, 0, 12, 0]
        if size >= 20 {
            _ = unsafe bytes.withUnsafeBytes { unsafe pwrite(number, $0.baseAddress, 4, 16) }
        }
        let error = try refusal(Self.text, memory: file.number)
        guard case .badOffer = error else {
            Issue.record("\(size) bytes: \(error.map { "\($0)" } ?? "taken")")
            return
        }
    }

    @Test func memoryThatCanShrinkIsRefused() throws {
        let unsealed = Descriptor(taking: try check(unsafe cs_memfd_create("test", 2)))
        #expect(ftruncate(unsealed.number, 3 * 4096) == 0)
        #expect(try refusal(Self.text, memory: unsealed.number) != nil)
        let file = try Descriptor.open("/dev/zero", O_RDWR)
        #expect(try refusal(Self.text, memory: file.number) != nil)
    }

    @Test func anOfferWithoutMemoryOrWithTooMuchIsRefused() throws {
        #expect(try refusal(Self.text, memory: nil) != nil)
        let good = try memory(12, 12, size: 3 * 4096)
        #expect(try refusal(Self.text, memory: good.number, extra: [0, 1]) != nil)
    }

    @Test(arguments: [
        "x", "ring-ref=1\n", "ring-ref=0\nevent-channel=1\n", "ring-ref=1\nevent-channel=0\n",
        "ring-ref=-1\nevent-channel=1\n", "ring-ref= 1\nevent-channel=1\n",
        "ring-ref=4294967296\nevent-channel=1\n", "event-channel=1\nring-ref=1\n",
        "ring-ref=1\nevent-channel=1\nmore=1\n", "ring-ref=1\nevent-channel=1",
        String(repeating: "1", count: 300),
    ])
    func anOfferThatIsWrittenDifferentlyIsRefused(text: String) throws {
        let good = try memory(12, 12, size: 3 * 4096)
        #expect(try refusal(text, memory: good.number) != nil)
    }
}

import Glibc
import LinuxSystem
import SystemPackage
import Testing

@testable import Vchan

@Suite struct Channels {
    @Test func aClientWaitsForAServerThatDoesNotExistYet() throws {
        let meeting = Meeting()
        var client = try meeting.connect()
        #expect(client.state == .waiting)
        #expect(throws: VchanError.timedOut) {
            try client.waitUntilOpen(deadline: CurrentProcess.now + 1_000_000)
        }
        var server = try meeting.listen()
        #expect(server.state == .waiting)
        while client.state == .waiting || server.state == .waiting {
            for _ in 0..<2 where client.state == .waiting {
                if try poll(client.pollDescriptor, .readable, milliseconds: 10).isEmpty { break }
                try client.progress()
            }
            if try !poll(server.pollDescriptor, .readable, milliseconds: 0).isEmpty {
                try server.progress()
            }
        }
        #expect(client.state == .open)
        #expect(server.state == .open)
        #expect(throws: Errno.noSuchFileOrDirectory) {
            _ = try UnixSocket.connect(meeting.socketPath, .sequencedPacket)
        }
    }

    @Test func whatAServerWritesBeforeItsClientJoinsArrives() throws {
        let meeting = Meeting()
        var server = try meeting.listen()
        #expect(try server.send(type: 0x300, [4, 0, 0, 0].span) == true)
        try server.flush()
        var client = try meeting.connect()
        try server.waitUntilOpen(deadline: soon())
        try client.waitUntilOpen(deadline: soon())
        #expect(try client.receiveHeader() == FrameHeader(type: 0x300, length: 4))
        var bytes: [UInt8] = []
        #expect(try client.receive(into: &bytes, count: 4) == 4)
        #expect(bytes == [4, 0, 0, 0])
    }

    @Test(
        arguments: [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 16, 1 << 20], [0, UInt32.max - 300])
    func bytesArriveInOrderThroughEveryRingSize(bytes: Int, first: UInt32) throws {
        let meeting = Meeting()
        var pair = try meeting.pair(size(bytes), firstIndex: first)
        for length in [0, 1, 7, 8, 9, 500, pair.server.writeCapacity - 8] {
            for _ in 0..<3 {
                let sent = pattern(from: length, count: length)
                #expect(try pair.server.send(type: 7, sent.span) == true)
                try pair.server.flush()
                #expect(try pair.client.bytesReady() == 8 + length)
                let header = try pair.client.receiveHeader()
                #expect(header == FrameHeader(type: 7, length: UInt32(length)))
                var got: [UInt8] = []
                #expect(try pair.client.receive(into: &got, count: length) == length)
                #expect(got == sent)
                try pair.client.flush()
            }
        }
        #expect(throws: VchanError.self) {
            let tooLong = [UInt8](repeating: 0, count: pair.server.writeCapacity - 7)
            _ = try pair.server.send(type: 7, tooLong.span)
        }
        #expect(pair.server.state == .open)
    }

    @Test(arguments: [
        (1000, 2000), (2048, 1), (0, 1 << 20), (1 << 20, 0), (3000, 100_000), (1 << 20, 1 << 20),
    ])
    func eachDirectionHasItsOwnSizeOfRing(read: Int, write: Int) throws {
        let meeting = Meeting()
        let sizes = (RingSize(atLeast: read)!, RingSize(atLeast: write)!)
        var pair = try meeting.pair(RingOrders(read: sizes.0, write: sizes.1))
        #expect(pair.server.readCapacity >= read && pair.server.writeCapacity >= write)
        #expect(pair.client.writeCapacity == pair.server.readCapacity)
        #expect(pair.client.readCapacity == pair.server.writeCapacity)
        func fill(_ from: inout Channel, _ to: inout Channel) throws {
            let bytes = pattern(count: from.writeCapacity)
            #expect(try from.write(bytes.span) == bytes.count)
            #expect(try from.write(bytes.span) == 0)
            try from.flush()
            var got: [UInt8] = []
            #expect(try to.receive(into: &got, count: .max) == bytes.count)
            #expect(got == bytes)
            try to.flush()
        }
        for _ in 0..<2 {
            try fill(&pair.server, &pair.client)
            try fill(&pair.client, &pair.server)
        }
    }

    @Test func aFrameThatDoesNotFitNowIsNotWrittenInPart() throws {
        let meeting = Meeting()
        var pair = try meeting.pair()
        let frame = [UInt8](repeating: 1, count: 4000)
        #expect(try pair.client.send(type: 1, frame.span) == true)
        #expect(try pair.client.send(type: 2, frame.span) == false)
        #expect(try pair.client.bytesFree() == 4096 - 4008)
        #expect(try pair.client.armForSpace(atLeast: 4008) == false)
        _ = try pair.server.receiveHeader()
        #expect(try pair.server.discard(4000) == 4000)
        try pair.server.flush()
        #expect(try pair.client.waitForSpace(atLeast: 4008, deadline: soon()) == 4096)
        #expect(try pair.client.send(type: 2, frame.span) == true)
    }

    @Test func descriptorsAreFilledFromTheRingAndDrainedIntoIt() throws {
        let meeting = Meeting()
        var pair = try meeting.pair(size(4096), firstIndex: .max - 100)
        let source = try UnixSocket.pair()
        let target = try Descriptor.pipe()
        var (sent, got): ([UInt8], [UInt8]) = ([], [])
        func nothingToRead() throws -> FillResult {
            try pair.client.send(
                type: 5, from: source.second.number, isSocket: true, limit: 65536)
        }
        #expect(try nothingToRead() == .wouldBlock)
        for round in 0..<5 {
            let bytes = pattern(from: round * 1000, count: 1000)
            try source.first.writeAll(bytes)
            sent += bytes
            #expect(try nothingToRead() == .moved(1000))
            try pair.client.flush()
            #expect(try pair.server.receiveHeader()?.length == 1000)
            let moved = try pair.server.drain(
                5000, to: target.second.number, isSocket: false)
            #expect(moved == .moved(1000))
            try pair.server.flush()
            var chunk = [UInt8](repeating: 0, count: 1000)
            #expect(try target.first.read(into: &chunk) == 1000)
            got += chunk
        }
        #expect(got == sent)
        UnixSocket.shutdown(source.first.number, writing: true)
        #expect(try nothingToRead() == .endOfFile)
    }

    @Test func everythingWrittenBeforeACloseIsRead() throws {
        let meeting = Meeting()
        var server = try meeting.listen()
        var client = try meeting.connect()
        try server.waitUntilOpen(deadline: soon())
        try client.waitUntilOpen(deadline: soon())
        let last = pattern(count: 100)
        #expect(try server.send(type: 1, last.span) == true)
        server.close()
        #expect(try client.waitForData(atLeast: 108, deadline: soon()) == 108)
        #expect(try client.waitForData(atLeast: 109, deadline: soon()) == 108)
        #expect(client.state == .closed)
        #expect(client.peerDied == false)
        _ = try client.receiveHeader()
        var got: [UInt8] = []
        #expect(try client.receive(into: &got, count: 100) == 100)
        #expect(got == last)
        #expect(throws: VchanError.closed(peerDied: false)) {
            let nothing: [UInt8] = []
            _ = try client.send(type: 1, nothing.span)
        }
    }

    @Test func aPeerThatGoesAwayWithoutACloseIsDead() throws {
        let meeting = Meeting()
        var server = try meeting.listen()
        do {
            var client = try meeting.connect()
            try server.waitUntilOpen(deadline: soon())
            try client.waitUntilOpen(deadline: soon())
            #expect(try client.send(type: 1, [1, 2, 3].span) == true)
            try client.flush()
        }
        #expect(try server.waitForData(atLeast: 100, deadline: soon()) == 11)
        #expect(server.state == .closed)
        #expect(server.peerDied == true)
        #expect(try server.receiveHeader() == FrameHeader(type: 1, length: 3))
    }

    @Test func aDeadServersSocketFileIsReplacedAndALivingOnesIsNot() throws {
        let meeting = Meeting()
        _ = try meeting.listen()
        let stale = try UnixSocket.listen(meeting.socketPath, .sequencedPacket, mode: 0o666)
        _ = consume stale
        var server = try meeting.listen()
        #expect(throws: VchanError.self) { _ = try meeting.listen() }
        var client = try meeting.connect()
        try server.waitUntilOpen(deadline: soon())
        try client.waitUntilOpen(deadline: soon())
        // The port is free again as soon as the client was accepted.
        _ = try meeting.listen()
    }

    @Test func twoClientsOfOnePortGetOneServerEach() throws {
        let meeting = Meeting()
        var first = try meeting.listen()
        var one = try meeting.connect()
        var two = try meeting.connect()
        try first.waitUntilOpen(deadline: soon())
        try one.waitUntilOpen(deadline: soon())
        #expect(throws: VchanError.timedOut) {
            try two.waitUntilOpen(deadline: CurrentProcess.now + 5_000_000)
        }
        var second = try meeting.listen()
        let deadline = soon()
        while two.state == .waiting, CurrentProcess.now < deadline {
            try two.progress()
            try second.progress()
        }
        #expect(two.state == .open)
    }
}

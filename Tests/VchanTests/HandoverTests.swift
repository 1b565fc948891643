import Glibc
import LinuxSystem
import SystemPackage
import Testing

@testable import Vchan

/// Channels that one process finds and another one uses.
@Suite struct Handovers {
    private static let pair = (server: DomainID(1)!, client: DomainID(2)!)

    private static func transports(_ path: String) -> [(String, Transport, Transport)] {
        [
            (
                "local", .local(state: path, ownDomain: pair.server),
                .local(state: path, ownDomain: pair.client)
            ),
            (
                "socket", .socket(directory: path, ownDomain: pair.server),
                .socket(directory: path, ownDomain: pair.client)
            ),
        ]
    }

    @Test(arguments: 0..<2)
    func whatIsHandedOverIsTheChannelOfItsServer(_ index: Int) throws {
        let directory = try TemporaryDirectory(prefix: "/tmp/vchan-handover")
        let (name, serving, joining) = Self.transports(directory.path)[index]
        let port = Port(513)!
        let size = RingSize(atLeast: 4096)!
        var opening = try joining.open(to: Self.pair.server, port: port)
        // Nobody is there yet.
        #expect(try !Self.isHanded(&opening))
        var server = try serving.listen(for: Self.pair.client, port: port, read: size, write: size)
        var handed: HandedChannel?
        for _ in 0..<1000 where handed == nil {
            if opening.pollDescriptor >= 0 {
                _ = try poll(opening.pollDescriptor, .readable, milliseconds: 10)
            }
            handed = try opening.advance()
        }
        guard let taken = handed.take() else {
            Issue.record("nothing was handed over")
            return
        }
        let (transport, numbers, isByteStream) = (
            taken.transport, taken.numbers, taken.isByteStream
        )
        #expect(transport == name && numbers.isEmpty && isByteStream == (name == "socket"))
        var client = try Transport.adopt(taken, server: Self.pair.server)
        for _ in 0..<1000 where server.state == .waiting || client.state == .waiting {
            try server.progress()
            try client.progress()
        }
        let sent: [UInt8] = [1, 2, 3]
        #expect(try client.write(sent.span) == 3)
        try client.flush()
        var got: [UInt8] = []
        for _ in 0..<1000 where got.count < 3 {
            try server.progress()
            _ = try server.receive(into: &got, count: 3)
        }
        #expect(got == sent)
        client.close()
        server.close()
    }

    private static func isHanded(_ opening: inout ChannelOpening) throws -> Bool {
        let handed = try opening.advance()
        return handed != nil
    }

    @Test func whatOneProcessSaysOfAChannelOfXenTheOtherReadsTheSame() throws {
        let orders = try RingOrders(left: 16, right: 11)
        let place = XenHandover.Place(
            port: 17, orders: orders, control: 0, left: 4096, right: 0)
        #expect(place.numbers == [17, 16, 11, 0, 4096, 0])
        #expect(try XenHandover.Place(numbers: place.numbers) == place)
    }

    static let wrong: [[UInt64]] = [
        [], [17, 16, 16, 0, 4096], [17, 16, 16, 0, 4096, 69632, 0], [0, 16, 16, 0, 4096, 69632],
        [1 << 32, 16, 16, 0, 4096, 69632], [17, 9, 16, 0, 4096, 69632],
        [17, 16, 21, 0, 4096, 69632], [17, 1 << 16 | 16, 16, 0, 4096, 69632],
        [17, 16, 16, 0, 4097, 69632], [17, 16, 16, 1 << 63, 4096, 69632],
    ]

    @Test(arguments: wrong)
    func numbersThatAreNoChannelOfXenAreRefused(_ numbers: [UInt64]) {
        #expect(throws: VchanError.self) { try XenHandover.Place(numbers: numbers) }
    }

    @Test(arguments: ["xen", "local", "other", ""])
    func aHandoverOfTheWrongShapeIsRefused(_ transport: String) throws {
        let first = try Descriptor.open("/dev/null", O_RDWR)
        // One descriptor too few over Xen, one too many elsewhere.
        var second: Descriptor?
        if transport != "xen" { second = try first.duplicate() }
        let handed = HandedChannel(transport: transport, first, second: second.take())
        do {
            _ = try Transport.adopt(handed, server: Self.pair.server)
            Issue.record("it was taken")
        } catch {}
    }
}

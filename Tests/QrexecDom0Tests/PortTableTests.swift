import QrexecProtocol
import Testing

@testable import QrexecDom0

@Suite struct Ports {
    @Test func callsWithDom0TakeEveryPortInOrder() {
        let table = PortTable(ownDomain: 5)
        let ports = (0..<257).map { _ in table.allocate(peer: 0) }
        #expect(ports == (513...768).map { $0 } + [nil])
    }

    /// The daemons of a pair both allocate for it: the lower-numbered one takes the even ports.
    @Test(
        arguments: [(5, 9, 514), (9, 5, 513), (1, 2, 514), (2, 1, 513), (.max, 1, 513)]
            as [(UInt32, UInt32, UInt32)])
    func theLowerDomainsDaemonTakesEvenPortsTheHigherOdd(
        own: UInt32, peer: UInt32, first: UInt32
    ) {
        let table = PortTable(ownDomain: own)
        let ports = (0..<129).map { _ in table.allocate(peer: peer) }
        #expect(ports == (0..<128).map { first + 2 * $0 } + [nil])
    }

    @Test func theDaemonsOfAPairNeverAllocateTheSamePort() {
        let (low, high) = (PortTable(ownDomain: 3), PortTable(ownDomain: 8))
        let ofLow = (0..<128).compactMap { _ in low.allocate(peer: 8) }
        let ofHigh = (0..<128).compactMap { _ in high.allocate(peer: 3) }
        #expect(Set(ofLow).isDisjoint(with: ofHigh))
        #expect(ofLow.count + ofHigh.count == 256)
    }

    @Test func higherAndLowerPeersDoNotExhaustEachOther() {
        let table = PortTable(ownDomain: 5)
        for _ in 0..<128 { _ = table.allocate(peer: 9) }
        let ports = [8, 4, 0].map { table.allocate(peer: $0) }
        #expect(ports == [nil, 513, 515])
    }

    @Test func onlyThePeerOfAPortFreesIt() {
        let table = PortTable(ownDomain: 5)
        func free(_ domain: UInt32, _ port: UInt32) -> Bool {
            table.free(ConnectParameters(domain: domain, port: port))
        }
        let first = table.allocate(peer: 9)
        let ofOthers = [free(8, 514), free(9, 513), free(0, 514)]
        let second = table.allocate(peer: 9)
        let freed = [free(9, 514), free(9, 514)]
        let again = table.allocate(peer: 9)
        #expect([first, second, again] == [514, 516, 514])
        #expect(ofOthers == [false, false, false])
        #expect(freed == [true, false])
    }

    @Test(arguments: [0, 1, 511, 512, 769, 1 << 31, .max] as [UInt32])
    func otherPortsAreNoDataPortsAndFreeNothing(port: UInt32) {
        let table = PortTable(ownDomain: 5)
        let freed = table.free(ConnectParameters(domain: 0, port: port))
        #expect(!freed)
        #expect(!Limits.isDataPort(port))
    }

    @Test(arguments: [513, 768] as [UInt32]) func dataPortsAre513To768(port: UInt32) {
        #expect(Limits.isDataPort(port))
    }
}

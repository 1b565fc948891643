import Testing

@testable import Vchan

@Suite struct RingArithmetic {
    static let nearWrap: [UInt32] = [0, 1, 1023, .max, .max - 1, .max - 1023, 0x8000_0000]

    @Test(arguments: nearWrap)
    func aProducerNeverHasMoreRoomThanTheRing(start: UInt32) {
        var ring = unsafe RingEnd(.producer, base: nil, size: 1024, index: start)
        #expect(ring.available == 1024)
        ring.use(1000)
        ring.markPublished()
        #expect(ring.available == 24)
        #expect(ring.advance(to: start &+ 1000) == true)
        #expect(ring.available == 1024)
    }

    @Test(arguments: nearWrap)
    func aConsumerThatIsAheadOfTheProducerIsRefused(start: UInt32) {
        var ring = unsafe RingEnd(.producer, base: nil, size: 1024, index: start)
        ring.use(10)
        ring.markPublished()
        ring.use(10)
        #expect(ring.advance(to: start &+ 11) == false)
        #expect(ring.advance(to: start &- 1) == false)
        #expect(ring.advance(to: start &+ 5) == true)
        #expect(ring.advance(to: start &+ 4) == false)
        #expect(ring.available == 1024 - 15)
    }

    @Test(arguments: nearWrap)
    func aProducerThatOverrunsOrGoesBackIsRefused(start: UInt32) {
        var ring = unsafe RingEnd(.consumer, base: nil, size: 1024, index: start)
        #expect(ring.advance(to: start &+ 1025) == false)
        #expect(ring.advance(to: start &- 1) == false)
        #expect(ring.advance(to: start &+ 1024) == true)
        ring.use(512)
        // The room is not shown to the peer yet: it may not use it.
        #expect(ring.advance(to: start &+ 1025) == false)
        ring.markPublished()
        #expect(ring.advance(to: start &+ 1025) == true)
        #expect(ring.advance(to: start &+ 1024) == false)
        #expect(ring.available == 513)
    }

    @Test func aServerChoosesOrdersByTheTable() throws {
        func orders(_ read: Int, _ write: Int) -> [UInt16] {
            let orders = RingOrders(
                read: RingSize(atLeast: read)!, write: RingSize(atLeast: write)!)
            return [orders.left, orders.right]
        }
        #expect(orders(0, 0) == [10, 11])
        #expect(orders(1024, 2048) == [10, 11])
        #expect(orders(2048, 1024) == [11, 10])
        #expect(orders(2048, 2048) == [11, 12])
        #expect(orders(1024, 4096) == [11, 12])
        #expect(orders(4096, 1024) == [12, 11])
        #expect(orders(4096, 4096) == [12, 12])
        #expect(orders(65536, 65536) == [16, 16])
        #expect(orders(1 << 20, 1 << 20) == [20, 20])
        #expect(orders(1, 1 << 20) == [11, 20])
    }

    @Test func everyLegalPairOfOrdersFitsItsPlacesAndNoOther() {
        for left in UInt16(0)...30 {
            for right in UInt16(0)...30 {
                let legal =
                    10...20 ~= left && 10...20 ~= right && (left != right || left >= 12)
                    && !(min(left, right) == 10 && max(left, right) == 20)
                let orders = try? RingOrders(left: left, right: right)
                #expect((orders != nil) == legal, "left \(left), right \(right)")
                guard let orders else { continue }
                #expect(orders.leftOffset + orders.leftSize <= orders.totalSize)
                #expect(orders.rightOffset + orders.rightSize <= orders.totalSize)
                let apart =
                    orders.leftOffset + orders.leftSize <= orders.rightOffset
                    || orders.rightOffset + orders.rightSize <= orders.leftOffset
                #expect(apart)
            }
        }
    }

    @Test func numbersOfTheStoreAreReadStrictly() {
        #expect(parseDecimal("0", maximum: .max) == 0)
        #expect(parseDecimal("4294967295", maximum: .max) == .max)
        for bad in ["", " 1", "1 ", "+1", "-1", "0x1", "4294967296", "99999999999", "1\n", "١"] {
            #expect(parseDecimal(bad[...], maximum: .max) == nil, "\(bad)")
        }
    }
}

/// The sizes of both rings of a channel as powers of two, and where they lie (protocol 1.2). Left
/// is written by the client and read by the server, right the other way.
struct RingOrders: Equatable {
    let left: UInt16
    let right: UInt16

    static let pageSize = 4096
    /// Where the grant references begin in the control page.
    static let grantsOffset = 24

    /// Orders that came from a peer, read once.
    init(left: UInt16, right: UInt16) throws(VchanError) {
        let legal: ClosedRange<UInt16> = 10...20
        guard legal ~= left, legal ~= right, left != right || left >= 12 else {
            throw .badOrders(left: left, right: right)
        }
        self.left = left
        self.right = right
        // The references must end before the first ring that lies in the page: 10 beside 20 fails.
        let inPage = [left, right].filter { $0 < 12 }.map { 1 << Int($0) }.min() ?? Self.pageSize
        guard Self.grantsOffset + 4 * (leftPages + rightPages) <= inPage else {
            throw .badOrders(left: left, right: right)
        }
    }

    /// A server's choice for the least sizes that it wants to read (left) and write (right).
    init(read: RingSize, write: RingSize) {
        (left, right) =
            switch (read.bytes, write.bytes) {
            case (...1024, ...2048): (10, 11)
            case (...2048, ...1024): (11, 10)
            case (...2048, let write): (11, Self.order(write))
            case (let read, ...2048): (Self.order(read), 11)
            case (let read, let write): (Self.order(read), Self.order(write))
            }
    }

    private static func order(_ bytes: Int) -> UInt16 {
        max(12, UInt16(bytes.trailingZeroBitCount))
    }

    var leftSize: Int { 1 << Int(left) }
    var rightSize: Int { 1 << Int(right) }
    /// Pages of their own; a ring inside the control page has none.
    var leftPages: Int { left < 12 ? 0 : leftSize / Self.pageSize }
    var rightPages: Int { right < 12 ? 0 : rightSize / Self.pageSize }

    /// Bytes of control page and rings when they follow each other, left before right.
    var totalSize: Int { (1 + leftPages + rightPages) * Self.pageSize }
    /// Where the rings begin then: 1024 and 2048 are the places inside the control page.
    var leftOffset: Int { left < 12 ? leftSize : Self.pageSize }
    var rightOffset: Int { right < 12 ? rightSize : (1 + leftPages) * Self.pageSize }
}

import CLinuxSystem
import Glibc
import LinuxSystem
import SystemPackage

/// The mapped control page and rings of one channel; unmapped once, when the value goes away.
@safe
struct SharedMemory: ~Copyable {
    private let base: UnsafeMutableRawPointer
    /// Over Xen the rings have mappings of their own, and `base` is that of the control page.
    private let granted: XenPages?
    let orders: RingOrders

    private init(
        mapping descriptor: borrowing Descriptor, orders: RingOrders
    ) throws(VchanError) {
        guard let base = unsafe cs_map_shared(descriptor.number, orders.totalSize) else {
            throw .system(call: "mmap", Errno(rawValue: errno))
        }
        unsafe self.base = base
        granted = nil
        self.orders = orders
    }

    /// Memory over Xen; released with this value.
    init(pages: XenPages, orders: RingOrders) {
        unsafe base = pages.control
        granted = pages
        self.orders = orders
    }

    deinit {
        if let granted {
            granted.release(orders)
        } else {
            _ = unsafe munmap(base, orders.totalSize)
        }
    }

    /// New zeroed memory, sealed, with its descriptor.
    static func create(
        orders: RingOrders, descriptor: inout Descriptor?
    ) throws(VchanError) -> SharedMemory {
        do throws(Errno) {
            let number = try check(unsafe cs_sealed_memory("vchan", orders.totalSize))
            descriptor = Descriptor(taking: number)
        } catch {
            throw .system(call: "memory for a channel", error)
        }
        return try SharedMemory(mapping: descriptor!, orders: orders)
    }

    /// Maps a peer's memory, after a look at seals, orders and size.
    init(offered descriptor: borrowing Descriptor) throws(VchanError) {
        guard cs_is_sealed(descriptor.number) != 0 else {
            throw .badOffer("memory that is not sealed against shrinking, growing and sealing")
        }
        // The orders are read once, by copy; what the page says later is of no interest.
        var header = [UInt8](repeating: 0, count: RingOrders.grantsOffset)
        let number = descriptor.number
        // SAFETY: pread writes at most the array's own count.
        let got = unsafe header.withUnsafeMutableBytes {
            unsafe pread(number, $0.baseAddress, $0.count, 0)
        }
        guard got == header.count else { throw .badOffer("memory without a control page") }
        let orders = try RingOrders(
            left: UInt16(header[16]) | UInt16(header[17]) << 8,
            right: UInt16(header[18]) | UInt16(header[19]) << 8)
        var size: UInt64 = 0
        guard unsafe cs_file_size(number, &size) == 0, size == UInt64(orders.totalSize) else {
            throw .badOffer("\(size) bytes of memory, expected \(orders.totalSize) for its rings")
        }
        try self.init(mapping: descriptor, orders: orders)
    }

    var rawPage: RawPage {
        let size = granted == nil ? orders.totalSize : RingOrders.pageSize
        return unsafe RawPage(base: base, size: size)
    }

    func controlPage(_ role: Role) -> ControlPage { unsafe ControlPage(base: base, role: role) }

    /// Both rings as this side uses them, from the given indices on.
    func rings(
        _ role: Role, consumed: UInt32, produced: UInt32
    ) -> (reading: RingEnd, writing: RingEnd) {
        // SAFETY: offsets and sizes of valid orders lie inside the mapping.
        let left = unsafe granted?.left ?? base + orders.leftOffset
        let right = unsafe granted?.right ?? base + orders.rightOffset
        return switch role {
        case .server:
            unsafe (
                RingEnd(.consumer, base: left, size: orders.leftSize, index: consumed),
                RingEnd(.producer, base: right, size: orders.rightSize, index: produced)
            )
        case .client:
            unsafe (
                RingEnd(.consumer, base: right, size: orders.rightSize, index: consumed),
                RingEnd(.producer, base: left, size: orders.leftSize, index: produced)
            )
        }
    }
}

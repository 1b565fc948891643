import CXen
import Glibc
import LinuxSystem
import SystemPackage

/// Pages shared by grants: the control page and the rings that have pages of their own, each mapped
/// by itself (protocol 1.1, 1.2).
@safe
struct XenPages {
    let control: UnsafeMutableRawPointer
    private(set) var left: UnsafeMutableRawPointer?
    private(set) var right: UnsafeMutableRawPointer?
    private let way: Way

    /// How they came to be here, which is how they go.
    private enum Way {
        case shared
        case mapped
        /// By another process's handle (`XenHandover`).
        case adopted
    }

    // The offsets of the live bytes that the kernel clears when this process ends (protocol 1.6).
    private static let serverLive: UInt32 = 21
    private static let clientLive: UInt32 = 20

    /// A server's pages: shared with the peer, zeroed but for orders and references.
    ///
    /// - Parameter reference: set to the control page's grant reference.
    static func share(
        with peer: DomainID, orders: RingOrders, events: borrowing XenEventChannel,
        reference: inout UInt32
    ) throws(VchanError) -> XenPages {
        let handle = unsafe try XenDevices.ofThisProcess.sharing()
        let domain = UInt32(peer.rawValue)
        func failure(_ pages: Int) -> VchanError {
            .xen("share \(pages) pages", Errno(rawValue: errno), full: .grants(pages: pages))
        }
        guard
            let control = unsafe xengntshr_share_page_notify(
                handle, domain, &reference, 1, serverLive, events.port)
        else { throw failure(1) }
        unsafe memset(control, 0, RingOrders.pageSize)
        var pages = unsafe XenPages(control: control, left: nil, right: nil, way: .shared)
        var references: [UInt32] = []
        func shareRing(_ count: Int) throws(VchanError) -> UnsafeMutableRawPointer? {
            guard count > 0 else { return nil }
            var own = [UInt32](repeating: 0, count: count)
            // SAFETY: the library writes `count` references into an array of that size.
            guard
                let ring = unsafe xengntshr_share_pages(handle, domain, Int32(count), &own, 1)
            else { throw failure(count) }
            references += own
            return unsafe ring
        }
        do throws(VchanError) {
            unsafe pages.left = try shareRing(orders.leftPages)
            unsafe pages.right = try shareRing(orders.rightPages)
        } catch {
            pages.release(orders)
            throw error
        }
        unsafe ControlPage(base: control, role: .server)
            .initialize(orders: orders, references: references, firstIndex: 0)
        return pages
    }

    /// A client's pages: those of a server, after a look at its orders. Both are read once.
    static func map(
        of peer: DomainID, reference: UInt32, events: borrowing XenEventChannel,
        orders: inout RingOrders?
    ) throws(VchanError) -> XenPages {
        let control = unsafe try mapControl(of: peer, reference: reference, port: events.port)
        let handle = unsafe try XenDevices.ofThisProcess.mapping()
        var pages = unsafe XenPages(control: control, left: nil, right: nil, way: .mapped)
        var known: RingOrders?
        do throws(VchanError) {
            let found = unsafe try readOrders(control)
            known = found
            var references = unsafe readReferences(control, found)
            func mapRing(
                from start: Int, _ count: Int, _ protection: Int32
            ) throws(VchanError) -> UnsafeMutableRawPointer? {
                guard count > 0 else { return nil }
                // SAFETY: `count` references from `start` on are in the array.
                let ring = unsafe references.withUnsafeMutableBufferPointer {
                    unsafe xengnttab_map_domain_grant_refs(
                        handle, UInt32(count), UInt32(peer.rawValue), $0.baseAddress! + start,
                        protection)
                }
                guard let ring = unsafe ring else { throw unmapped(count, peer) }
                return unsafe ring
            }
            unsafe pages.left = try mapRing(from: 0, found.leftPages, PROT_READ | PROT_WRITE)
            unsafe pages.right = try mapRing(from: found.leftPages, found.rightPages, PROT_READ)
        } catch {
            pages.release(known)
            throw error
        }
        orders = known
        return pages
    }

    private static func unmapped(_ pages: Int, _ peer: DomainID) -> VchanError {
        let error = Errno(rawValue: errno)
        // A full table of the hypervisor looks to the kernel like a bad reference. That of the control
        // page has just been read in the store, and may be a dead server's.
        if pages > 1, error == .invalidArgument {
            return .limit(.mappings(pages: pages, peer), error)
        }
        return .xen("map \(pages) pages", error, full: .mappings(pages: pages, peer))
    }

    /// A server's control page. When it is unmapped, by whatever, the kernel clears the client's live
    /// byte and sends an event.
    static func mapControl(
        of peer: DomainID, reference: UInt32, port: UInt32
    ) throws(VchanError) -> UnsafeMutableRawPointer {
        let handle = unsafe try XenDevices.ofThisProcess.mapping()
        guard
            let control = unsafe xengnttab_map_grant_ref_notify(
                handle, UInt32(peer.rawValue), reference, PROT_READ | PROT_WRITE, clientLive, port)
        else { throw unmapped(1, peer) }
        return unsafe control
    }

    /// What a server wrote about its rings.
    static func readOrders(_ control: UnsafeMutableRawPointer) throws(VchanError) -> RingOrders {
        unsafe try RingOrders(
            left: control.load(fromByteOffset: 16, as: UInt16.self),
            right: control.load(fromByteOffset: 18, as: UInt16.self))
    }

    /// The references of the rings' pages, left before right. Valid orders have all of them inside
    /// the page.
    static func readReferences(
        _ control: UnsafeMutableRawPointer, _ orders: RingOrders
    ) -> [UInt32] {
        (0..<orders.leftPages + orders.rightPages).map { index in
            let offset = RingOrders.grantsOffset + 4 * index
            return unsafe control.load(fromByteOffset: offset, as: UInt32.self)
        }
    }

    /// The pages of a server whose grants another process has noted in this /dev/xen/gntdev.
    static func adopt(
        _ device: borrowing Descriptor, _ place: XenHandover.Place
    ) throws(VchanError) -> XenPages {
        let number = device.number
        func map(
            _ count: Int, _ protection: Int32, _ offset: UInt64
        ) throws(VchanError) -> UnsafeMutableRawPointer? {
            guard count > 0 else { return nil }
            // SAFETY: a new mapping at a place of the kernel's choice.
            let address = unsafe mmap(
                nil, count * RingOrders.pageSize, protection, MAP_SHARED, number, off_t(offset))
            guard let address = unsafe address, unsafe address != MAP_FAILED else {
                throw .xen(
                    "map \(count) pages that another process has prepared",
                    Errno(rawValue: errno), full: nil)
            }
            return unsafe address
        }
        let both = PROT_READ | PROT_WRITE
        let control = unsafe try map(1, both, place.control)!
        var pages = unsafe XenPages(control: control, left: nil, right: nil, way: .adopted)
        do throws(VchanError) {
            unsafe pages.left = try map(place.orders.leftPages, both, place.left)
            unsafe pages.right = try map(place.orders.rightPages, PROT_READ, place.right)
        } catch {
            pages.release(place.orders)
            throw error
        }
        return pages
    }

    /// The rings first, the control page last: with it goes the live byte.
    func release(_ orders: RingOrders?) {
        if let left = unsafe left { unsafe end(left, orders!.leftPages) }
        if let right = unsafe right { unsafe end(right, orders!.rightPages) }
        unsafe end(control, 1)
    }

    // SAFETY: unmapped once, with as many pages as were mapped; the handles outlive all channels.
    private func end(_ address: UnsafeMutableRawPointer, _ count: Int) {
        switch way {
        case .shared:
            guard let handle = unsafe try? XenDevices.ofThisProcess.sharing() else { return }
            _ = unsafe xengntshr_unshare(handle, address, UInt32(count))
        case .mapped:
            guard let handle = unsafe try? XenDevices.ofThisProcess.mapping() else { return }
            _ = unsafe xengnttab_unmap(handle, address, UInt32(count))
        case .adopted: _ = unsafe munmap(address, count * RingOrders.pageSize)
        }
    }
}

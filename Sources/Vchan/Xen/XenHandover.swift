import CXen
import Glibc
import LinuxSystem
import SystemPackage

/// A client's end over Xen that one process prepares for another, which may open nothing and make
/// none of the drivers' calls but the one that sends an event.
///
/// What the other one gets can do nothing else, whatever becomes of it: a /dev/xen/evtchn that is
/// restricted to the server's domain and has joined its port, and a /dev/xen/gntdev in which the
/// grants of this one channel are noted. Mapping them needs no further call of the driver but mmap.
///
/// That the live byte is cleared at the end is left to this process, which maps the control page too
/// (`XenKeeping`). It must not be said of the other one's mapping: Linux believes at the unmapping
/// that the page can be written, whatever the mmap said that came later, and whoever maps it
/// read-only brings the kernel down (tried, with 6.1).
enum XenHandover {
    /// What goes with the two descriptors.
    struct Place: Equatable {
        let port: UInt32
        let orders: RingOrders
        /// Where the driver maps control page and rings; 0 for rings inside the control page.
        let control: UInt64
        let left: UInt64
        let right: UInt64

        var numbers: [UInt64] {
            [UInt64(port), UInt64(orders.left), UInt64(orders.right), control, left, right]
        }

        init(
            port: UInt32, orders: RingOrders, control: UInt64, left: UInt64, right: UInt64
        ) {
            self.port = port
            self.orders = orders
            self.control = control
            self.left = left
            self.right = right
        }

        /// - Throws: `badOffer` for what no `numbers` are.
        init(numbers: [UInt64]) throws(VchanError) {
            guard numbers.count == 6, let port = UInt32(exactly: numbers[0]), port > 0,
                let left = UInt16(exactly: numbers[1]), let right = UInt16(exactly: numbers[2]),
                numbers[3...].allSatisfy({
                    $0 % UInt64(RingOrders.pageSize) == 0 && $0 < 1 << 62
                })
            else { throw .badOffer("\(numbers.count) numbers that are no channel of Xen") }
            self.init(
                port: port, orders: try RingOrders(left: left, right: right),
                control: numbers[3], left: numbers[4], right: numbers[5])
        }
    }

    /// Prepares the client's end of what a server offers.
    ///
    /// - Returns: nil when the entries are those of a server that is gone.
    static func prepare(_ peer: DomainID, _ offer: XenOffer) throws(VchanError) -> HandedChannel? {
        let events = try open("/dev/xen/evtchn", module: "xen-evtchn")
        let port = cxen_join_restricted(events.number, peer.rawValue, offer.eventChannel)
        guard port > 0 else {
            let error = Errno(rawValue: errno)
            if case .system = VchanError.xen("join", error, full: .eventChannels) { return nil }
            throw .xen("join an event channel", error, full: .eventChannels)
        }
        let keeping = try XenKeeping(peer, offer.ringReference, port: UInt32(port))
        let orders = try keeping.orders
        let references = keeping.references(orders)
        let grants = try open("/dev/xen/gntdev", module: "xen-gntdev")
        let device = grants.number
        func note(_ references: ArraySlice<UInt32>) throws(VchanError) -> UInt64 {
            if references.isEmpty { return 0 }
            var offset: UInt64 = 0
            let list = Array(references)
            // SAFETY: the array outlives the call, which reads `count` references of it.
            let result = unsafe list.withUnsafeBufferPointer {
                unsafe cxen_note_grants(
                    device, peer.rawValue, $0.baseAddress, UInt32($0.count), &offset)
            }
            if result == 0 { return offset }
            throw .xen(
                "map \(list.count) pages for another process", Errno(rawValue: errno),
                full: .mappings(pages: list.count, peer))
        }
        let place = Place(
            port: UInt32(port), orders: orders, control: try note([offer.ringReference]),
            left: try note(references[..<orders.leftPages]),
            right: try note(references[orders.leftPages...]))
        return HandedChannel(
            transport: name, events, second: grants, third: keeping.takeLifeline(),
            numbers: place.numbers, keeping: keeping)
    }

    static let name = "xen"

    private static func open(
        _ path: String, module: String
    ) throws(VchanError) -> Descriptor {
        do throws(Errno) { return try .open(path, O_RDWR) } catch {
            throw .opening(path, module: module, error)
        }
    }

    /// The client's end in the process that it was prepared for.
    static func adopt(
        _ device: consuming Descriptor, _ grants: borrowing Descriptor,
        lifeline: consuming Descriptor, _ numbers: [UInt64], server: DomainID
    ) throws(VchanError) -> Channel {
        let place = try Place(numbers: numbers)
        let events = try XenEventChannel.adopted(device, port: place.port)
        let memory = SharedMemory(
            pages: try XenPages.adopt(grants, place), orders: place.orders)
        let link = EventLink(xen: XenLink(events: events, lifeline: lifeline, peer: server))
        var channel = Channel(client: .done, descriptor: link.number)
        try channel.joined(memory: memory, link: link)
        return channel
    }
}

/// Keeps a channel that another process uses as long as that holds its end of the lifeline: then the
/// control page is unmapped here, upon which the kernel clears the client's live byte and sends the
/// server an event.
@safe
final class XenKeeping {
    private let page: UnsafeMutableRawPointer
    /// Hangs up when the other process has closed the channel, or died.
    let end: Descriptor
    private var lifeline: Descriptor?

    init(_ peer: DomainID, _ reference: UInt32, port: UInt32) throws(VchanError) {
        do throws(Errno) {
            let pipe = try Descriptor.pipe()
            let second = pipe.second
            end = pipe.first
            lifeline = consume second
        } catch {
            throw .xen("pipe", error, full: nil)
        }
        unsafe page = try XenPages.mapControl(of: peer, reference: reference, port: port)
    }

    // SAFETY: unmapped once, as one page; the handle outlives it.
    deinit {
        if let handle = unsafe try? XenDevices.ofThisProcess.mapping() {
            _ = unsafe xengnttab_unmap(handle, page, 1)
        }
    }

    /// The other process's end, once.
    func takeLifeline() -> Descriptor? { lifeline.take() }

    /// Of the domain's memory this process reads these two numbers and those that follow, once.
    var orders: RingOrders {
        get throws(VchanError) { unsafe try XenPages.readOrders(page) }
    }

    func references(_ orders: RingOrders) -> [UInt32] {
        unsafe XenPages.readReferences(page, orders)
    }
}

import CXen
import Glibc
import LinuxSystem
import Synchronization
import SystemPackage

/// The devices of Xen's drivers that one open handle is enough for, opened when first needed and
/// kept: a process that will give up its rights calls `open` before.
@safe
final class XenDevices: Sendable {
    /// Handles of libxengnttab for sharing pages and for mapping those of others, and of libxencall.
    @safe private struct Handles {
        var sharing: OpaquePointer?
        var mapping: OpaquePointer?
        var calls: OpaquePointer?
        var statusBuffer: UnsafeMutableRawPointer?
        var callsWereTried = false
    }

    static let ofThisProcess = XenDevices()
    private let handles: Mutex<Handles> = Mutex(Handles())
    // SAFETY: written once, before the first use; the libraries only read it.
    private nonisolated(unsafe) static let quiet = unsafe cxen_quiet_logger()
    /// For the libraries, whose failures are told by our errors.
    static func logger() -> UnsafeMutablePointer<xentoollog_logger>? { unsafe quiet }

    /// For xengntshr_*: valid as long as the process.
    func sharing() throws(VchanError) -> OpaquePointer {
        unsafe try handles.withLock { handles throws(VchanError) in
            if let open = unsafe handles.sharing { return unsafe open }
            guard let open = unsafe xengntshr_open(Self.logger(), 0) else {
                throw .opening(
                    "/dev/xen/gntalloc", module: "xen-gntalloc", Errno(rawValue: errno))
            }
            unsafe handles.sharing = open
            return unsafe open
        }
    }

    /// For xengnttab_*: valid as long as the process.
    func mapping() throws(VchanError) -> OpaquePointer {
        unsafe try handles.withLock { handles throws(VchanError) in
            if let open = unsafe handles.mapping { return unsafe open }
            guard let open = unsafe xengnttab_open(Self.logger(), 0) else {
                throw .opening("/dev/xen/gntdev", module: "xen-gntdev", Errno(rawValue: errno))
            }
            unsafe handles.mapping = open
            return unsafe open
        }
    }

    /// Whether a local event channel port is still joined to another domain's; nil where this
    /// process may not ask the hypervisor (no /dev/xen/privcmd, or not for us).
    func isInterdomain(_ port: UInt32) -> Bool? {
        handles.withLock { handles in
            if !handles.callsWereTried {
                handles.callsWereTried = true
                unsafe handles.calls = xencall_open(Self.logger(), 0)
                if let calls = unsafe handles.calls {
                    unsafe handles.statusBuffer = xencall_alloc_buffer(
                        calls, cxen_status_size)
                }
            }
            guard let calls = unsafe handles.calls, let buffer = unsafe handles.statusBuffer else {
                return nil
            }
            // SAFETY: the buffer has the size of the hypercall's argument.
            let status = unsafe cxen_port_status(calls, buffer, port)
            return status < 0 ? nil : status == EVTCHNSTAT_interdomain
        }
    }
}

/// One event channel, on a handle of its own so that its descriptor tells of it alone.
@safe
struct XenEventChannel: ~Copyable {
    private let handle: OpaquePointer
    let port: UInt32
    /// Readable when there is an event.
    let number: Int32

    /// - Parameters:
    ///   - handle: taken over.
    ///   - bound: the port, or -1 with errno.
    private init(_ handle: OpaquePointer, bound: Int32, by call: String) throws(VchanError) {
        guard bound >= 0 else {
            let error = Errno(rawValue: errno)
            _ = unsafe xenevtchn_close(handle)
            throw .xen(call, error, full: .eventChannels)
        }
        unsafe self.handle = handle
        port = UInt32(bound)
        number = unsafe xenevtchn_fd(handle)
        // Nothing but `take` reads it, which must never wait.
        Descriptor.setNonblocking(number, true)
    }

    deinit { _ = unsafe xenevtchn_close(handle) }

    private static func open() throws(VchanError) -> OpaquePointer {
        if let opened = unsafe xenevtchn_open(XenDevices.logger(), 0) { return unsafe opened }
        throw .opening("/dev/xen/evtchn", module: "xen-evtchn", Errno(rawValue: errno))
    }

    /// A port for a client of another domain to join.
    static func unbound(for peer: DomainID) throws(VchanError) -> XenEventChannel {
        let handle = unsafe try open()
        let bound = unsafe xenevtchn_bind_unbound_port(handle, UInt32(peer.rawValue))
        return unsafe try XenEventChannel(handle, bound: bound, by: "xenevtchn_bind_unbound_port")
    }

    /// Joins a server's port.
    static func joining(
        _ remotePort: UInt32, of peer: DomainID
    ) throws(VchanError) -> XenEventChannel {
        let handle = unsafe try open()
        let bound = unsafe xenevtchn_bind_interdomain(handle, UInt32(peer.rawValue), remotePort)
        return unsafe try XenEventChannel(handle, bound: bound, by: "xenevtchn_bind_interdomain")
    }

    /// A port that another process has joined, with the device that it did so by.
    static func adopted(
        _ device: consuming Descriptor, port: UInt32
    ) throws(VchanError) -> XenEventChannel {
        guard let handle = unsafe xenevtchn_fdopen(XenDevices.logger(), device.number, 0) else {
            throw .xen("xenevtchn_fdopen", Errno(rawValue: errno), full: nil)
        }
        // The library's from now on.
        _ = device.release()
        return unsafe try XenEventChannel(
            handle, bound: Int32(bitPattern: port), by: "xenevtchn_fdopen")
    }

    /// Whether there is a domain of this number, alive or not quite gone.
    static func exists(_ domain: DomainID) -> Bool {
        guard let handle = unsafe try? open() else { return true }
        defer { _ = unsafe xenevtchn_close(handle) }
        // Port 0 is nobody's: what fails is that, or the domain.
        let bound = unsafe xenevtchn_bind_interdomain(handle, UInt32(domain.rawValue), 0)
        return bound >= 0 || errno != ESRCH
    }

    func notify() { _ = unsafe xenevtchn_notify(handle, port) }

    /// Takes an event, and lets the next one come.
    func take() {
        let came = unsafe xenevtchn_pending(handle)
        if came >= 0 { _ = unsafe xenevtchn_unmask(handle, UInt32(came)) }
    }
}

import CXen
import Glibc
import SystemPackage

/// The C libxenvchan of this machine, found and loaded when it is first asked for: its name changes
/// with every release of Xen, so no program can be linked with it.
///
/// SAFETY: sendable, because the function pointers are found once and never change.
@safe
final class VchanLibrary: @unchecked Sendable {
    typealias Ends = UnsafeMutablePointer<libxenvchan>
    typealias Listen =
        @convention(c) (OpaquePointer?, Int32, UnsafePointer<CChar>, Int, Int) -> Ends?
    typealias Connect = @convention(c) (OpaquePointer?, Int32, UnsafePointer<CChar>) -> Ends?
    typealias Read = @convention(c) (Ends, UnsafeMutableRawPointer?, Int) -> Int32
    typealias Write = @convention(c) (Ends, UnsafeRawPointer?, Int) -> Int32
    typealias Ask = @convention(c) (Ends) -> Int32
    typealias Close = @convention(c) (Ends) -> Void
    typealias OpenStore = @convention(c) (UInt) -> OpaquePointer?
    typealias ReadStore =
        @convention(c) (
            OpaquePointer, UInt32, UnsafePointer<CChar>, UnsafeMutablePointer<UInt32>
        ) -> UnsafeMutableRawPointer?
    typealias CloseStore = @convention(c) (OpaquePointer) -> Void

    let listen: Listen
    let connect: Connect
    let read: Read
    let write: Write
    let wait: Ask
    let isOpen: Ask
    let dataReady: Ask
    let descriptor: Ask
    let close: Close
    private let openStore: OpenStore
    private let readStore: ReadStore
    private let closeStore: CloseStore

    private static let loaded = Result(catching: { () throws(VchanError) in try VchanLibrary() })

    static func ofThisMachine() throws(VchanError) -> VchanLibrary { try loaded.get() }

    /// Xen's minor releases whose library is looked for, the newest first.
    private static let releases = stride(from: 40, through: 3, by: -1)

    private init() throws(VchanError) {
        let names = Self.releases.map { "libxenvchan.so.4.\($0)" } + ["libxenvchan.so"]
        var handle: UnsafeMutableRawPointer?
        var reason = ""
        for name in names {
            unsafe handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)
            if unsafe handle != nil { break }
            let why = unsafe String(cString: dlerror())
            // What is there and cannot be loaded says more than what is not there.
            if reason.isEmpty || !why.hasPrefix(name) { reason = why }
        }
        guard let handle = unsafe handle else {
            throw .transportUnavailable(
                "libxenvchan",
                reason: "no libxenvchan.so.4.N can be loaded (\(reason)); install Xen's "
                    + "libraries (Debian: libxenmisc4.17); this program must run with the C "
                    + "library (glibc) it was built with")
        }
        func find<Function>(_ name: String) throws(VchanError) -> Function {
            guard let symbol = unsafe dlsym(handle, name) else {
                throw .transportUnavailable("libxenvchan", reason: "it has no function \(name)")
            }
            // SAFETY: the types above are those of libxenvchan.h and xenstore.h.
            return unsafe unsafeBitCast(symbol, to: Function.self)
        }
        unsafe listen = try find("libxenvchan_server_init")
        unsafe connect = try find("libxenvchan_client_init")
        unsafe read = try find("libxenvchan_read")
        unsafe write = try find("libxenvchan_write")
        unsafe wait = try find("libxenvchan_wait")
        unsafe isOpen = try find("libxenvchan_is_open")
        unsafe dataReady = try find("libxenvchan_data_ready")
        unsafe descriptor = try find("libxenvchan_fd_for_select")
        unsafe close = try find("libxenvchan_close")
        unsafe openStore = try find("xs_open")
        unsafe readStore = try find("xs_read")
        unsafe closeStore = try find("xs_close")
    }

    /// The own number, by the store that the library itself uses.
    func ownDomain() throws(VchanError) -> DomainID {
        guard let store = unsafe openStore(0) else {
            throw .transportUnavailable(
                "libxenvchan", reason: "its libxenstore reaches no store; does xenstored run?")
        }
        defer { unsafe closeStore(store) }
        var length: UInt32 = 0
        // SAFETY: the answer has `length` bytes. It is not freed: a library that was loaded into a
        // static program allocates from a heap of its own.
        guard let bytes = unsafe readStore(store, 0, "domid", &length) else {
            throw .noIdentity(path: "domid in xenstore", reason: "it cannot be read")
        }
        let text = unsafe String(
            decoding: UnsafeRawBufferPointer(start: bytes, count: Int(length)), as: UTF8.self)
        guard let number = parseDecimal(text[...], maximum: .max), let domain = DomainID(number)
        else {
            throw .noIdentity(path: "domid in xenstore", reason: "'\(text)' is no domain number")
        }
        return domain
    }
}

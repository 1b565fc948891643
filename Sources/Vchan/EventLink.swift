import CLinuxSystem
import Glibc
import LinuxSystem
import SystemPackage

/// The notifications between the two ends: packets of one byte over a connected SOCK_SEQPACKET
/// socket, whose hang-up is the peer's death; over Xen an event channel. No call ever waits for the
/// peer.
struct EventLink: ~Copyable {
    private let socket: Descriptor?
    private let xen: XenLink?
    /// Readable when there are notifications; -1 while there is no peer.
    let number: Int32
    /// The peer's end of the socket is gone.
    private(set) var hungUp = false
    /// Notifications sent so far, for measurements.
    private(set) var sent: UInt64 = 0
    /// The peer has to be woken even if it did not ask to: at the next flush, together with what has
    /// been written until then.
    var owesNotice = false
    /// Whether the socket was switched to let `takeWaiting` wait.
    private var isBlocking = false

    /// No peer yet.
    init() {
        socket = nil
        xen = nil
        number = -1
    }

    init(xen: consuming XenLink) {
        socket = nil
        number = xen.number
        self.xen = consume xen
    }

    init(socket: consuming Descriptor) {
        number = socket.number
        xen = nil
        self.socket = consume socket
    }

    /// Wakes the peer. A full socket means that it has wake-ups enough already.
    mutating func notify() {
        if number < 0 { return }
        owesNotice = false
        sent += 1
        if notifyOverXen() { return }
        var byte: UInt8 = 1
        let flags = Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)
        // SAFETY: one byte that outlives the call.
        while unsafe send(number, &byte, 1, flags) < 0 {
            switch errno {
            case EINTR: continue
            case EAGAIN: return
            default:
                hungUp = true
                return
            }
        }
    }

    /// Wakes the peer for the last time: a socket does it by its own end, which follows.
    mutating func notifyOfEnd() {
        if socket == nil { notify() }
    }

    /// Takes one notification (S5 of the model: before the next look). One a wake-up is enough: the descriptor stays readable while there
    /// are more, and a peer that sends a storm gets no more than its turn.
    mutating func take() {
        if takeOverXen(milliseconds: 0) { return }
        var byte: UInt8 = 0
        while true {
            // SAFETY: one byte that outlives the call.
            let got = unsafe recv(number, &byte, 1, Int32(MSG_DONTWAIT))
            if got > 0 { return }
            if got < 0 && errno == EINTR { continue }
            if got < 0 && errno == EAGAIN { return }
            hungUp = true
            return
        }
    }

    /// Waits for a notification and takes it, in one system call: for programs that have nothing
    /// else to wait for. Everything else here says MSG_DONTWAIT, whatever the socket's mode.
    mutating func takeWaiting() {
        if takeOverXen(milliseconds: -1) { return }
        if !isBlocking {
            _ = cs_set_nonblocking(number, 0)
            isBlocking = true
        }
        var byte: UInt8 = 0
        // SAFETY: one byte that outlives the call.
        let got = unsafe recv(number, &byte, 1, 0)
        if got == 0 || (got < 0 && errno != EINTR) { hungUp = true }
    }

    private func notifyOverXen() -> Bool {
        switch xen {
        case .some(let xen):
            xen.notify()
            return true
        case .none: return false
        }
    }

    private mutating func takeOverXen(milliseconds: Int32) -> Bool {
        let isThere: Bool
        switch xen {
        case .some(let xen): isThere = xen.take(milliseconds: milliseconds)
        case .none: return false
        }
        if !isThere { hungUp = true }
        return true
    }
}

/// The memory of a channel as bare words, for test peers that break the protocol on purpose.
///
/// SAFETY: sendable although it is a bare address: concurrent stores are what it is for.
@safe
package struct RawPage: @unchecked Sendable {
    private let base: UnsafeMutableRawPointer
    /// Bytes of control page and rings.
    package let size: Int

    init(base: UnsafeMutableRawPointer, size: Int) {
        unsafe self.base = base
        self.size = size
    }

    /// Offsets of the control page (protocol 1.1).
    package enum Field: Int, CaseIterable, Sendable {
        case leftConsumed = 0
        case leftProduced = 4
        case rightConsumed = 8
        case rightProduced = 12
        case leftOrder = 16
        case rightOrder = 18
        case clientLive = 20
        case serverLive = 21
        case clientNotify = 22
        case serverNotify = 23
        case firstGrant = 24

        var width: Int {
            switch self {
            case .leftOrder, .rightOrder: 2
            case .clientLive, .serverLive, .clientNotify, .serverNotify: 1
            default: 4
            }
        }
    }

    // SAFETY (both): the fields are inside the page and aligned to their width; what the other side
    // makes of a torn or concurrent store is what the tests are about.
    package func store(_ value: UInt32, in field: Field) {
        let at = unsafe base + field.rawValue
        switch field.width {
        case 1: unsafe at.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
        case 2: unsafe at.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
        default: unsafe at.storeBytes(of: value, as: UInt32.self)
        }
    }

    package func load(_ field: Field) -> UInt32 {
        let at = unsafe base + field.rawValue
        return switch field.width {
        case 1: UInt32(unsafe at.load(as: UInt8.self))
        case 2: UInt32(unsafe at.load(as: UInt16.self))
        default: unsafe at.load(as: UInt32.self)
        }
    }

    /// Overwrites any byte of page and rings.
    package func scribble(_ value: UInt8, at offset: Int) {
        precondition(0..<size ~= offset)
        unsafe base.storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }
}

extension Channel {
    /// The shared memory to do harm to; nil before a client has joined. Valid as long as the channel.
    package var rawPage: RawPage? {
        switch memory {
        case .some(let memory): memory.rawPage
        case .none: nil
        }
    }

    /// Notifications sent so far, for measurements.
    package var notificationsSent: UInt64 { link.sent }

    /// Never looks before it sleeps, for measurements of the sleep itself.
    package mutating func neverSpin() { spinner.isOff = true }

    /// Sends wake-ups without any reason, as many as the link takes.
    package mutating func storm(_ count: Int) { for _ in 0..<count { link.notify() } }
}

import Foundation
import LinuxSystem
import Testing

@testable import Vchan

/// A directory of its own for the domains of one test, removed with it.
final class Meeting: Sendable {
    private let directory: TemporaryDirectory
    let server = DomainID(1)!
    let client = DomainID(2)!
    let port = Port(512)!

    init() { directory = try! TemporaryDirectory(prefix: "/tmp/vchan-test") }

    var state: String { directory.path }
    var ofServer: Transport { .local(state: state, ownDomain: server) }
    var ofClient: Transport { .local(state: state, ownDomain: client) }
    var socketPath: String { "\(state)/xen/\(server)/\(client)/\(port).sock" }

    func listen(
        _ orders: RingOrders = size(4096), firstIndex: UInt32 = 0
    ) throws -> Channel {
        try ofServer.listen(
            for: client, port: port,
            memory: ChannelMemory(orders: orders, firstIndex: firstIndex))
    }

    func connect() throws -> Channel { try ofClient.connect(to: server, port: port) }

    /// Two ends that have met.
    func pair(
        _ orders: RingOrders = size(4096), firstIndex: UInt32 = 0
    ) throws -> Pair {
        var server = try listen(orders, firstIndex: firstIndex)
        var client = try connect()
        try server.waitUntilOpen(deadline: soon())
        try client.waitUntilOpen(deadline: soon())
        return Pair(server: server, client: client)
    }
}

/// Both ends of a channel in one thread.
struct Pair: ~Copyable {
    var server: Channel
    var client: Channel
}

func size(_ bytes: Int) -> RingOrders {
    let size = RingSize(atLeast: bytes)!
    return RingOrders(read: size, write: size)
}

/// A deadline far beyond anything that works: it only keeps a broken test from hanging.
func soon() -> UInt64 { CurrentProcess.now + 30_000_000_000 }

/// A reproducible stream of bytes in which every position differs from its neighbours.
func pattern(from start: Int = 0, count: Int) -> [UInt8] {
    (start..<start + count).map { UInt8(truncatingIfNeeded: $0 &* 167 &+ $0 >> 8) }
}

/// Runs a body on a thread of its own, so that both ends may block: the pool of the test runner has
/// no more threads than the machine has cores.
func onThread(_ body: @escaping @Sendable () throws -> Void) -> Task<Void, any Error> {
    Task {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                continuation.resume(with: Result { try body() })
            }
        }
    }
}

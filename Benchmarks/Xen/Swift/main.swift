import Glibc
import LinuxSystem
import Vchan

// The Swift ring between two domains; arguments and output are those of C/library.c.

struct Usage: Error {}

/// One end, waiting as a program without an event loop does.
struct End: ~Copyable {
    private var channel: Channel
    private let isServer: Bool
    private let message: [UInt8]
    private var buffer: [UInt8]

    init(_ channel: consuming Channel, isServer: Bool, message: Int) {
        self.channel = channel
        self.isServer = isServer
        self.message = [UInt8](repeating: 7, count: message)
        buffer = self.message
    }

    private mutating func send(_ count: Int) throws {
        let message = self.message
        var done = 0
        while done < count {
            done += try channel.write(message.span.extracting(done..<count))
            if done < count { _ = try channel.waitForSpace() }
        }
    }

    private mutating func receive(_ count: Int) throws {
        var done = 0
        if buffer.count != count { buffer = [UInt8](repeating: 0, count: count) }
        // Taken out, so that the channel and the buffer can change at once.
        var buffer = [UInt8]()
        swap(&buffer, &self.buffer)
        defer { swap(&buffer, &self.buffer) }
        while done < count {
            guard try channel.waitForData() > 0 else { throw Usage() }
            done += try channel.read(into: &buffer, from: done)
        }
    }

    /// The word that ends a stream.
    private mutating func acknowledge(_ isMine: Bool) throws {
        if isMine { try send(1) } else { try receive(1) }
        try channel.flush()
    }

    mutating func run(count: Int, trips: Int) throws -> [UInt64] {
        var times = [CurrentProcess.now]
        for outward in [true, false] {
            let sends = outward != isServer
            for _ in 0..<count {
                if sends { try send(message.count) } else { try receive(message.count) }
            }
            try channel.flush()
            try acknowledge(!sends)
            times.append(CurrentProcess.now)
        }
        for _ in 0..<trips {
            if isServer { try receive(64) }
            try send(64)
            try channel.flush()
            if !isServer { try receive(64) }
        }
        times.append(CurrentProcess.now)
        return times
    }

    consuming func close() { channel.close() }
}

func run(_ arguments: [String]) throws {
    let numbers = arguments.dropFirst().map { Int($0) ?? -1 }
    guard numbers.count == 5, numbers.allSatisfy({ $0 >= 0 }), numbers[2] >= 64,
        ["server", "client"].contains(arguments[0]),
        let peer = DomainID(UInt32(numbers[0])), let port = Port(UInt32(numbers[1]))
    else { throw Usage() }
    let (message, count, trips) = (numbers[2], numbers[3], numbers[4])
    let isServer = arguments[0] == "server"
    let ring = RingSize(atLeast: 65536)!
    let transport = try Transport.selected(option: "xen")
    var channel =
        isServer
        ? try transport.listen(for: peer, port: port, read: ring, write: ring)
        : try transport.connect(to: peer, port: port)
    try channel.waitUntilOpen(deadline: CurrentProcess.now + 60_000_000_000)
    var end = End(channel, isServer: isServer, message: message)
    let times = try end.run(count: count, trips: trips)
    end.close()
    if isServer { return }
    func megabytes(_ from: Int) -> Double {
        Double(message * count) * 1000 / Double(times[from + 1] - times[from])
    }
    func rounded(_ value: Double) -> Double { (value * 10).rounded() / 10 }
    let trip = trips > 0 ? Double(times[3] - times[2]) / Double(trips) / 1000 : 0
    print(rounded(megabytes(0)), rounded(megabytes(1)), Int(trip))
}

do { try run(Array(CurrentProcess.arguments.dropFirst())) } catch {
    print("xen-bench: \(error); usage: server|client PEER PORT MESSAGE COUNT TRIPS")
    exit(1)
}

import AllocationCounter
import LinuxSystem
import SystemPackage
import Vchan

/// One measurement of the Swift ring, described on a command line so that both sides know it.
struct Task {
    enum What: String {
        /// Round trips, waiting as a program without an event loop does.
        case trip
        /// Round trips that sleep each time.
        case idle
        case stream
        /// One thread plays both sides, so that nobody waits.
        case batched, published, inPlace, framed, allocating
        /// Standard input to the ring, the ring to standard output.
        case pump
    }

    let what: What
    let message: Int
    let ring: Int
    let count: Int
    let cores: [Int32]
    let state: String

    /// WHAT MESSAGE RING COUNT CORE-A CORE-B STATE
    init?(_ arguments: ArraySlice<String>) {
        let words = Array(arguments)
        guard words.count == 7, let what = What(rawValue: words[0]) else { return nil }
        let numbers = words[1...5].compactMap { Int($0) }
        guard numbers.count == 5 else { return nil }
        self.what = what
        (message, ring, count) = (numbers[0], numbers[1], numbers[2])
        cores = [Int32(numbers[3]), Int32(numbers[4])]
        state = words[6]
    }
}

/// What one side reports when it is done.
struct Report {
    var seconds = 0.0
    /// Seconds had all gone as the median slice; 0 for the side that does not measure.
    var usual = 0.0
    var cpu = 0.0
    var notifications: UInt64 = 0
    /// Allocations in the measured loop; -1 where nobody counts.
    var allocations = -1

    var line: String { "\(seconds) \(usual) \(cpu) \(notifications) \(allocations)\n" }

    init() {}

    init?(_ line: String) {
        let words = line.split(whereSeparator: { $0 == " " || $0 == "\n" })
        let times = words.prefix(3).compactMap { Double($0) }
        guard words.count >= 4, times.count == 3, let notifications = UInt64(words[3])
        else { return nil }
        (seconds, usual, cpu) = (times[0], times[1], times[2])
        self.notifications = notifications
        allocations = words.count > 4 ? Int(words[4]) ?? -1 : -1
    }
}

private let server = DomainID(1)!
private let client = DomainID(2)!
private let port = Port(1)!

func listen(_ task: Task) throws(VchanError) -> Channel {
    let size = RingSize(atLeast: task.ring)!
    return try Transport.local(state: task.state, ownDomain: server)
        .listen(for: client, port: port, read: size, write: size)
}

func connect(_ task: Task) throws(VchanError) -> Channel {
    try Transport.local(state: task.state, ownDomain: client).connect(to: server, port: port)
}

/// One side of a task; side 1 starts the clock after the other one is there.
func runSide(_ side: Int, _ task: Task) throws -> Report {
    if task.cores[side] >= 0 { try CurrentProcess.pin(toCore: task.cores[side]) }
    var channel = side == 0 ? try listen(task) : try connect(task)
    try channel.waitUntilOpen()
    if task.what == .idle { channel.neverSpin() }
    let (start, before) = (CurrentProcess.now, CurrentProcess.processorTime)
    let isTimed = [.trip, .idle].contains(task.what)
    var slices = Slices(of: task)
    switch task.what {
    case .trip, .idle: try trips(&channel, side, task, &slices)
    case .stream: try stream(&channel, side, task)
    default: try pump(&channel, side, task)
    }
    var report = Report()
    report.seconds = Double(CurrentProcess.now - start) * 1e-9
    report.usual = isTimed && side == 1 ? slices.usual(of: task) : 0
    report.cpu = Double(CurrentProcess.processorTime - before) * 1e-9
    report.notifications = channel.notificationsSent
    channel.close()
    return report
}

/// Round trips in equal slices, each timed by itself: what else the machine does falls into some.
struct Slices {
    private let length: Int
    private var left: Int
    private var last = CurrentProcess.now
    private var times: [UInt64] = []

    init(of task: Task) {
        times.reserveCapacity(4096)
        length = min(task.what == .idle ? 16 : 500, task.count)
        left = length
    }

    /// One trip is done.
    mutating func step() {
        left -= 1
        if left > 0 { return }
        left = length
        let now = CurrentProcess.now
        if times.count < 4096 { times.append(now - last) }
        last = now
    }

    /// Seconds of the task had all of it gone as the median slice.
    func usual(of task: Task) -> Double {
        let median = times.sorted()[times.count / 2]
        return Double(median) * 1e-9 * Double(task.count) / Double(length)
    }
}

private func sendAll(_ channel: inout Channel, _ bytes: [UInt8]) throws(VchanError) {
    var done = try channel.write(bytes.span)
    while done < bytes.count {
        let rest = bytes.count - done
        _ = try channel.waitForSpace(atLeast: min(rest, channel.writeCapacity))
        done += try channel.write(bytes.span.extracting(last: rest))
    }
}

private func receiveAll(_ channel: inout Channel, _ bytes: inout [UInt8]) throws(VchanError) {
    var done = 0
    while true {
        done += try channel.read(into: &bytes, from: done)
        if done == bytes.count { return }
        _ = try channel.waitForData(atLeast: min(bytes.count - done, channel.readCapacity))
    }
}

private func trips(
    _ channel: inout Channel, _ side: Int, _ task: Task, _ slices: inout Slices
) throws(VchanError) {
    var bytes = [UInt8](repeating: 1, count: task.message)
    for _ in 0..<task.count {
        if side == 1 {
            try sendAll(&channel, bytes)
            try channel.flush()
            _ = try channel.waitForData(atLeast: task.message)
            try receiveAll(&channel, &bytes)
            slices.step()
        } else {
            _ = try channel.waitForData(atLeast: task.message)
            try receiveAll(&channel, &bytes)
            try sendAll(&channel, bytes)
            try channel.flush()
        }
    }
}

private func stream(_ channel: inout Channel, _ side: Int, _ task: Task) throws(VchanError) {
    var bytes = [UInt8](repeating: 1, count: task.message)
    var last = [UInt8](repeating: 1, count: 1)
    if side == 1 {
        for _ in 0..<task.count { try sendAll(&channel, bytes) }
        try channel.flush()
        _ = try channel.waitForData()
        try receiveAll(&channel, &last)
    } else {
        for _ in 0..<task.count { try receiveAll(&channel, &bytes) }
        try sendAll(&channel, last)
        try channel.flush()
    }
}

/// Bytes from descriptor 0 to the ring, or from the ring to descriptor 1: a loop that waits for
/// both the pipe and the channel, as programs do that have more than one thing to wait for.
private func pump(_ channel: inout Channel, _ side: Int, _ task: Task) throws {
    var switched = false
    let isSource = side == 1
    let pipe = try Descriptor.privateNonblocking(
        isSource ? 0 : 1, writing: !isSource, switched: &switched)
    let piece = Channel.piece(ofRing: task.ring)
    var set = PollSet()
    var left = task.count
    while left > 0 {
        var waitsForPipe = false
        if isSource {
            let limit = min(left, piece)
            switch try channel.write(from: pipe.number, isSocket: false, limit: limit) {
            case .moved(let count):
                left -= count
                continue
            case .noRoom:
                if try channel.lingerForSpace(atLeast: piece) { continue }
                if try channel.armForSpace(atLeast: piece) { continue }
            case .wouldBlock: waitsForPipe = true
            default: throw BenchFailure(description: "the pipe has ended")
            }
        } else {
            let part = min(left, piece)
            switch try channel.drain(part, to: pipe.number, isSocket: false) {
            case .moved(0):
                if try channel.lingerForData(atLeast: part) { continue }
                if try channel.armForData(atLeast: part) { continue }
            case .moved(let count):
                left -= count
                continue
            case .wouldBlock: waitsForPipe = true
            case .failed(let error): throw error
            }
        }
        try channel.flush()
        set.removeAll()
        if waitsForPipe { set.add(pipe.number, isSource ? .readable : .writable) }
        if !waitsForPipe { set.add(channel.pollDescriptor, .readable) }
        _ = try set.wait()
        if !waitsForPipe { try channel.progress() }
    }
    try channel.flush()
}

// MARK: One thread

/// Nanoseconds of processor time for all messages.
func runPairs(_ task: Task) throws -> Report {
    if task.cores[0] >= 0 { try CurrentProcess.pin(toCore: task.cores[0]) }
    var receiver = try listen(task)
    var sender = try connect(task)
    try receiver.waitUntilOpen()
    try sender.waitUntilOpen()
    allocate_deliberately()
    let atFirst = allocations_so_far()
    allocate_deliberately()
    let allocated = allocations_so_far()
    guard atFirst < 0 || allocated == atFirst + 1 else {
        throw BenchFailure(description: "a deliberate allocation was not counted")
    }
    let before = CurrentProcess.processorTime
    switch task.what {
    case .inPlace: try pairsInPlace(&sender, &receiver, task)
    case .framed: try pairsFramed(&sender, &receiver, task)
    case .allocating: for _ in 0..<task.count { allocate_deliberately() }
    default: try pairsCopied(&sender, &receiver, task, publishEach: task.what == .published)
    }
    var report = Report()
    report.cpu = Double(CurrentProcess.processorTime - before) * 1e-9
    (report.seconds, report.usual) = (report.cpu, report.cpu)
    report.notifications = sender.notificationsSent + receiver.notificationsSent
    if allocated >= 0 { report.allocations = allocations_so_far() - allocated }
    sender.close()
    receiver.close()
    return report
}

private func pairsCopied(
    _ sender: inout Channel, _ receiver: inout Channel, _ task: Task, publishEach: Bool
) throws(VchanError) {
    var bytes = [UInt8](repeating: 1, count: task.message)
    let batch = task.ring / task.message / 2
    let outgoing = [UInt8](repeating: 2, count: task.message)
    let message = outgoing.span
    var received = bytes.mutableSpan
    for _ in 0..<task.count / batch {
        for _ in 0..<batch {
            _ = try sender.write(message)
            if publishEach { try sender.flush() }
        }
        try sender.flush()
        for _ in 0..<batch {
            _ = try receiver.read(whole: &received)
            if publishEach { try receiver.flush() }
        }
        try receiver.flush()
    }
}

/// Messages are made and used where they lie, sixteen a reservation.
private func pairsInPlace(
    _ sender: inout Channel, _ receiver: inout Channel, _ task: Task
) throws(VchanError) {
    let (batch, message) = (task.ring / task.message / 2, task.message)
    let several = 16 * message
    var sum: UInt64 = 0
    for round in 0..<task.count / batch {
        let value = UInt8(truncatingIfNeeded: round)
        var left = batch * message
        while left > 0 {
            left -= try sender.write(atMost: min(left, several)) { span in
                for index in 0..<span.count { span[index] = value }
                return span.count
            }
        }
        try sender.flush()
        left = batch * message
        while left > 0 {
            left -= try receiver.read(atMost: min(left, several)) { span in
                var start = 0
                while start < span.count {
                    sum &+= UInt64(span[start])
                    start += message
                }
                return span.count
            }
        }
        try receiver.flush()
    }
    if sum == 1 { CurrentProcess.yield() }
}

/// Whole frames with their headers, the payload moved on to a descriptor.
private func pairsFramed(
    _ sender: inout Channel, _ receiver: inout Channel, _ task: Task
) throws {
    let payload = [UInt8](repeating: 1, count: task.message)
    let bytes = payload.span
    let nowhere = try Descriptor.open("/dev/null", 1)
    let batch = task.ring / (task.message + FrameHeader.size) / 2
    for _ in 0..<task.count / batch {
        for _ in 0..<batch { _ = try sender.send(type: 1, bytes) }
        try sender.flush()
        while let header = try receiver.receiveHeader() {
            _ = try receiver.drain(Int(header.length), to: nowhere.number, isSocket: false)
        }
        try receiver.flush()
    }
}

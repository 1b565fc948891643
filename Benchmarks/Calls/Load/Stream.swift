import LinuxSystem
import QrexecRuntime
import SystemPackage

/// The bytes of a stream: 1 MiB of noise, again and again, written 64 KiB at a time.
enum Stream {
    private static let blockSize = 65536

    private static func blocks() -> [[UInt8]] {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        return (0..<16).map { _ in
            (0..<blockSize).map { _ in
                state ^= state << 13
                state ^= state >> 7
                state ^= state << 17
                return UInt8(truncatingIfNeeded: state)
            }
        }
    }

    private static func forEach(
        of bytes: Int, _ body: ([UInt8]) throws(Errno) -> Void
    ) throws(Errno) {
        let blocks = blocks()
        var done = 0
        while done < bytes {
            let block = blocks[done / blockSize % blocks.count]
            let size = min(blockSize, bytes - done)
            try body(size == blockSize ? block : Array(block[..<size]))
            done += size
        }
    }

    static func write(bytes: Int) throws(Errno) {
        try forEach(of: bytes) { (block) throws(Errno) in try Descriptor.writeAll(block, to: 1) }
        tellCost()
    }

    /// What this process and its children have cost, to descriptor 3: an end of a stream is no part
    /// of the chain that is measured. Whoever does not want to know gives no such descriptor.
    private static func tellCost() {
        let cost =
            ResourceUsage(of: .itself).cpuMicroseconds
            + ResourceUsage(of: .reapedChildren).cpuMicroseconds
        try? Descriptor.writeAll(Array("\(cost)\n".utf8), to: 3)
    }

    /// What `readAll` must report for these bytes.
    static func summary(bytes: Int) throws(Errno) -> String {
        var sum = CRC32()
        try forEach(of: bytes) { (block) throws(Errno) in sum.update(block.span) }
        return "\(bytes) \(sum.value)"
    }

    /// Count and checksum of what standard input brings.
    private static func taken() throws(Errno) -> String {
        let input = try Descriptor.duplicate(of: 0)
        var buffer = [UInt8](repeating: 0, count: blockSize)
        var total = 0
        var sum = CRC32()
        while true {
            let count = try input.read(into: &buffer)
            if count == 0 { break }
            total += count
            sum.update(buffer.span.extracting(first: count))
        }
        return "\(total) \(sum.value)"
    }

    static func readAll() throws(Errno) {
        Terminal.print(try taken())
        tellCost()
    }

    /// Both at once: a service that sends as many bytes as it must get.
    ///
    /// - Throws: when others came.
    static func exchange(bytes: Int) throws(Errno) {
        let null = try Descriptor.open("/dev/null", 2)
        let source = try Yardstick.start(
            [Yardstick.program, "source", String(bytes)], [null.number, 1, 2])
        let isRight = try taken() == summary(bytes: bytes)
        guard try source.reap() == 0, isRight else { throw .ioError }
        tellCost()
    }
}

/// Streams through calls, several at a time: through calls of this qube, or through the same chain in
/// plain C.
struct StreamLoad {
    private enum Way: String {
        /// From here to the service, from the service to here, and both at once.
        case out, `in`, both
    }

    private let way: Way
    private let count: Int
    private let bytes: Int
    /// A qube, or the path of the chain in C.
    private let target: String

    init(_ arguments: [String]) throws(Errno) {
        guard let way = Way(rawValue: arguments[0]), let count = Int(arguments[1]),
            let bytes = Int(arguments[2])
        else { throw .invalidArgument }
        self.way = way
        self.count = count
        self.bytes = bytes
        target = arguments[3]
    }

    /// One stream: the processes of ours that belong to it, and the summary of what arrived.
    private final class Running {
        var processes: [Link] = []
        var result: Descriptor?
    }

    private var isReference: Bool { target.hasPrefix("/") }

    private var client: [String] {
        let service =
            switch way {
            case .out: ["sink"]
            case .in: ["source", String(bytes)]
            case .both: ["both", String(bytes)]
            }
        if isReference { return [target, Yardstick.program] + service }
        let name = ["sink": "Sink", "source": "Source", "both": "Both"][service[0]]!
        return Client.command(
            target, (["bench.\(name)"] + service.dropFirst()).joined(separator: "+"))
    }

    /// - Parameter cost: where ends of the stream tell their own cost.
    private func start(_ null: Int32, cost: Int32) throws(Errno) -> Running {
        let running = Running()
        func run(_ command: [String], _ input: Int32, _ output: Int32) throws(Errno) {
            let child = try Yardstick.start(command, [input, output, 2, cost])
            running.processes.append(Link(child))
        }
        let result = try Descriptor.pipe()
        let input = try Descriptor.pipe()
        let output = try Descriptor.pipe()
        try input.first.setPipeSize(1 << 20)
        try output.first.setPipeSize(1 << 20)
        let isSent = way != .in
        let isReceived = way != .out
        try run(
            client, isSent ? input.first.number : null,
            isReceived ? output.second.number : result.second.number)
        if isSent {
            try run([Yardstick.program, "source", String(bytes)], null, input.second.number)
        }
        if isReceived {
            try run([Yardstick.program, "sink"], output.first.number, result.second.number)
        }
        running.result = consume result.first
        return running
    }

    func run() throws(Errno) {
        let expected = try Stream.summary(bytes: bytes)
        let null = try Descriptor.open("/dev/null", 2)
        let costs = try Descriptor.pipe()
        var streams: [Running] = []
        let begin = CurrentProcess.now
        for _ in 0..<count { streams.append(try start(null.number, cost: costs.second.number)) }
        var wrong = 0
        for stream in streams {
            let line = String(
                decoding: try stream.result.take()?.readAll(limit: 4096) ?? [], as: UTF8.self)
            var isRight = line == expected + "\n"
            for process in stream.processes {
                if try process.child.take()?.reap() != 0 { isRight = false }
            }
            if !isRight { wrong += 1 }
        }
        let duration = CurrentProcess.now - begin
        _ = consume costs.second
        let text = String(decoding: try costs.first.readAll(limit: 1 << 16), as: UTF8.self)
        let ends = text.split(separator: "\n").reduce(0) { $0 + (Int($1) ?? 0) }
        let chain = ResourceUsage(of: .reapedChildren).cpuMicroseconds - ends
        Terminal.print("duration \(duration)\nwrong \(wrong)\nclient_cpu \(chain)")
    }
}

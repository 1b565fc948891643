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
        // Where the caller wants to know, and has given a descriptor.
        let cost = Array("\(ResourceUsage(of: .itself).cpuMicroseconds)\n".utf8)
        try? Descriptor.writeAll(cost, to: 3)
    }

    /// What `readAll` must report first for these bytes.
    static func summary(bytes: Int) throws(Errno) -> String {
        var sum = CRC32()
        try forEach(of: bytes) { (block) throws(Errno) in sum.update(block.span) }
        return "\(bytes) \(sum.value)"
    }

    /// Reports count, checksum and CPU time of what standard input brought.
    static func readAll() throws(Errno) {
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
        Terminal.print("\(total) \(sum.value) \(ResourceUsage(of: .itself).cpuMicroseconds)")
    }
}

/// Streams through calls, several at a time, in one direction.
struct StreamLoad {
    private let outwards: Bool
    private let count: Int
    private let target: String
    private let bytes: Int

    init(_ arguments: [String]) throws(Errno) {
        guard let count = Int(arguments[1]), let bytes = Int(arguments[3]) else {
            throw .invalidArgument
        }
        outwards = arguments[0] == "out"
        self.count = count
        self.bytes = bytes
        target = arguments[2]
    }

    /// One stream: two processes of ours, and the summary of what arrived.
    private final class Running {
        let processes: [Link]
        let result: Descriptor
        let sourceCost: Descriptor?

        init(
            _ processes: [Link], _ result: consuming Descriptor,
            _ sourceCost: consuming Descriptor? = nil
        ) {
            self.processes = processes
            self.result = consume result
            self.sourceCost = consume sourceCost
        }
    }

    private func startOutwards(_ null: Int32) throws(Errno) -> Running {
        let pipe = try Descriptor.pipe()
        try pipe.first.setPipeSize(1 << 20)
        let result = try Descriptor.pipe()
        let cost = try Descriptor.pipe()
        let client = try Yardstick.start(
            ["/usr/bin/qrexec-client-vm", target, "bench.Sink"],
            [pipe.first.number, result.second.number, 2])
        let source = try Yardstick.start(
            [Yardstick.program, "source", String(bytes)],
            [null, pipe.second.number, 2, cost.second.number])
        return Running([Link(client), Link(source)], result.first, cost.first)
    }

    private func startInwards(_ null: Int32) throws(Errno) -> Running {
        let pipe = try Descriptor.pipe()
        try pipe.first.setPipeSize(1 << 20)
        let result = try Descriptor.pipe()
        let client = try Yardstick.start(
            ["/usr/bin/qrexec-client-vm", target, "bench.Source+\(bytes)"],
            [null, pipe.second.number, 2])
        let sink = try Yardstick.start(
            [Yardstick.program, "sink"], [pipe.first.number, result.second.number, 2])
        return Running([Link(client), Link(sink)], result.first)
    }

    func run() throws(Errno) {
        let expected = try Stream.summary(bytes: bytes)
        let null = try Descriptor.open("/dev/null", 2)
        var streams: [Running] = []
        let begin = CurrentProcess.now
        for _ in 0..<count {
            streams.append(
                try outwards ? startOutwards(null.number) : startInwards(null.number))
        }
        var wrong = 0
        var ends = 0
        for stream in streams {
            let line = String(decoding: try stream.result.readAll(limit: 4096), as: UTF8.self)
            if !line.hasPrefix(expected + " ") { wrong += 1 }
            if !outwards { ends += Self.cost(line) }
            for process in stream.processes { _ = try process.child.take()?.reap() }
        }
        let duration = CurrentProcess.now - begin
        for stream in streams where stream.sourceCost != nil {
            let text = try stream.sourceCost!.readAll(limit: 4096)
            ends += Self.cost(String(decoding: text, as: UTF8.self))
        }
        let clients = ResourceUsage(of: .reapedChildren).cpuMicroseconds - ends
        Terminal.print("duration \(duration)\nwrong \(wrong)\nclient_cpu \(clients)")
    }

    /// The last number of a summary.
    private static func cost(_ line: String) -> Int {
        let last = line.split(whereSeparator: { $0 == " " || $0 == "\n" }).last
        return last.flatMap { Int($0) } ?? 0
    }
}

import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Gathers what the programs of all qubes print into one file, a line `<qube>: <text>` each.
///
/// The lines come from qubes: they are made harmless for a terminal, cut at a length, and the file
/// is turned over at a size, so that a qube can neither fill the disk nor stop the manager.
///
/// Programs print from the path of a call, and to be woken for each line would cost the machine more
/// than a tenth of the call. So the manager looks once in a while, and sorts by time what it finds.
final class LogCollector {
    private static let maximumLine = 4096
    /// How long after the first line that comes the manager looks at all.
    private static let patience = milliseconds(20)
    /// Bytes that a pipe holds meanwhile; a program that prints more waits. Not more: the pipes of an
    /// ordinary user share 64 MiB.
    private static let pipeSize: Int32 = 1 << 18
    /// Bytes of the file when it becomes `<path>.1`.
    private static let maximumFile = 8 << 20

    private let loop: EventLoop
    private let path: String
    private var file: OwnedDescriptor
    private var written = 0
    private var sources: [Source] = []
    private var gathered: [Line] = []
    private var gathering: EventLoop.Timer?

    /// A line that is not in the file yet.
    private struct Line {
        /// When it was printed, as its own stamp says it, but never before the source's line before.
        let time: UInt64
        let text: String
    }

    /// One pipe whose writing side programs have as output and errors.
    final class Source {
        fileprivate let input: Descriptor
        /// For programs to inherit.
        let output: Descriptor
        fileprivate let prefix: String
        fileprivate var line: [UInt8] = []
        fileprivate var time: UInt64 = 0

        fileprivate init(_ pipe: consuming DescriptorPair, prefix: String) throws(Errno) {
            self.prefix = prefix
            let (input, output) = Self.split(pipe)
            self.input = try Self.nonblocking(input)
            self.output = Descriptor(taking: output)
            // A smaller pipe only makes programs wait earlier.
            try? self.output.setPipeSize(LogCollector.pipeSize)
            PathStatus.openPipe(output)
        }

        private static func split(_ pipe: consuming DescriptorPair) -> (Int32, Int32) {
            (pipe.first.release(), pipe.second.release())
        }

        private static func nonblocking(_ number: Int32) throws(Errno) -> Descriptor {
            let descriptor = Descriptor(taking: number)
            try descriptor.setNonblocking(true)
            return descriptor
        }
    }

    init(loop: EventLoop, path: String) throws(Errno) {
        self.loop = loop
        self.path = path
        file = try Self.open(path)
    }

    private static func open(_ path: String) throws(Errno) -> OwnedDescriptor {
        let flags = O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW
        return OwnedDescriptor(try Descriptor.open(path, flags, mode: 0o600))
    }

    /// A new source for a qube's programs.
    func source(_ qube: String) throws(Errno) -> Source {
        let source = try Source(try Descriptor.pipe(), prefix: qube)
        try loop.watch(source.input.number, .readable) { [unowned self, unowned source] _ in
            // Not told again until it has been read.
            self.loop.setInterest(source.input.number, [])
            self.gatherSoon()
        }
        sources.append(source)
        return source
    }

    func remove(_ source: Source) {
        gather()
        if !source.line.isEmpty {
            take(source)
            writeGathered()
        }
        loop.unwatch(source.input.number)
        sources.removeAll { $0 === source }
    }

    /// A line of the manager's own about a qube.
    func note(_ qube: String, _ text: String) {
        let line = Array("\(Timestamp.now) qubes-lab: \(LogText.line(text))".utf8)
        add(line, qube, after: 0)
        gatherSoon()
    }

    private func gatherSoon() {
        guard gathering == nil else { return }
        gathering = loop.schedule(after: Self.patience) { [unowned self] in self.gather() }
    }

    /// Writes what all programs have printed so far.
    func gather() {
        if let gathering { loop.cancel(gathering) }
        gathering = nil
        for source in sources {
            source.time = 0
            read(source)
            loop.setInterest(source.input.number, .readable)
        }
        writeGathered()
    }

    private func writeGathered() {
        // Lines of the same time stay as they came.
        let order = gathered.indices.sorted {
            (gathered[$0].time, $0) < (gathered[$1].time, $1)
        }
        let lines = order.map { gathered[$0].text }
        gathered.removeAll()
        for start in stride(from: 0, to: lines.count, by: 64) {
            write(lines[start...].prefix(64).joined())
        }
    }

    /// As much as a pipe holds, and no more of one that goes on.
    private func read(_ source: Source) {
        var chunk = [UInt8](repeating: 0, count: 65536)
        var limit = Int(Self.pipeSize)
        while limit > 0, let count = try? source.input.read(into: &chunk), count > 0 {
            limit -= count
            var rest = chunk[..<count]
            while let end = rest.firstIndex(of: 0x0A) {
                extend(source, rest[..<end])
                take(source)
                rest = rest[(end + 1)...]
            }
            extend(source, rest)
        }
    }

    private func extend(_ source: Source, _ bytes: ArraySlice<UInt8>) {
        source.line += bytes.prefix(Self.maximumLine - source.line.count)
    }

    private func take(_ source: Source) {
        source.time = add(source.line, source.prefix, after: source.time)
        source.line.removeAll(keepingCapacity: true)
    }

    /// - Returns: the line's time.
    @discardableResult
    private func add(_ line: [UInt8], _ prefix: String, after time: UInt64) -> UInt64 {
        let time = max(time, Timestamp.microseconds(in: line) ?? 0)
        gathered.append(Line(time: time, text: "\(prefix): \(Self.harmless(line))\n"))
        return time
    }

    private static func harmless(_ line: [UInt8]) -> String {
        if line.allSatisfy({ (0x20..<0x7F).contains($0) }) {
            return String(decoding: line, as: UTF8.self)
        }
        var result = ""
        for scalar in String(decoding: line, as: UTF8.self).unicodeScalars {
            let isControl =
                scalar.value < 0x20 && scalar != "\t" || (0x7F..<0xA0).contains(scalar.value)
            result.unicodeScalars.append(isControl ? "_" : scalar)
        }
        return result
    }

    private func write(_ line: String) {
        let bytes = Array(line.utf8)
        if written + bytes.count > Self.maximumFile { turnOver() }
        written += bytes.count
        try? file.descriptor.writeAll(bytes)
    }

    private func turnOver() {
        try? PathStatus.rename(path, to: path + ".1")
        guard let new = try? Self.open(path) else { return }
        file = new
        written = 0
    }
}

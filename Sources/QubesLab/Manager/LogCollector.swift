import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Gathers what the programs of all qubes print into one file, a line `<qube>: <text>` each.
///
/// The lines come from qubes: they are made harmless for a terminal, cut at a length, and the file
/// is turned over at a size, so that a qube can neither fill the disk nor stop the manager.
final class LogCollector {
    private static let maximumLine = 4096
    /// Bytes of the file when it becomes `<path>.1`.
    private static let maximumFile = 8 << 20

    private let loop: EventLoop
    private let path: String
    private var file: OwnedDescriptor
    private var written = 0
    private var sources: [Source] = []

    /// One pipe whose writing side programs have as output and errors.
    final class Source {
        fileprivate let input: Descriptor
        /// For programs to inherit.
        let output: Descriptor
        fileprivate let prefix: String
        fileprivate var line: [UInt8] = []

        fileprivate init(_ pipe: consuming DescriptorPair, prefix: String) throws(Errno) {
            self.prefix = prefix
            let (input, output) = Self.split(pipe)
            self.input = try Self.nonblocking(input)
            self.output = Descriptor(taking: output)
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
            self.read(source)
        }
        sources.append(source)
        return source
    }

    func remove(_ source: Source) {
        read(source)
        if !source.line.isEmpty { flush(source) }
        loop.unwatch(source.input.number)
        sources.removeAll { $0 === source }
    }

    /// A line of the manager's own about a qube.
    func note(_ qube: String, _ text: String) {
        write("\(qube): \(Timestamp.now) qubes-lab: \(LogText.line(text))\n")
    }

    private func read(_ source: Source) {
        var chunk = [UInt8](repeating: 0, count: 16384)
        guard let count = try? source.input.read(into: &chunk) else { return }
        for byte in chunk[..<count] {
            if byte == 0x0A {
                flush(source)
            } else if source.line.count < Self.maximumLine {
                source.line.append(byte)
            }
        }
    }

    private func flush(_ source: Source) {
        let text = String(decoding: source.line, as: UTF8.self)
        source.line.removeAll(keepingCapacity: true)
        write("\(source.prefix): \(Self.harmless(text))\n")
    }

    private static func harmless(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
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

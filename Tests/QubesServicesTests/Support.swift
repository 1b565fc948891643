import Foundation
import LinuxSystem
import SystemPackage
import Testing

@testable import QubesServices

/// A directory that goes away with everything in it.
final class TemporaryDirectory: Sendable {
    let path: String

    init(below parent: String = NSTemporaryDirectory()) throws {
        path = parent + "/filecopy-test-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }

    deinit {
        _ = try? Process.run(
            URL(fileURLWithPath: "/bin/chmod"), arguments: ["-R", "u+rwx", path]
        ).waitUntilExit()
        try? FileManager.default.removeItem(atPath: path)
    }

    func open(_ name: String = ".") throws -> Descriptor {
        try Descriptor.open(path + "/" + name, O_RDONLY | O_DIRECTORY)
    }

    /// Paths of everything below, sorted.
    var contents: [String] {
        (try? FileManager.default.subpathsOfDirectory(atPath: path))?.sorted() ?? []
    }

    func write(_ name: String, _ text: String) throws {
        try write(name, Array(text.utf8))
    }

    func write(_ name: String, _ bytes: [UInt8]) throws {
        let file = path + "/" + name
        let parent = (file as NSString).deletingLastPathComponent
        try FileManager.default.createDirectory(
            atPath: parent, withIntermediateDirectories: true)
        try Data(bytes).write(to: URL(fileURLWithPath: file))
    }

    func text(_ name: String) -> String? {
        (try? Data(contentsOf: URL(fileURLWithPath: path + "/" + name))).map {
            String(decoding: $0, as: UTF8.self)
        }
    }

    func status(_ name: String) throws -> FileAttributes {
        try open().status(of: Array(name.utf8) + [0])
    }
}

/// A stream put together byte by byte from the specification (15.1), with any lie wanted in it.
struct HandmadeStream {
    var bytes: [UInt8] = []

    mutating func number32(_ value: UInt32) {
        for shift in [0, 8, 16, 24] { bytes.append(UInt8(value >> UInt32(shift) & 0xFF)) }
    }

    mutating func number64(_ value: UInt64) {
        number32(UInt32(truncatingIfNeeded: value))
        number32(UInt32(truncatingIfNeeded: value >> 32))
    }

    mutating func entry(
        _ name: [UInt8], mode: UInt32, size: UInt64, nanoseconds: UInt32 = 5,
        nameLength: UInt32? = nil
    ) {
        number32(nameLength ?? UInt32(name.count + 1))
        number32(mode)
        number64(size)
        number32(1_000_000_000)
        number32(nanoseconds)
        number32(1_100_000_000)
        number32(nanoseconds)
        bytes += name + [0]
    }

    mutating func file(_ name: String, _ contents: String, mode: UInt32 = 0o100640) {
        entry(Array(name.utf8), mode: mode, size: UInt64(contents.utf8.count))
        bytes += contents.utf8
    }

    mutating func directory(_ name: String, mode: UInt32 = 0o040750) {
        entry(Array(name.utf8), mode: mode, size: 0)
    }

    mutating func link(_ name: String, _ target: String) {
        entry(Array(name.utf8), mode: 0o120777, size: UInt64(target.utf8.count))
        bytes += target.utf8
    }

    mutating func end() { bytes += [UInt8](repeating: 0, count: 32) }

    /// A descriptor that gives these bytes and then ends.
    func descriptor() throws -> Descriptor {
        let file = try Descriptor.memoryFile(named: "stream")
        try file.writeAll(bytes)
        try file.seek(0, .start)
        return file
    }
}

/// Receives a stream into a directory.
func receive(
    _ stream: HandmadeStream, into directory: TemporaryDirectory,
    _ options: TreeReceiver.Options = TreeReceiver.Options()
) throws -> TransferResult {
    var receiver = TreeReceiver(into: try directory.open(), options: options)
    let input = try stream.descriptor()
    return receiver.receive(from: input.number)
}

/// Runs something on a thread of its own and waits for its value when asked.
final class Background<Value: Sendable>: @unchecked Sendable {
    private let done = DispatchSemaphore(value: 0)
    private var value: Value?

    init(_ body: @escaping @Sendable () -> Value) {
        Thread {
            self.value = body()
            self.done.signal()
        }.start()
    }

    func wait() -> Value {
        done.wait()
        return value!
    }
}

/// The outcome of a transfer between a sender and a receiver that are connected by pipes.
struct Transfer {
    var failure: SendFailure?
    var result: TransferResult
}

/// The ends of a pipe as numbers; who writes closes that end, the other one closes by itself.
final class TestPipe: Sendable {
    let reading: Int32
    let writing: Int32

    init() throws {
        let ends = try Descriptor.pipe()
        reading = try ends.first.duplicate().release()
        writing = try ends.second.duplicate().release()
    }

    deinit { close(reading) }
}

/// Sends files to a receiver of this process.
func transfer(
    _ files: [String], to directory: TemporaryDirectory, ignoreLinks: Bool = false,
    record: String? = nil, _ options: TreeReceiver.Options = TreeReceiver.Options()
) throws -> Transfer {
    let stream = try TestPipe()
    let answer = try TestPipe()
    let (input, output) = (stream.reading, stream.writing)
    let (answerIn, answerOut) = (answer.reading, answer.writing)
    let receiver = Background {
        var receiver = TreeReceiver(into: try! directory.open(), options: options)
        let result = receiver.receive(from: input)
        try? Descriptor.writeAll(answerOut, result.encoded.span)
        close(answerOut)
        return result
    }
    let sender = Background { () -> SendFailure? in
        defer { close(output) }
        return send(
            files, output: output, answers: answerIn, ignoreLinks: ignoreLinks, record: record)
    }
    let result = receiver.wait()
    // What the sender still writes must not fill the pipe for ever.
    let rest = Background {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while let got = try? Descriptor.read(input, into: &buffer, at: 0, count: buffer.count),
            got > 0
        {}
    }
    let failure = sender.wait()
    rest.wait()
    return Transfer(failure: failure, result: result)
}

/// Sends files to descriptors.
func send(
    _ files: [String], output: Int32, answers: Int32, ignoreLinks: Bool = false,
    record: String? = nil
) -> SendFailure? {
    CurrentProcess.ignoreBrokenPipes()
    var sender = TreeSender(
        DescriptorCarrier(output: output, answers: answers),
        options: TreeSender.Options(ignoreLinks: ignoreLinks),
        progress: CopyProgress(style: .none, total: nil),
        record: record.map { SentRecord(try! Descriptor.open($0, O_WRONLY | O_CREAT, mode: 0o600)) }
    )
    do throws(SendFailure) {
        try sender.send(files)
        return nil
    } catch {
        return error
    }
}

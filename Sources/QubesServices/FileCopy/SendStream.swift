import Glibc
import LinuxSystem
import SystemPackage

/// Why a transfer failed at the sender.
enum SendFailure: Error, Equatable {
    /// A file of this side.
    case file(FileProblem)
    /// The receiver answered with an error.
    case refused(TransferResult)
    /// The receiver says success, but has read something else than was sent.
    case wrongChecksum(sent: UInt32, received: UInt32)
    /// The receiver answered success before it got the end of the stream.
    case answeredTooEarly
    /// The connection ended without an answer.
    case noAnswer
    /// The way to the other qube.
    case connection(String)
    /// The record of what was sent.
    case record(Errno)

    var text: String {
        switch self {
        case .file(let problem): problem.line
        case .refused(let result): TransferProblem.describe(result)
        case .wrongChecksum:
            "the other qube received something else than was sent (checksums differ); "
                + "do not trust the copy"
        case .answeredTooEarly: "the other qube answered before it had everything"
        case .noAnswer:
            "the connection ended without an answer of the other qube; the copy is incomplete"
        case .connection(let reason): "the connection failed: \(reason)"
        case .record(let error): "cannot write down what was sent: \(error.message)"
        }
    }
}

/// The stream on its way out: collects small pieces, sums up everything, and looks whether the
/// receiver has answered already.
struct SendStream {
    private let carrier: any StreamCarrier
    private(set) var buffer: [UInt8]
    /// Bytes of the buffer that wait to be sent.
    private(set) var used = 0
    private(set) var checksum = CRC32()
    /// The answers ended without one: nothing more is to be heard.
    private var isUnanswered = false

    /// As on the other side: what was summed up is still in the processor's cache when it is sent.
    static let bufferSize = 256 * 1024

    init(_ carrier: any StreamCarrier) {
        self.carrier = carrier
        buffer = [UInt8](repeating: 0, count: Self.bufferSize)
    }

    var room: Int { buffer.count - used }

    /// Adds a header and its name, which ends with NUL.
    mutating func put(_ header: EntryHeader, _ name: [UInt8]) throws(SendFailure) {
        if room < EntryHeader.length + name.count { try flush() }
        var end = used
        header.encode {
            buffer[end] = $0
            end += 1
        }
        used = end
        try put(name)
    }

    /// Adds bytes.
    mutating func put(_ bytes: [UInt8]) throws(SendFailure) {
        if room < bytes.count { try flush() }
        precondition(bytes.count <= room, "piece larger than the buffer")
        for byte in bytes {
            buffer[used] = byte
            used += 1
        }
    }

    /// Adds what a file has next, at most `limit` bytes and what there is room for.
    ///
    /// - Returns: bytes added; 0 at the end of the file.
    mutating func put(
        from file: borrowing Descriptor, limit: UInt64
    ) throws(Errno) -> Int {
        let count = Int(min(UInt64(room), limit))
        let got = try file.read(into: &buffer, at: used, count: count)
        used += got
        return got
    }

    /// Adds zeros: a hole of a file.
    mutating func putZeros(limit: UInt64) -> Int {
        let count = Int(min(UInt64(room), limit))
        for i in used..<(used + count) { buffer[i] = 0 }
        used += count
        return count
    }

    /// Takes back what was added since the buffer held `mark` bytes; only without a flush since.
    mutating func takeBack(to mark: Int) {
        precondition(mark <= used)
        used = mark
    }

    /// Sends what waits.
    mutating func flush() throws(SendFailure) {
        if used == 0 { return }
        try lookForAnswer()
        let count = used
        var sum = checksum
        sum.update(buffer.span.extracting(..<count))
        checksum = sum
        do throws(CarrierFailure) {
            try carrier.write(buffer.span.extracting(..<count))
        } catch {
            throw answerAfter(error)
        }
        used = 0
    }

    /// An answer before the end is an error, most often one that the receiver explains. The end of
    /// answers is none before the end of the stream, which may go to somebody who gives none.
    private mutating func lookForAnswer() throws(SendFailure) {
        if isUnanswered { return }
        let isThere: Bool
        do throws(CarrierFailure) { isThere = try carrier.hasAnswer() } catch {
            throw answerAfter(error)
        }
        guard isThere else { return }
        guard let result = try readAnswer() else {
            isUnanswered = true
            return
        }
        throw result.code == 0 ? .answeredTooEarly : .refused(result)
    }

    /// What the receiver says when nothing can be written any more.
    private func answerAfter(_ failure: CarrierFailure) -> SendFailure {
        if case .failed(let reason) = failure { return .connection(reason) }
        guard let result = try? readAnswer() else { return .noAnswer }
        return result.code == 0 ? .answeredTooEarly : .refused(result)
    }

    /// Sends the end marker and waits for the answer, which must confirm everything.
    mutating func finish(expectsAnswer: Bool = true) throws(SendFailure) {
        try put(EntryHeader.end, [])
        try flush()
        if !expectsAnswer { return }
        guard !isUnanswered, let result = try readAnswer() else { throw .noAnswer }
        if result.code != 0 { throw .refused(result) }
        if result.checksum != checksum.value {
            throw .wrongChecksum(sent: checksum.value, received: result.checksum)
        }
    }

    /// Reads the one answer: 16 bytes, and for an error the name, if any, up to the end.
    private func readAnswer() throws(SendFailure) -> TransferResult? {
        let most = TransferResult.lengthBeforeName + TransferResult.maximumName
        var bytes = [UInt8](repeating: 0, count: most)
        var filled = 0
        do throws(CarrierFailure) {
            while filled < most {
                let got = try carrier.readAnswer(
                    into: &bytes, at: filled, count: most - filled)
                if got == 0 { break }
                filled += got
                if Self.isComplete(bytes.span.extracting(..<filled)) { break }
            }
        } catch {
            if case .failed(let reason) = error { throw .connection(reason) }
        }
        return TransferResult(bytes.span.extracting(..<filled))
    }

    /// Whether nothing more is to come that matters: success needs no name.
    private static func isComplete(_ bytes: Span<UInt8>) -> Bool {
        if bytes.count < TransferResult.shortLength { return false }
        if bytes.littleEndian32(at: 0) == 0 { return true }
        if bytes.count < TransferResult.lengthBeforeName { return false }
        return bytes.count - TransferResult.lengthBeforeName
            >= Int(bytes.littleEndian32(at: TransferResult.shortLength))
    }
}

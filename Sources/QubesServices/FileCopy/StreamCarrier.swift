import LinuxSystem
import SystemPackage

/// Why a carrier stops.
enum CarrierFailure: Error, Equatable {
    /// Nobody takes what is written any more; there may be an answer that says why.
    case ended
    case failed(String)
}

/// What a stream goes out by, and the answer comes in by.
protocol StreamCarrier: AnyObject {
    /// Sends everything.
    func write(_ bytes: Span<UInt8>) throws(CarrierFailure)
    /// Whether a part of the answer, or the end of everything, is there. Does not wait.
    func hasAnswer() throws(CarrierFailure) -> Bool
    /// Waits for a part of the answer; 0 is the end.
    func readAnswer(
        into buffer: inout [UInt8], at offset: Int, count: Int
    ) throws(CarrierFailure) -> Int
}

/// Two descriptors of this process that block (`qfile-agent`: 1 and 0), or one without answers.
final class DescriptorCarrier: StreamCarrier {
    private let output: Int32
    private let answers: Int32?

    init(output: Int32, answers: Int32?) {
        self.output = output
        self.answers = answers
    }

    func write(_ bytes: Span<UInt8>) throws(CarrierFailure) {
        do throws(Errno) {
            try Descriptor.writeAll(output, bytes)
        } catch {
            if error == .brokenPipe || error == .connectionReset { throw .ended }
            throw .failed(error.message)
        }
    }

    func hasAnswer() throws(CarrierFailure) -> Bool {
        guard let answers else { return false }
        do throws(Errno) {
            return try Descriptor.isReadable(answers)
        } catch {
            throw .failed(error.message)
        }
    }

    func readAnswer(
        into buffer: inout [UInt8], at offset: Int, count: Int
    ) throws(CarrierFailure) -> Int {
        guard let answers else { return 0 }
        do throws(Errno) {
            return try Descriptor.read(answers, into: &buffer, at: offset, count: count)
        } catch {
            if error == .connectionReset { return 0 }
            throw .failed(error.message)
        }
    }
}

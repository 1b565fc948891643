import Glibc
import LinuxSystem
import SystemPackage

/// The service `qubes.GetDate`: the time of this machine in UTC (specification 16.2).
public enum GetDateService {
    /// - Parameter arguments: all of argv; the argument `nanoseconds` or `ns` asks for those.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.GetDate")
        let precise: Bool
        switch arguments.dropFirst().first ?? "" {
        case "", "seconds": precise = false
        case "nanoseconds", "ns": precise = true
        default:
            complain(program, "expected no argument, nanoseconds or ns")
            return 1
        }
        let now = CurrentProcess.wallClock
        let date = DateText(seconds: now.seconds, nanoseconds: now.nanoseconds)
        do throws(Errno) {
            try Descriptor.writeAll(
                Array((date.text(withNanoseconds: precise) + "\n").utf8), to: 1)
            return 0
        } catch {
            return 1
        }
    }
}

/// The service `qubes.SetDateTime`: sets the clock to the date in the first line of standard input,
/// which has the form that `qubes.GetDate` gives. A clock that is right already is left alone: it
/// would only jump. Exit status: 0 when the clock is right, 1 otherwise.
public enum SetDateTimeService {
    /// Seconds that a clock may be wrong: the date was a while on its way.
    private static let tolerance = 2
    private static let maximumLine = 64

    /// - Parameter arguments: all of argv; the service takes none.
    public static func run(arguments: [String]) -> Int32 {
        let program = programName(arguments.first ?? "qubes.SetDateTime")
        guard arguments.count < 2 || arguments[1].isEmpty else {
            complain(program, "this service takes no argument")
            return 1
        }
        guard let line = StandardInput.line(limit: maximumLine), let date = DateText(line) else {
            complain(program, "expected one line with a date like 2026-11-21T15:10:20+00:00")
            return 1
        }
        let now = CurrentProcess.wallClock
        if abs(date.seconds - now.seconds) <= tolerance { return 0 }
        do throws(Errno) {
            try CurrentProcess.setWallClock(
                seconds: date.seconds, nanoseconds: date.nanoseconds)
            return 0
        } catch {
            complain(program, "the clock cannot be set: \(error.message)")
            return 1
        }
    }
}

/// What a caller sends, in bounds.
enum StandardInput {
    /// The first line, without its end, or what there is when the input ends first; nil when it is
    /// longer than `limit` bytes, is no UTF-8 or cannot be read.
    static func line(limit: Int) -> String? {
        var bytes: [UInt8] = []
        var byte: [UInt8] = [0]
        while true {
            // One byte at a time: what follows the line belongs to others.
            guard let got = try? Descriptor.read(0, into: &byte, at: 0, count: 1) else {
                return nil
            }
            if got == 0 || byte[0] == 0x0A { break }
            if bytes.count == limit { return nil }
            bytes.append(byte[0])
        }
        return String(validating: bytes, as: UTF8.self)
    }
}

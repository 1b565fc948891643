import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Calls of qubesd's socket protocol (specification 14) by tools of dom0, which have time to wait.
struct QubesdQuery {
    /// Why there was no result.
    enum Failure: Error, Equatable {
        /// qubesd's own error: its class and text.
        case refused(type: String, text: String)
        case unreachable(String)

        var text: String {
            switch self {
            case .refused(let type, let text): text.isEmpty ? type : text
            case .unreachable(let reason): "qubesd: \(reason)"
            }
        }
    }

    var path = CurrentProcess.variable("QUBESD_SOCKET") ?? "/var/run/qubesd.sock"
    /// Starting a qube takes its time.
    var timeout = seconds(180)

    private static let maximumAnswer = 1 << 20

    /// Calls `METHOD+ARGUMENT` on a qube and returns the data of its answer.
    ///
    /// - Parameter source: who wants it.
    func call(
        _ method: String, argument: String = "", from source: String = "dom0",
        on destination: String, payload: [UInt8] = []
    ) throws(Failure) -> String {
        let request = "\(method)+\(argument) \(source) name \(destination)"
        let answer: [UInt8]
        do throws(Errno) {
            answer = try TimedExchange.ask(
                path, Array(request.utf8) + [0] + payload, limit: Self.maximumAnswer,
                timeout: timeout)
        } catch {
            throw .unreachable("\(path): \(error.message)")
        }
        return try Self.parse(answer).get()
    }

    /// A feature of a qube, or of its template.
    ///
    /// - Returns: its value, nil when it is not set, and whether anybody could tell.
    func feature(_ name: String, of qube: String) -> (value: String?, isKnown: Bool) {
        for method in ["admin.vm.feature.CheckWithTemplate", "admin.vm.feature.Get"] {
            do throws(Failure) {
                return (try call(method, argument: name, on: qube), true)
            } catch .refused(type: "QubesFeatureNotFoundError", text: _) {
                return (nil, true)
            } catch .refused(type: "QubesNoSuchMethodError", text: _) {
                continue
            } catch {
                break
            }
        }
        return (nil, false)
    }

    static func parse(_ answer: [UInt8]) -> Result<String, Failure> {
        if answer.starts(with: [0x30, 0]) {
            return .success(String(decoding: answer.dropFirst(2), as: UTF8.self))
        }
        guard answer.starts(with: [0x32, 0]) else {
            return .failure(.unreachable("it gave no answer"))
        }
        let fields = answer.dropFirst(2).split(separator: 0, omittingEmptySubsequences: false)
            .map { String(decoding: $0, as: UTF8.self) }
        guard fields.count >= 3 else { return .failure(.unreachable("its answer is none")) }
        // Class, traceback, format with %s or %r for each of the arguments that follow.
        var text = ""
        var arguments = fields.dropFirst(3)
        var rest = fields[2][...]
        while let character = rest.popFirst() {
            if character == "%", let code = rest.first, code == "s" || code == "r" || code == "d" {
                rest.removeFirst()
                text += arguments.popFirst() ?? ""
            } else {
                text.append(character)
            }
        }
        return .failure(.refused(type: fields[0], text: LogText.line(text)))
    }
}

/// One question and one answer over a local socket, in bounds.
enum TimedExchange {
    /// Connects, sends, ends the writing direction, and reads to the end.
    ///
    /// - Parameters:
    ///   - limit: bytes of the answer; more are `EFBIG`.
    ///   - timeout: nanoseconds for all of it; `ETIMEDOUT` behind.
    static func ask(
        _ path: String, _ request: [UInt8], limit: Int, timeout: UInt64
    ) throws(Errno) -> [UInt8] {
        let deadline = CurrentProcess.now + timeout
        let socket = try UnixSocket.connect(path)
        var sent = 0
        while sent < request.count {
            do throws(Errno) {
                sent += try UnixSocket.send(
                    socket.number, request.span.extracting(droppingFirst: sent))
            } catch .resourceTemporarilyUnavailable {
                try wait(for: socket.number, .writable, until: deadline)
            }
        }
        UnixSocket.shutdown(socket.number, writing: true)
        return try BoundedRead.all(of: socket.number, limit: limit, deadline: deadline)
    }

    fileprivate static func wait(
        for number: Int32, _ interest: Readiness, until deadline: UInt64
    ) throws(Errno) {
        let now = CurrentProcess.now
        if now >= deadline { throw .timedOut }
        var poll = PollSet()
        poll.add(number, interest)
        let time = Int32(min((deadline - now) / 1_000_000 + 1, 3_600_000))
        if try !poll.wait(milliseconds: time) { throw .timedOut }
    }
}

/// Reading what somebody sends who need not be honest: neither for ever nor without end.
enum BoundedRead {
    /// Reads to the end.
    ///
    /// - Parameters:
    ///   - limit: more bytes are `EFBIG`.
    ///   - deadline: of `CurrentProcess.now`; `ETIMEDOUT` behind.
    static func all(
        of number: Int32, limit: Int, deadline: UInt64
    ) throws(Errno) -> [UInt8] {
        var result: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: min(limit + 1, 65536))
        while true {
            try TimedExchange.wait(for: number, .readable, until: deadline)
            let got: Int
            do throws(Errno) {
                got = try Descriptor.read(number, into: &buffer, at: 0, count: buffer.count)
            } catch .resourceTemporarilyUnavailable {
                continue
            }
            if got == 0 { return result }
            if result.count + got > limit { throw .fileTooLarge }
            result += buffer[..<got]
        }
    }
}

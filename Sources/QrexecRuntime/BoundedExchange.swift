import LinuxSystem
public import SystemPackage

/// One question and one answer over a local socket, in bounds; for programs that have time to wait.
public enum TimedExchange {
    /// Connects, sends, ends the writing direction, and reads to the end.
    ///
    /// - Parameters:
    ///   - limit: bytes of the answer; more are `EFBIG`.
    ///   - timeout: nanoseconds for all of it; `ETIMEDOUT` behind. nil waits as long as it takes.
    public static func ask(
        _ path: String, _ request: [UInt8], limit: Int, timeout: UInt64?
    ) throws(Errno) -> [UInt8] {
        let deadline = timeout.map { CurrentProcess.now + $0 } ?? .max
        let socket = try begin(path, request, deadline: deadline)
        return try BoundedRead.all(of: socket.number, limit: limit, deadline: deadline)
    }

    /// Connects, sends and ends the writing direction; the answer is the caller's to read.
    ///
    /// - Parameter deadline: of `CurrentProcess.now`; `ETIMEDOUT` behind.
    static func begin(
        _ path: String, _ request: [UInt8], deadline: UInt64
    ) throws(Errno) -> Descriptor {
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
        return socket
    }

    fileprivate static func wait(
        for number: Int32, _ interest: Readiness, until deadline: UInt64
    ) throws(Errno) {
        while true {
            let now = CurrentProcess.now
            if now >= deadline { throw .timedOut }
            var poll = PollSet()
            poll.add(number, interest)
            let time = Int32(min((deadline - now) / 1_000_000 + 1, 3_600_000))
            if try poll.wait(milliseconds: time) { return }
        }
    }
}

/// Reading what somebody sends who need not be honest: neither for ever nor without end.
public enum BoundedRead {
    /// Reads to the end.
    ///
    /// - Parameters:
    ///   - limit: more bytes are `EFBIG`.
    ///   - deadline: of `CurrentProcess.now`; `ETIMEDOUT` behind.
    public static func all(
        of number: Int32, limit: Int, deadline: UInt64
    ) throws(Errno) -> [UInt8] {
        var result: [UInt8] = []
        while true {
            let more = try some(of: number, limit: limit - result.count, deadline: deadline)
            if more.isEmpty { return result }
            result += more
        }
    }

    /// Waits for the next bytes; none are the end.
    ///
    /// - Parameter limit: more bytes are `EFBIG`.
    static func some(
        of number: Int32, limit: Int, deadline: UInt64
    ) throws(Errno) -> ArraySlice<UInt8> {
        var buffer = [UInt8](repeating: 0, count: min(limit + 1, 65536))
        while true {
            try TimedExchange.wait(for: number, .readable, until: deadline)
            do throws(Errno) {
                let got = try Descriptor.read(number, into: &buffer, at: 0, count: buffer.count)
                if got > limit { throw .fileTooLarge }
                return buffer[..<got]
            } catch .resourceTemporarilyUnavailable {}
        }
    }
}

import Glibc
import LinuxSystem
import SystemPackage

/// A program that may neither run for ever nor say more than is wanted.
enum BoundedProgram {
    struct Result {
        /// At most one byte more than the limit.
        var output: [UInt8]
        /// nil when it was killed, for its time or its output.
        var status: Int32?
    }

    /// Runs it and takes its output.
    ///
    /// - Parameters:
    ///   - request: its descriptors are set here.
    ///   - limit: bytes of output; behind, the program is killed.
    ///   - deadline: of `CurrentProcess.now`; behind, the program is killed.
    static func run(
        _ request: inout SpawnRequest, input: Int32, errors: Int32, limit: Int, deadline: UInt64
    ) throws(Errno) -> Result {
        let pipe = try Descriptor.pipe()
        request.descriptors = [input, pipe.second.number, errors]
        request.diesWithParent = true
        let child = try ChildProcess.spawn(request)
        let reading = try endOfReading(pipe)
        var output: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while output.count <= limit {
            let left = milliseconds(until: deadline)
            let isReady = try Descriptor.isReadable(reading.number, milliseconds: left)
            if left == 0 || !isReady {
                try end(child)
                return Result(output: output, status: nil)
            }
            let room = min(buffer.count, limit + 1 - output.count)
            let got = try reading.read(into: &buffer, at: 0, count: room)
            if got == 0 {
                return Result(output: output, status: try wait(for: child, until: deadline))
            }
            output += buffer[..<got]
        }
        try end(child)
        return Result(output: output, status: nil)
    }

    /// Waits for the end of a program; behind the deadline it is killed and the answer nil.
    static func wait(
        for child: consuming ChildProcess, until deadline: UInt64
    ) throws(Errno) -> Int32? {
        let left = milliseconds(until: deadline)
        if try Descriptor.isReadable(child.pidfd.number, milliseconds: left) {
            return try child.reap()
        }
        try end(child)
        return nil
    }

    private static func end(_ child: consuming ChildProcess) throws(Errno) {
        child.signal(SIGKILL)
        _ = try child.reap()
    }

    /// Closes the end to write to.
    private static func endOfReading(
        _ pipe: consuming DescriptorPair
    ) throws(Errno) -> Descriptor {
        try pipe.first.duplicate()
    }

    private static func milliseconds(until deadline: UInt64) -> Int32 {
        let now = CurrentProcess.now
        return now >= deadline ? 0 : Int32(min((deadline - now) / 1_000_000 + 1, 3_600_000))
    }
}

import BenchmarkReport
import Foundation
import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

/// Figures of the service, against a bare echo over the same kind of socket.
struct OverSocket {
    let directory: String
    let program: String
    let daemon: String

    func run(_ report: inout Report) throws {
        let workload = Workload(rules: 10_000, qubes: 200)
        let place = directory + "/policy.d"
        try? FileManager.default.removeItem(atPath: place)
        try FileManager.default.createDirectory(
            atPath: place, withIntermediateDirectories: true)
        try workload.policy.write(
            toFile: place + "/30-user.policy", atomically: false, encoding: .utf8)
        let echo = try Helper(program, ["--echo", directory + "/echo.sock"])
        let qubesd = try Helper(program, ["--qubesd", directory, "200"])
        try wait(for: [directory + "/echo.sock", directory + "/qubesd.internal.sock"])
        let service = try Helper(
            daemon,
            [
                "qrexec-policy-daemon", "--policy-path", place,
                "--socket-path", directory + "/policy.sock",
                "--eval-socket-path", directory + "/eval.sock",
                "--gui-socket-path", directory + "/gui.sock",
            ],
            environment: [
                "QUBESD_SOCKET": directory + "/qubesd.sock",
                "QUBESD_INTERNAL_SOCKET": directory + "/qubesd.internal.sock",
            ])
        try wait(for: [directory + "/policy.sock"])
        try withExtendedLifetime((echo, qubesd)) {
            try measure(&report, workload)
            try measureTiming(&report)
            report.add(
                "memory of the service, 10000 rules, 200 qubes", service.memory, "MB", atMost: 15)
            try measureReload(&report, workload, place)
        }
    }

    private func wait(for paths: [String]) throws {
        for path in paths {
            var tries = 0
            while (try? UnixSocket.connect(path)) == nil {
                tries += 1
                if tries > 1000 { throw Errno.timedOut }
                usleep(10_000)
            }
        }
    }

    /// One exchange as a daemon makes it: connect, send, read to the end.
    ///
    /// - Returns: its nanoseconds, and the answer's bytes.
    private func exchange(_ socket: String, _ request: [UInt8]) throws -> (Double, [UInt8]) {
        let start = CurrentProcess.now
        let connection = try UnixSocket.connect(socket)
        try connection.setNonblocking(false)
        try connection.writeAll(request)
        let answer = try connection.readAll(limit: 8192)
        return (Double(CurrentProcess.now - start), answer)
    }

    private func text(_ request: Workload.Request) -> [UInt8] {
        Array("source=".utf8) + request.source + Array("\nintended_target=".utf8) + request.target
            + Array("\nservice_and_arg=".utf8) + request.service + Array("\n\n".utf8)
    }

    private func measure(_ report: inout Report, _ workload: Workload) throws {
        let requests = workload.requests(4_000).map(text)
        var bare: [Double] = []
        var decided: [Double] = []
        for request in requests {
            bare.append(try exchange(directory + "/echo.sock", request).0)
            let (time, answer) = try exchange(directory + "/policy.sock", request)
            precondition(!answer.isEmpty, "no answer")
            decided.append(time)
        }
        report.add("bare echo over the socket", median(bare) / 1e3, "µs")
        report.add(
            "decision over the socket, 10000 rules, 200 qubes", median(decided) / 1e3, "µs",
            atMost: 2, ratio: median(decided) / median(bare), against: "bare echo")
        let start = CurrentProcess.now
        for request in requests { _ = try exchange(directory + "/policy.sock", request) }
        let seconds = Double(CurrentProcess.now - start) / 1e9
        report.add("decisions a second over the socket", Double(requests.count) / seconds, "1/s")
    }

    /// A target that is forbidden and one that does not exist must not be told apart.
    private func measureTiming(_ report: inout Report) throws {
        func request(_ target: String) -> [UInt8] {
            text(
                Workload.Request(
                    source: Array("qube-1".utf8), target: Array(target.utf8),
                    service: Array("bench.Nothing".utf8)))
        }
        let forbidden = request("qube-2")
        let missing = request("qube-x")
        var first: [Double] = []
        var second: [Double] = []
        for _ in 0..<10_000 {
            first.append(try exchange(directory + "/policy.sock", forbidden).0)
            second.append(try exchange(directory + "/policy.sock", missing).0)
        }
        let ratio = median(first) / median(second)
        report.add("refused, target forbidden", median(first) / 1e3, "µs")
        report.add("refused, target does not exist", median(second) / 1e3, "µs")
        report.add(
            "difference of the two", abs(ratio - 1) * 100, "%", atMost: 2)
    }

    private func measureReload(
        _ report: inout Report, _ workload: Workload, _ place: String
    ) throws {
        let requests = workload.requests(200).map(text)
        var lost = 0
        var slowest = 0.0
        for (index, request) in requests.enumerated() {
            if index % 10 == 0 {
                try "# \(index)\n".write(
                    toFile: place + "/20-other.policy", atomically: false, encoding: .utf8)
            }
            let (time, answer) = try exchange(directory + "/policy.sock", request)
            if answer.isEmpty { lost += 1 }
            slowest = max(slowest, time)
        }
        report.add("requests lost while policy is read again", Double(lost), "", atMost: 0)
        report.add("slowest request while 10000 rules are read again", slowest / 1e6, "ms")
    }
}

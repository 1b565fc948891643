import BenchmarkReport
import Foundation

/// File copy against tar, in the same lab and the same minutes: the best of three of each.
struct FileCopyBenchmark {
    let lab: BenchmarkLab

    /// Whether a tenth of the work is enough.
    let quick: Bool

    private static let rounds = 3

    private struct Cost {
        var seconds = Double.infinity
        var processor = Double.infinity

        mutating func take(_ other: Cost) {
            seconds = min(seconds, other.seconds)
            processor = min(processor, other.processor)
        }
    }

    /// The C program of the ring's benchmark; nil leaves its figure out.
    let reference: String?

    func run(_ report: inout Report) throws {
        try makeFiles()
        let large = try compare("large", withReference: true)
        let small = try compare("small", withReference: false)
        let tar = "tar -b 512 | tar -b 512"
        let megabytes = Double(size) / 1e6
        report.add(
            "copy of one file of \(size >> 20) MiB", megabytes / large.copy.seconds, "MB/s",
            atLeast: 0.9, ratio: large.tar.seconds / large.copy.seconds, against: tar)
        report.add("tar of the same", megabytes / large.tar.seconds, "MB/s")
        if large.reference.seconds.isFinite {
            report.add(
                "C copy of the same: pipe, libxenvchan, pipe",
                megabytes / large.reference.seconds, "MB/s")
            report.add(
                "copy against the C copy", megabytes / large.copy.seconds, "MB/s", atLeast: 0.7,
                ratio: large.reference.seconds / large.copy.seconds, against: "the C copy")
        }
        report.add(
            "processor time of that copy", large.copy.processor, "s", atMost: 1.3,
            ratio: large.copy.processor / large.tar.processor, against: "tar")
        report.add("processor time of tar", large.tar.processor, "s")
        report.add(
            "copy of \(files) files of 4 KiB", Double(files) / small.copy.seconds, "files/s",
            atLeast: 1, ratio: small.tar.seconds / small.copy.seconds, against: tar)
        report.add("tar of the same", Double(files) / small.tar.seconds, "files/s")
        report.add(
            "processor time of that copy", small.copy.processor, "s",
            ratio: small.copy.processor / small.tar.processor, against: "tar")
        try memory(&report)
    }

    private var size: Int { quick ? 256 << 20 : 2 << 30 }
    private var files: Int { quick ? 2000 : 20_000 }

    private func makeFiles() throws {
        try lab.run(
            "work",
            """
            head -c \(size) /dev/urandom > large
            for i in $(seq 40); do mkdir -p small/$i
                head -c \(files / 40 * 4096) /dev/urandom | split -b 4096 -a 3 - small/$i/f
            done
            """)
    }

    private struct Comparison {
        var copy = Cost()
        var tar = Cost()
        var reference = Cost()
    }

    private func compare(_ name: String, withReference: Bool) throws -> Comparison {
        var best = Comparison()
        // The first round only warms the memory.
        for round in 0...Self.rounds {
            let tar = try time(
                "mkdir -p o; tar -b 512 -cf - \(name) | tar -b 512 -xf - -C o; sync -f o")
            try lab.run("work", "rm -rf o")
            let copy = try time("qvm-copy-to-vm --without-progress personal \(name)")
            try lab.run("personal", "rm -rf QubesIncoming")
            let plain = withReference ? try reference.map { try copyInC($0, name) } : nil
            if round == 0 { continue }
            best.copy.take(copy)
            best.tar.take(tar)
            if let plain { best.reference.take(plain) }
        }
        return best
    }

    /// The same path in C: a pipe into the ring of libxenvchan, and a pipe out of it.
    private func copyInC(_ program: String, _ name: String) throws -> Cost {
        let target = "\(lab.state)/copied"
        let outcome = try BenchmarkLab.runHere(
            """
            set -e -o pipefail; TIMEFORMAT='%R %U %S'
            time { cat \(lab.home("work"))/\(name) |
                \(program) library pump 65536 65536 \(size) -1 -1 3>&2 | cat > \(target)
                sync -f \(target); }
            rm \(target)
            """)
        let fields = outcome.error.split(separator: "\n").last?.split(separator: " ") ?? []
        let numbers = fields.compactMap { Double($0) }
        guard numbers.count == 3 else {
            throw BenchmarkLab.Failure(description: "no time in: \(outcome.error)")
        }
        return Cost(seconds: numbers[0], processor: numbers[1] + numbers[2])
    }

    /// Runs a command in qube work; its time is taken there.
    private func time(_ command: String) throws -> Cost {
        let before = lab.processorTime()
        let outcome = try lab.run("work", "set -e -o pipefail; TIMEFORMAT=%R; time { \(command); }")
        let after = lab.processorTime()
        guard let line = outcome.error.split(separator: "\n").last, let seconds = Double(line)
        else {
            throw BenchmarkLab.Failure(description: "no time in: \(outcome.error)")
        }
        return Cost(seconds: seconds, processor: after - before)
    }

    /// The largest resident memory of sender and receiver, whatever the tree.
    private func memory(_ report: inout Report) throws {
        for (name, tree) in [("one large file", "large"), ("20,000 files", "small")] {
            let peak = try peak(of: "qvm-copy-to-vm --without-progress personal \(tree)")
            report.add("memory of the sender, \(name)", peak.sender, "MB", atMost: 8)
            report.add("memory of the receiver, \(name)", peak.receiver, "MB", atMost: 8)
            try lab.run("personal", "rm -rf QubesIncoming")
        }
    }

    /// Megabytes that two processes held at most: the copy in qube work, and its receiver.
    private func peak(of command: String) throws -> (sender: Double, receiver: Double) {
        // Prints the peak of process $1 when that has ended.
        let look = """
            look() { m=0; while v=$(awk '/^VmHWM/ {print $2}' /proc/$1/status 2>/dev/null); do
                [ "${v:-0}" -gt $m ] && m=$v; sleep 0.005; done; echo $m; }
            """
        let receiver = Thread.detachedResult {
            try lab.run(
                "personal",
                look + "; until p=$(pgrep -x qubes.Filecopy); do sleep 0.005; done; look $p")
        }
        let sender = try lab.run("work", look + "; \(command) & p=$!; look $p; wait $p")
        return (Self.megabytes(sender), Self.megabytes(try receiver()))
    }

    private static func megabytes(_ outcome: BenchmarkLab.Outcome) -> Double {
        let text = outcome.output.trimmingCharacters(in: .whitespacesAndNewlines)
        return Double(text).map { $0 * 1024 / 1e6 } ?? .nan
    }
}

extension Thread {
    /// Runs something on a thread of its own; the result is waited for when asked.
    fileprivate static func detachedResult<Value: Sendable>(
        _ body: @escaping @Sendable () throws -> Value
    ) -> () throws -> Value {
        let box = ResultBox<Value>()
        Thread.detachNewThread {
            box.result = Result { try body() }
            box.done.signal()
        }
        return {
            box.done.wait()
            return try box.result!.get()
        }
    }
}

/// Written by one thread before the other reads: the semaphore is in between.
private final class ResultBox<Value: Sendable>: @unchecked Sendable {
    var result: Result<Value, any Error>?
    let done = DispatchSemaphore(value: 0)
}

import BenchmarkReport
import Foundation

/// File copy against tar, in the same lab and the same minutes: the best of three of each.
struct FileCopyBenchmark {
    let lab: BenchmarkLab

    private static let rounds = 3
    private static let large = 2 << 30
    private static let files = 20_000

    private struct Cost {
        var seconds = Double.infinity
        var processor = Double.infinity

        mutating func take(_ other: Cost) {
            seconds = min(seconds, other.seconds)
            processor = min(processor, other.processor)
        }
    }

    func run(_ report: inout Report) throws {
        try lab.run("work", "head -c \(Self.large) /dev/urandom > large")
        try lab.run(
            "work",
            """
            for i in $(seq 40); do mkdir -p small/$i
                head -c \(Self.files / 40 * 4096) /dev/urandom | split -b 4096 -a 3 - small/$i/f
            done
            """)
        let (largeCopy, largeTar) = try compare("large")
        let (smallCopy, smallTar) = try compare("small")
        let megabytes = Double(Self.large) / 1e6
        report.add(
            "copy of one file of 2 GiB", megabytes / largeCopy.seconds, "MB/s", atLeast: 0.9,
            ratio: largeTar.seconds / largeCopy.seconds, against: "tar -b 512 | tar -b 512")
        report.add("tar of the same", megabytes / largeTar.seconds, "MB/s")
        report.add(
            "processor time of that copy", largeCopy.processor, "s", atMost: 1.3,
            ratio: largeCopy.processor / largeTar.processor, against: "tar")
        report.add("processor time of tar", largeTar.processor, "s")
        report.add(
            "copy of 20,000 files of 4 KiB", Double(Self.files) / smallCopy.seconds, "files/s",
            atLeast: 1, ratio: smallTar.seconds / smallCopy.seconds,
            against: "tar -b 512 | tar -b 512")
        report.add("tar of the same", Double(Self.files) / smallTar.seconds, "files/s")
        try memory(&report)
    }

    private func compare(_ name: String) throws -> (copy: Cost, tar: Cost) {
        var copy = Cost()
        var tar = Cost()
        // The first round only warms the memory.
        for round in 0...Self.rounds {
            let tarNow = try time(
                "mkdir -p o; tar -b 512 -cf - \(name) | tar -b 512 -xf - -C o; sync -f o")
            try lab.run("work", "rm -rf o")
            let copyNow = try time("qvm-copy-to-vm --without-progress personal \(name)")
            try lab.run("personal", "rm -rf QubesIncoming")
            if round == 0 { continue }
            copy.take(copyNow)
            tar.take(tarNow)
        }
        return (copy, tar)
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

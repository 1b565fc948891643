import LinuxSystem
import QrexecRuntime
import SystemPackage

/// Times in nanoseconds, reported as `p50 N`, `p99 N`.
struct Samples {
    var times: [UInt64] = []

    func percentile(_ percent: Int) -> UInt64 {
        let sorted = times.sorted()
        return sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, sorted.count * percent / 100)]
    }

    func report() {
        Terminal.print("p50 \(percentile(50))\np99 \(percentile(99))")
    }
}

/// What calls are compared with.
enum Yardstick {
    /// This program, here and in a qube.
    static let program = FileStatus.linkText("/proc/self/exe") ?? "/usr/local/bin/calls-load"

    static func start(
        _ command: [String], _ descriptors: [Int32?]
    ) throws(Errno) -> ChildProcess {
        let name = command[0].split(separator: "/").last.map(String.init) ?? command[0]
        var request = SpawnRequest(
            path: command[0], arguments: [name] + command.dropFirst(),
            environment: Client.environment)
        request.descriptors = descriptors
        return try ChildProcess.spawn(request)
    }

    /// One program after the other, started and waited for: each command in turn, so that a busy
    /// machine is equally busy for all of them.
    static func spawn(count: Int, _ commands: [String]) throws(Errno) {
        let null = try Descriptor.open("/dev/null", 2)
        let parsed = commands.map { $0.split(separator: " ").map(String.init) }
        var samples = [Samples](repeating: Samples(), count: parsed.count)
        for _ in 0..<count {
            for (index, command) in parsed.enumerated() {
                let begin = CurrentProcess.now
                let child = try start(command, [null.number, null.number, null.number])
                guard try child.reap() == 0 else { throw .invalidArgument }
                samples[index].times.append(CurrentProcess.now - begin)
            }
        }
        for sample in samples { sample.report() }
    }

    /// A ring of 12 processes, this one among them, that pass one byte along.
    static func chain(rounds: Int) throws(Errno) {
        let first = try Descriptor.pipe()
        var input = first.first
        let write = first.second
        let links = LinkList()
        for _ in 0..<11 {
            let next = try Descriptor.pipe()
            links.children.append(
                Link(try start([program, "chain-link"], [input.number, next.second.number, 2])))
            input = next.first
        }
        var samples = Samples()
        var byte: [UInt8] = [0]
        for _ in 0..<rounds {
            let begin = CurrentProcess.now
            try write.writeAll(byte)
            guard try input.read(into: &byte) == 1 else { throw .brokenPipe }
            samples.times.append(CurrentProcess.now - begin)
        }
        _ = consume write
        for link in links.children { _ = try link.child.take()?.reap() }
        samples.report()
    }

    static func passOn() throws(Errno) {
        let input = try Descriptor.duplicate(of: 0)
        var byte: [UInt8] = [0]
        while try input.read(into: &byte) == 1 { try Descriptor.writeAll(byte, to: 1) }
    }
}

/// A child in an array.
final class Link {
    var child: ChildProcess?

    init(_ child: consuming ChildProcess) { self.child = consume child }
}

final class LinkList {
    var children: [Link] = []
}

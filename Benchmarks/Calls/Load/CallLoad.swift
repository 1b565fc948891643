import LinuxSystem
import QrexecClient
import QrexecRuntime
import SystemPackage

/// Calls through a client process each, so many at a time.
struct CallLoad {
    let parallel: Int
    let count: Int
    let target: String
    let service: String
    /// What a call that is not lost ends with.
    let status: Int32

    init(_ arguments: [String]) throws(Errno) {
        guard let parallel = Int(arguments[0]), let count = Int(arguments[1]),
            let status = Int32(arguments[4]), parallel > 0
        else { throw .invalidArgument }
        self.parallel = parallel
        self.count = count
        self.status = status
        target = arguments[2]
        service = arguments[3]
    }

    /// A call that has not ended by then is lost.
    static let patience: Int32 = 30_000

    private final class Call {
        var child: ChildProcess?
        var begin: UInt64 = 0
    }

    func run() throws(Errno) {
        let null = try Descriptor.open("/dev/null", 2)
        var epoll = try Epoll()
        let calls = (0..<min(parallel, count)).map { _ in Call() }
        var samples = Samples()
        var wrong = 0
        var lost = 0
        var started = 0
        let begin = CurrentProcess.now
        func start(_ index: Int) throws(Errno) {
            started += 1
            calls[index].begin = CurrentProcess.now
            let child = try Yardstick.start(
                Client.command(target, service), [null.number, null.number, null.number])
            try epoll.add(child.pidfd.number, .readable, tag: UInt64(index))
            calls[index].child = consume child
        }
        for index in calls.indices { try start(index) }
        while samples.times.count + lost < count {
            let ready = try epoll.wait(milliseconds: Self.patience)
            if ready == 0 {
                lost = started - samples.times.count
                for call in calls { call.child?.signal(9) }
                break
            }
            for event in 0..<ready {
                let index = Int(epoll.event(event).tag)
                guard let child = calls[index].child.take() else { continue }
                try epoll.remove(child.pidfd.number)
                if try child.reap() != status { wrong += 1 }
                samples.times.append(CurrentProcess.now - calls[index].begin)
                if started < count { try start(index) }
            }
        }
        report(samples, wrong: wrong, lost: lost, CurrentProcess.now - begin)
    }

    func report(_ samples: Samples, wrong: Int, lost: Int, _ duration: UInt64) {
        samples.report()
        Terminal.print("wrong \(wrong)\nlost \(lost)\nduration \(duration)")
        Terminal.print("own_cpu \(ResourceUsage(of: .itself).cpuMicroseconds)")
        Terminal.print("child_cpu \(ResourceUsage(of: .reapedChildren).cpuMicroseconds)")
        Terminal.print("child_switches \(ResourceUsage(of: .reapedChildren).contextSwitches)")
    }
}

/// Calls by processes that live on: each speaks to the agent itself, one call after the other.
struct LongLivedLoad {
    let load: CallLoad

    init(_ load: CallLoad) { self.load = load }

    func run() throws(Errno) {
        let null = try Descriptor.open("/dev/null", 2)
        let workers = LinkList()
        let pipe = try Descriptor.pipe()
        let each = String(load.count / load.parallel)
        let begin = CurrentProcess.now
        for _ in 0..<load.parallel {
            let command = [
                Client.worker, "worker", "1", each, load.target, load.service,
                String(load.status),
            ]
            let descriptors: [Int32?] = [
                null.number, null.number, null.number, pipe.second.number,
            ]
            workers.children.append(Link(try Yardstick.start(command, descriptors)))
        }
        _ = consume pipe.second
        let text = try pipe.first.readAll(limit: 1 << 28)
        let duration = CurrentProcess.now - begin
        for worker in workers.children { _ = try worker.child.take()?.reap() }
        var samples = Samples()
        var wrong = 0
        for line in String(decoding: text, as: UTF8.self).split(separator: "\n") {
            guard let time = Int(line) else { continue }
            if time < 0 { wrong += 1 }
            samples.times.append(UInt64(abs(time)))
        }
        let lost = load.count / load.parallel * load.parallel - samples.times.count
        load.report(samples, wrong: wrong, lost: lost, duration)
    }

    /// One such process: a line with the time of each call to descriptor 3, negative where the call
    /// ended with another status.
    func work() throws(Errno) {
        var text = ""
        let command = ["calls-load"] + Client.options + [load.target, load.service]
        for _ in 0..<load.count {
            let begin = CurrentProcess.now
            let status = ClientVM.run(arguments: command)
            let time = CurrentProcess.now - begin
            text += status == load.status ? "\(time)\n" : "-\(time)\n"
            // Short enough to reach the pipe in one piece, beside those of the others.
            if text.utf8.count > 3000 {
                try Descriptor.writeAll(Array(text.utf8), to: 3)
                text = ""
            }
        }
        try Descriptor.writeAll(Array(text.utf8), to: 3)
    }
}

/// Calls that are kept open until standard input ends.
enum HeldCalls {
    private final class Held {
        let call: Link
        var input: Descriptor?

        init(_ call: Link, _ input: consuming Descriptor) {
            self.call = call
            self.input = consume input
        }
    }

    static func run(count: Int, target: String, _ service: String) throws(Errno) {
        var held: [Held] = []
        for _ in 0..<count {
            let input = try Descriptor.pipe()
            let output = try Descriptor.pipe()
            let child = try Yardstick.start(
                Client.command(target, service), [input.first.number, output.second.number, 2])
            _ = consume output.second
            held.append(Held(Link(child), input.second))
            var byte: [UInt8] = [0]
            guard try output.first.read(into: &byte) == 1 else { throw .connectionRefused }
        }
        Terminal.print("open \(count)")
        _ = try Descriptor.duplicate(of: 0).readAll(limit: 1 << 16)
        for one in held {
            one.input = nil
            _ = try one.call.child.take()?.reap()
        }
    }
}

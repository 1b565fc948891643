import Glibc
import LinuxSystem
import SystemPackage
import Testing

@testable import QrexecRuntime

@Suite struct EventLoops {
    @Test func timersFireOnceInTheOrderOfTheirTimes() throws {
        let loop = try EventLoop()
        var fired: [Int] = []
        loop.schedule(after: milliseconds(3)) { fired.append(3) }
        loop.schedule(after: 0) { fired.append(1) }
        loop.schedule(after: milliseconds(2)) { fired.append(2) }
        let cancelled = loop.schedule(after: milliseconds(1)) { fired.append(9) }
        loop.cancel(cancelled)
        loop.cancel(cancelled)
        loop.schedule(after: milliseconds(5)) { loop.stop() }
        try loop.run()
        #expect(fired == [1, 2, 3])
    }

    @Test func aTimerMayCancelAndScheduleOthers() throws {
        let loop = try EventLoop()
        var fired: [String] = []
        var second: EventLoop.Timer?
        loop.schedule(after: 0) {
            fired.append("a")
            loop.cancel(second!)
            loop.schedule(after: 0) {
                fired.append("c")
                loop.stop()
            }
        }
        second = loop.schedule(after: 0) { fired.append("b") }
        try loop.run()
        #expect(fired == ["a", "c"])
    }

    @Test func actionsThatAlwaysComeAgainStarveNobody() throws {
        let loop = try EventLoop()
        let pipe = try Descriptor.pipe()
        var (rounds, timerFired, readable) = (0, false, false)
        func again() {
            rounds += 1
            if rounds < 1_000_000, !(timerFired && readable) { loop.defer { again() } }
        }
        again()
        loop.schedule(after: milliseconds(1)) { timerFired = true }
        try loop.watch(pipe.first.number, .readable) { _ in
            readable = true
            loop.unwatch(pipe.first.number)
        }
        try pipe.second.writeAll([1])
        try run(loop) { rounds >= 1_000_000 || timerFired && readable }
        #expect(timerFired && readable)
        #expect(rounds < 1_000_000)
        loop.unwatch(pipe.first.number)
    }

    @Test func aFileIsAlwaysReadyWhileSomebodyWantsIt() throws {
        let scene = try Scene()
        try scene.makeFile("f", "x")
        let file = try Descriptor.open("\(scene.path)/f", O_RDONLY)
        let loop = try EventLoop()
        var calls = 0
        try loop.watch(file.number, []) { readiness in
            #expect(readiness == .readable)
            calls += 1
            if calls == 3 { loop.setInterest(file.number, []) }
        }
        try run(loop, for: milliseconds(5))
        #expect(calls == 0)
        loop.setInterest(file.number, .readable)
        try run(loop, for: milliseconds(5))
        #expect(calls == 3)
        loop.unwatch(file.number)
    }

    @Test func aHandlerMayUnwatchTheOthers() throws {
        let loop = try EventLoop()
        let one = try UnixSocket.pair()
        let two = try UnixSocket.pair()
        try one.second.writeAll([1])
        try two.second.writeAll([1])
        let numbers = [one.first.number, two.first.number]
        var calls = 0
        for number in numbers {
            try loop.watch(number, .readable) { _ in
                calls += 1
                for number in numbers { loop.unwatch(number) }
            }
        }
        try run(loop, for: milliseconds(5))
        #expect(calls == 1)
    }

    /// The kernel gave the same number to another file while its old event was already fetched.
    @Test func anOldEventDoesNotReachTheNextUserOfItsNumber() throws {
        let loop = try EventLoop()
        let one = try UnixSocket.pair()
        let two = try UnixSocket.pair()
        let quiet = try UnixSocket.pair()
        try one.second.writeAll([1])
        try two.second.writeAll([1])
        var (first, wrong) = (0, 0)
        let numbers = [one.first.number, two.first.number]
        for number in numbers {
            try loop.watch(number, .readable) { _ in
                first += 1
                let other = numbers.first { $0 != number }!
                for number in numbers { loop.unwatch(number) }
                _ = dup2(quiet.first.number, other)
                try! loop.watch(other, .readable) { _ in wrong += 1 }
            }
        }
        try run(loop, for: milliseconds(5))
        #expect(first == 1)
        #expect(wrong == 0)
        for number in numbers { loop.unwatch(number) }
    }

    /// A pipe whose writer is gone reports that for ever; whoever wants nothing of it must not be
    /// kept running by it.
    @Test func aHangUpThatNobodyWaitsForIsToldOnce() throws {
        let loop = try EventLoop()
        var calls = 0
        let number: Int32
        do {
            let pipe = try Descriptor.pipe()
            number = try Descriptor.duplicate(of: pipe.first.number).release()
        }
        let reader = Descriptor(taking: number)
        try loop.watch(number, []) { readiness in
            #expect(readiness == .hangup)
            calls += 1
        }
        try run(loop, for: milliseconds(20))
        #expect(calls <= 1)
        loop.setInterest(number, .readable)
        var buffer = [UInt8](repeating: 0, count: 1)
        try run(loop) { calls > 1 }
        #expect(try reader.read(into: &buffer) == 0)
        loop.unwatch(number)
    }
}

import Glibc
import LinuxSystem
import QrexecProtocol
import SystemPackage
import Testing

/// What a process holds.
private struct Holdings: CustomStringConvertible {
    var descriptors: Int
    var mappings: Int
    var residentKiB: Int
    var children: Int

    init(of pid: Int32) throws {
        descriptors = try PathStatus.names(in: "/proc/\(pid)/fd").count
        mappings = try Self.text("/proc/\(pid)/maps").split(separator: "\n").count
        let line = try Self.text("/proc/\(pid)/status").split(separator: "\n")
            .first { $0.hasPrefix("VmRSS:") }
        let number = line?.split(separator: " ").dropLast().last
        residentKiB = number.flatMap { Int($0) } ?? 0
        children = try Self.text("/proc/\(pid)/task/\(pid)/children").split(separator: " ").count
    }

    private static func text(_ path: String) throws -> String {
        String(
            decoding: try Descriptor.open(path, O_RDONLY).readAll(limit: 1 << 24), as: UTF8.self)
    }

    var description: String {
        "\(descriptors) descriptors, \(mappings) mappings, \(residentKiB) KiB, \(children) children"
    }
}

/// After many calls that ended in every way, the programs hold what they held before.
@Suite struct NothingLeftOver {
    /// QREXEC_LEAK_CALLS: so many calls instead.
    private static var calls: Int {
        CurrentProcess.variable("QREXEC_LEAK_CALLS").flatMap { Int($0) } ?? 600
    }

    /// One call that ends in a way that a number picks.
    private func call(_ scene: AgentScene, _ dom0: Peer, _ way: Int, port: UInt32) throws {
        if way == 0 {
            // A local program asks and goes away.
            let client = try scene.client()
            try client.send(
                .triggerService4,
                field("", 64) + field("t", 64) + field("x", 32) + bytes("s") + [0])
            client.close()
            return
        }
        if way == 1 {
            let client = try scene.client()
            try client.send(raw: Array(pattern(300).prefix(Int(port) % 300)))
            client.close()
            return
        }
        let service = way == 2 ? "none" : way == 3 ? "hold" : "cat"
        let listener = try scene.dataListener(port)
        try dom0.send(
            .execCommandLine, scene.place(port) + scene.command("QUBESRPC \(service) domX"))
        let data = try listener.accept()
        if way == 4 { return }
        try data.send(.hello, little(way == 5 ? 1 : 4))
        if way == 6 { try data.send(raw: little(0x190) + little(9)) }
        if way == 7 { try data.send(.execCommandLine, little(1)) }
        if way < 8 { return }
        try data.send(.dataStdin, pattern(Int(port)))
        try data.send(.dataStdin)
        if way == 8 { return }
        #expect(try data.streams().status == 0)
    }

    @Test func callsThatEndInEveryWayLeaveNothing() throws {
        let scene = try AgentScene()
        try scene.makeService("cat", "exec cat")
        try scene.makeService("hold", "exec sleep 1000")
        let dom0 = try scene.dom0()
        let agent = try #require(scene.agent?.pid)
        let data = try #require(scene.dataProcess)
        var random = SystemRandomNumberGenerator()
        func run(_ count: Int) throws {
            for index in 0..<count {
                let way = Int.random(in: 0..<12, using: &random)
                try call(scene, dom0, way, port: 513 + UInt32(index % 200))
                // What the agent says of it is not of interest here.
                while try !dom0.isSilent(milliseconds: 0) { _ = try dom0.message() }
            }
        }
        // Everything has ended when nothing has changed for longer than a call lingers (a second), and,
        // the second time, no more is held than the first time.
        func settled(
            _ pid: Int32, children: Int, after before: Holdings? = nil
        ) throws -> Holdings {
            var last = try Holdings(of: pid)
            var steady = 0
            for _ in 0..<1000 {
                let isOver =
                    before.map { last.descriptors <= $0.descriptors } ?? (steady > 150)
                if isOver, last.children <= children { break }
                while try !dom0.isSilent(milliseconds: 10) { _ = try dom0.message() }
                let next = try Holdings(of: pid)
                steady = next.descriptors == last.descriptors ? steady + 1 : 0
                last = next
            }
            #expect(last.children <= children, "\(last)")
            return last
        }
        try run(100)
        // The agent's child is the data process.
        let before = try (settled(agent, children: 1), settled(data, children: 0))
        try run(Self.calls)
        let after = try (
            settled(agent, children: 1, after: before.0),
            settled(data, children: 0, after: before.1)
        )
        for (old, new) in [(before.0, after.0), (before.1, after.1)] {
            #expect(new.descriptors <= old.descriptors + 4, "\(old) → \(new)")
            #expect(new.mappings <= old.mappings + 8, "\(old) → \(new)")
            #expect(new.residentKiB <= old.residentKiB + 1024, "\(old) → \(new)")
        }
    }
}

import Glibc
import LinuxSystem
import SystemPackage

/// The two handles of a channel over Xen, and what may be tried with them (specification, section
/// 2). Whoever confines this process must leave it one thing: to send an event on its own port.
struct Handles: ~Copyable {
    private let events: Descriptor
    private let grants: Descriptor
    /// Without it the dispatcher lets the channel go, and the server its pages.
    private let lifeline: Descriptor
    /// The port, both rings' orders, and where control page and rings are.
    private let numbers: [Int]
    private let other: UInt32

    /// - Parameters:
    ///   - port: of the channel that the own qube offers to dom0.
    ///   - other: another domain's number.
    init?(_ line: borrowing Line, port: String, other: String) {
        line.send("channel\nid=1\nport=\(port)")
        var descriptors = DescriptorList()
        let answer = line.receive(&descriptors) ?? "nothing"
        let text = answer.split(separator: "\n").first { $0.hasPrefix("numbers=") }?.dropFirst(8)
        let list = (text ?? "").split(separator: ",").compactMap { Int($0) }
        guard list.count == 6, let events = descriptors.takeFirst(),
            let grants = descriptors.takeFirst(), let lifeline = descriptors.takeFirst(),
            let number = UInt32(other)
        else {
            say("no channel: \(answer)")
            return nil
        }
        self.events = events
        self.grants = grants
        self.lifeline = lifeline
        self.numbers = list
        self.other = number
    }

    private enum Outcome { case done, forbidden, refused }

    /// One request to a driver, with 32-bit words as its argument.
    private func ask(
        _ device: borrowing Descriptor, _ type: Character, _ number: Int, _ words: [UInt32],
        size: Int? = nil
    ) -> Outcome {
        var argument = words + [0, 0]
        let request = Int(type.asciiValue!) << 8 | number | (size ?? 4 * words.count) << 16
        let result = argument.withUnsafeMutableBytes {
            systemCall(
                16, Int(device.number), request, Int(bitPattern: $0.baseAddress), 0, 0, 0)
        }
        return result >= 0 ? .done : errno == EPERM ? .forbidden : .refused
    }

    private func expect(_ what: String, _ outcome: Outcome, _ expected: Outcome) {
        if outcome != expected { say("\(what): \(outcome), not \(expected)") }
    }

    consuming func tryAll() {
        let isConfined = ask(events, "E", 0, [0]) == .forbidden
        let barred = isConfined ? Outcome.forbidden : .refused
        let port = UInt32(numbers[0])
        for remote in UInt32(1)...64 {
            expect("join port \(remote) of \(other)", ask(events, "E", 1, [other, remote]), barred)
        }
        expect("a port for \(other)", ask(events, "E", 2, [other]), barred)
        expect("another restriction", ask(events, "E", 6, [other], size: 2), barred)
        expect("its own event", ask(events, "E", 4, [port]), .done)
        for number in UInt32(1)...1023 where number != port {
            expect("an event on port \(number)", ask(events, "E", 4, [number]), .refused)
        }
        mapTheirs(isConfined)
        if isConfined {
            for (number, size) in [(0, 24), (1, 16), (2, 24), (3, 4), (7, 16), (8, 16), (9, 24)] {
                expect(
                    "request \(number) of gntdev",
                    ask(grants, "G", number, [1, 0, 0, 0, other, 1], size: size), .forbidden)
            }
            for number in [1, 3, 5] {
                expect("request \(number) of evtchn", ask(events, "E", number, [port]), .forbidden)
            }
        }
        say(isConfined ? "tried its handles, confined" : "tried its handles, free")
    }

    /// Own pages where the driver was told to have them, nothing anywhere else.
    private func mapTheirs(_ isConfined: Bool) {
        let pages = [1, (1 << numbers[1]) >> 12, (1 << numbers[2]) >> 12]
        for (offset, count) in zip(numbers[3...], pages) where count > 0 {
            // Read-only, which the driver must survive at the end.
            let mapped = mmap(nil, 4096 * count, PROT_READ, MAP_SHARED, grants.number, offset)
            if mapped == MAP_FAILED { say("cannot map its own pages") }
            guard isConfined, let mapped else { continue }
            could("make its pages writable", Int(mprotect(mapped, 4096, PROT_READ | PROT_WRITE)))
            let size = 4096 * count
            let moved = systemCall(25, Int(bitPattern: mapped), size, size, 3, Int(1 << 40), 0)
            if moved >= 0 || errno != EPERM { say("could move its pages") }
        }
        let known = Set(numbers[3...])
        for page in 0..<256 where !known.contains(4096 * page) {
            let mapped = mmap(nil, 4096, PROT_READ, MAP_SHARED, grants.number, 4096 * page)
            if mapped != MAP_FAILED { say("could map page \(page)") }
        }
    }
}

import QrexecPolicy

/// Random numbers that are the same in every run.
struct SeededNumbers: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }
}

/// Qubes, rules and requests of a size: a mix of what policies hold.
struct Workload {
    let rules: Int
    let qubes: Int

    private static let tags = (0..<12).map { "tag-\($0)" }
    private static let types = ["AppVM", "TemplateVM", "StandaloneVM", "DispVM"]

    private func name(_ number: Int) -> String { number == 0 ? "dom0" : "qube-\(number)" }

    /// As many as a large system has; more rules are about more qubes, not more services.
    var services: Int { min(200, max(10, rules / 20)) }

    /// As internal.GetSystemInfo answers.
    var systemInformation: String {
        var numbers = SeededNumbers(seed: 7)
        let entries = (0..<qubes).map { number in
            let tags = Self.tags.shuffled(using: &numbers).prefix(3).map { "\"\($0)\"" }
            let digits = String(number)
            let tail = String(repeating: "0", count: 12 - digits.count) + digits
            let type = number == 0 ? "AdminVM" : Self.types[number % Self.types.count]
            return """
                "\(name(number))": {"type": "\(type)", "tags": [\(tags.joined(separator: ","))],
                "template_for_dispvms": \(number % 10 == 5), "default_dispvm": "\(name(5))",
                "icon": "appvm-red", "guivm": null, "power_state": "Running",
                "uuid": "00000000-0000-0000-0000-\(tail)", "internal": null}
                """
        }
        return "{\"domains\": {" + entries.joined(separator: ",") + "}}"
    }

    private func field(_ numbers: inout SeededNumbers, isTarget: Bool) -> String {
        switch Int.random(in: 0..<20, using: &numbers) {
        case 0..<12: name(Int.random(in: 1..<qubes, using: &numbers))
        case 12..<15: "@tag:" + Self.tags.randomElement(using: &numbers)!
        case 15: "@type:" + Self.types.randomElement(using: &numbers)!
        case 16: isTarget ? "@dispvm" : name(1)
        case 17: isTarget ? "@dispvm:" + name(5) : "@adminvm"
        case 18: "@adminvm"
        default: "@anyvm"
        }
    }

    /// The lines of one policy file.
    var policy: String {
        var numbers = SeededNumbers(seed: UInt64(rules))
        var text = ""
        text.reserveCapacity(rules * 64)
        for index in 0..<rules {
            let service = "bench.Service\(index % services)"
            let argument = Int.random(in: 0..<5, using: &numbers) == 0 ? "+arg\(index % 7)" : "*"
            let action = Bool.random(using: &numbers) ? "allow" : "deny"
            let source = field(&numbers, isTarget: false)
            let target = field(&numbers, isTarget: true)
            text += "\(service) \(argument) \(source) \(target) \(action)\n"
        }
        return text
    }

    struct Request {
        let source: [UInt8]
        let target: [UInt8]
        let service: [UInt8]
    }

    /// Requests whose answers the rules give.
    func requests(_ count: Int) -> [Request] {
        var numbers = SeededNumbers(seed: 99)
        return (0..<count).map { _ in
            let service = "bench.Service\(Int.random(in: 0..<services, using: &numbers))"
            let argument = Int.random(in: 0..<7, using: &numbers)
            return Request(
                source: Array(name(Int.random(in: 1..<qubes, using: &numbers)).utf8),
                target: Array(name(Int.random(in: 0..<qubes, using: &numbers)).utf8),
                service: Array("\(service)+arg\(argument)".utf8))
        }
    }
}

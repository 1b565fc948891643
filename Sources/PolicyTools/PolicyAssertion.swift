import QrexecPolicy

/// One line of a file of assertions: `allow|ask|deny SERVICE[+ARG] SOURCE TARGET [target=T]`.
struct PolicyAssertion {
    let line: Int
    let text: String
    let outcome: PolicyAction
    /// `*`, `SERVICE`, `SERVICE+ARGUMENT` or `SERVICE+*`.
    let service: String
    let source: String
    let target: String
    /// Where an allowed call must go.
    let redirect: String?

    struct Malformed: Error, CustomStringConvertible {
        let file: String
        let line: Int
        let message: String
        var description: String { "\(file):\(line): error: \(message)" }
    }

    /// Reads a file; empty lines and lines that begin with `#` are left out.
    static func read(_ text: String, file: String) throws(Malformed) -> [PolicyAssertion] {
        var assertions: [PolicyAssertion] = []
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false)
            .enumerated()
        {
            let fields = line.split(whereSeparator: \.isWhitespace).map(String.init)
            if fields.isEmpty || fields[0].hasPrefix("#") { continue }
            func malformed(_ message: String) -> Malformed {
                Malformed(file: file, line: index + 1, message: message)
            }
            guard let outcome = PolicyAction(rawValue: fields[0]) else {
                throw malformed("found '\(fields[0])', expected allow, ask or deny")
            }
            guard fields.count == 4 || fields.count == 5 else {
                throw malformed(
                    "found \(fields.count) field\(fields.count == 1 ? "" : "s"), expected "
                        + "'\(fields[0]) SERVICE[+ARG] SOURCE TARGET [target=QUBE]'")
            }
            var redirect: String?
            if fields.count == 5 {
                guard fields[4].hasPrefix("target="), outcome == .allow else {
                    throw malformed("found '\(fields[4])', expected target=QUBE after allow")
                }
                redirect = String(fields[4].dropFirst(7))
            }
            assertions.append(
                PolicyAssertion(
                    line: index + 1, text: fields.joined(separator: " "), outcome: outcome,
                    service: fields[1], source: fields[2], target: fields[3], redirect: redirect))
        }
        return assertions
    }
}

/// The calls that an assertion is about.
struct AssertionCalls {
    let services: [String]
    let sources: [String]
    let targets: [String]

    struct Unknown: Error, CustomStringConvertible {
        let description: String
    }

    init(
        _ assertion: PolicyAssertion, _ space: CallSpace, _ system: SystemInformation
    ) throws(Unknown) {
        services = Self.services(assertion.service, space)
        sources = try Self.qubes(assertion.source, system)
        switch assertion.target {
        case "*": targets = space.targets
        case "@anyvm": targets = space.targets.filter { $0 != "dom0" }
        case "@default", "@dispvm", "@adminvm": targets = [assertion.target]
        case let text where text.hasPrefix("@dispvm:@tag:"):
            let tag = String(text.dropFirst(13))
            targets = system.qubes.filter { $0.isDisposableTemplate && $0.tags.contains(tag) }
                .map { "@dispvm:" + $0.name }
        case let text where text.hasPrefix("@dispvm:"): targets = [text]
        default: targets = try Self.qubes(assertion.target, system)
        }
    }

    private static func services(_ pattern: String, _ space: CallSpace) -> [String] {
        let calls = space.services.map(\.call)
        if pattern == "*" { return calls }
        guard pattern.hasSuffix("+*") else { return [pattern] }
        let service = String(pattern.dropLast(2))
        let known = calls.filter { $0.hasPrefix(service + "+") }
        return [service + "+"] + (known.isEmpty ? [service + "+other"] : known)
    }

    private static func qubes(
        _ pattern: String, _ system: SystemInformation
    ) throws(Unknown) -> [String] {
        switch pattern {
        case "*": return system.qubes.map(\.name)
        case "@anyvm": return system.qubes.map(\.name).filter { $0 != "dom0" }
        case "@adminvm": return ["dom0"]
        case let text where text.hasPrefix("@tag:"):
            let tag = String(text.dropFirst(5))
            return system.qubes.filter { $0.tags.contains(tag) }.map(\.name)
        case let text where text.hasPrefix("@type:"):
            let type = String(text.dropFirst(6))
            return system.qubes.filter { $0.type == type }.map(\.name)
        default:
            if pattern.hasPrefix("@") {
                throw Unknown(description: "'\(pattern)' means no qubes here")
            }
            if system.qube(named: pattern) == nil {
                throw Unknown(description: "there is no qube '\(pattern)'")
            }
            return [pattern]
        }
    }
}

import QrexecPolicy

/// Decides many calls of one engine, with their texts turned into bytes once and each question made
/// once.
final class CallSweep {
    let space: CallSpace
    let engine: PolicyEngine
    private let services: [[UInt8]]
    private let sources: [[UInt8]]
    private let targets: [[UInt8]]
    /// Decisions of `ask` rules for the service and source that come at present.
    private var asked: [Int32: Decision] = [:]
    private var present = (service: -1, source: -1)

    init(_ engine: PolicyEngine, _ space: CallSpace) {
        self.engine = engine
        self.space = space
        services = space.services.map { Array($0.call.utf8) }
        sources = space.sources.map { Array($0.utf8) }
        targets = space.targets.map { Array($0.utf8) }
    }

    func decide(service: Int, source: Int, target: Int) -> Decision {
        let decision = decide(service: service, source: source, target: target, asking: false)
        if decision.outcome != .ask { return decision }
        if present != (service, source) {
            present = (service, source)
            asked = [:]
        }
        if let known = asked[decision.rule] { return decision.asking(as: known) }
        let full = decide(service: service, source: source, target: target, asking: true)
        asked[decision.rule] = full
        return full
    }

    private func decide(service: Int, source: Int, target: Int, asking: Bool) -> Decision {
        let service = services[service]
        let source = sources[source]
        let target = targets[target]
        let claimed: [UInt8] = []
        return engine.decide(
            source: source.span, target: target.span, service: service.span,
            claimedSource: claimed.span, asking: asking)
    }
}

extension CallSpace {
    /// Keeps the services that people name, with every argument where they name none.
    mutating func keepServices(_ names: [String]) {
        var kept: [CallSpace.Service] = []
        for name in names {
            let found = services.filter { service in
                name.contains("+") ? service.call == name : service.call.hasPrefix(name + "+")
            }
            kept += found.isEmpty ? [CallSpace.Service(call: name, shown: name)] : found
        }
        services = kept
    }
}

/// Names as people read them: all, all but a few, or some.
struct NameList {
    let all: Set<String>

    func text(_ names: some Collection<String>) -> String {
        let names = Set(names)
        if names == all && names.count > 2 { return "every one" }
        let missing = all.subtracting(names)
        if missing.count * 4 < names.count {
            return "every one but " + missing.sorted().joined(separator: ", ")
        }
        return names.sorted().joined(separator: ", ")
    }
}

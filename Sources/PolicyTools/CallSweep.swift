import QrexecPolicy

/// Decides many calls, with their texts turned into bytes once.
struct CallSweep {
    let space: CallSpace
    private let services: [[UInt8]]
    private let sources: [[UInt8]]
    private let targets: [[UInt8]]

    init(_ space: CallSpace) {
        self.space = space
        services = space.services.map { Array($0.call.utf8) }
        sources = space.sources.map { Array($0.utf8) }
        targets = space.targets.map { Array($0.utf8) }
    }

    func decide(_ engine: PolicyEngine, service: Int, source: Int, target: Int) -> Decision {
        let service = services[service]
        let source = sources[source]
        let target = targets[target]
        let claimed: [UInt8] = []
        return engine.decide(
            source: source.span, target: target.span, service: service.span,
            claimedSource: claimed.span)
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

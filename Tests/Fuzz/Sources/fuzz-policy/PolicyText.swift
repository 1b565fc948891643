import QrexecPolicy

private let system = SystemInformation([
    Qube(
        name: "dom0", uuid: "00000000-0000-0000-0000-000000000000", type: "AdminVM", tags: ["a"]),
    Qube(
        name: "work", uuid: "00000000-0000-0000-0000-000000000001", type: "AppVM",
        tags: ["a", "b"],
        defaultDisposable: "dvm", isRunning: true),
    Qube(name: "vault", uuid: "00000000-0000-0000-0000-000000000002", type: "AppVM"),
    Qube(
        name: "dvm", uuid: "00000000-0000-0000-0000-000000000004", type: "AppVM", tags: ["a"],
        isDisposableTemplate: true),
])

private let targets = [
    "", "dom0", "@adminvm", "work", "vault", "nothing", "@default", "@dispvm", "@dispvm:dvm",
    "@dispvm:uuid:00000000-0000-0000-0000-000000000004", "@dispvm:work", "@anyvm",
    "uuid:00000000-0000-0000-0000-000000000002",
]

/// The text as one policy file, what follows a NUL as an included one in the old format.
private func load(_ bytes: [UInt8]) -> PolicyLoadResult {
    let parts = bytes.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
    let old = parts.count > 1 ? Array(parts[1]) : []
    let files = MemoryPolicyFiles(
        [
            "/p/a.policy": Array(parts[0]), "/p/include/x": Array(parts[0].prefix(200)),
            "/p/include/old": old, "/p/include/b.policy": Array("a.b * work work deny\n".utf8),
            "/legacy/a.b+c": old, "/legacy/a.b": old,
        ], directories: ["/p", "/legacy"])
    return Policy.load(PolicyDirectories(["/p"], legacy: "/legacy"), files: files)
}

/// Any text is read to its end, each error has a place, what is loaded reads the same again, and
/// the index decides as walking the rules does.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzPolicy(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    let result = load(bytes)
    for diagnostic in result.diagnostics {
        precondition(diagnostic.line >= 0 && diagnostic.line <= count + 1)
        precondition(diagnostic.column >= 0 && diagnostic.column <= count + 100)
        precondition(!diagnostic.found.isEmpty && !diagnostic.expected.isEmpty)
    }
    checkRoundTrip(result.policy)
    let engine = PolicyEngine(result.policy, system)
    for target in targets {
        for (source, service) in [("work", "a.b+c"), ("dom0", "a.b"), ("dvm", "x")] {
            let decision = engine.decide(source: source, target: target, service: service)
            if decision.reason.isInvalidRequest { continue }
            let walked = engine.consideredRules(for: decision, service: service)
            let first = walked.last.flatMap { $0.mismatch == nil ? $0.rule : nil } ?? -1
            precondition(first == Int(decision.rule), "the index and the walk disagree")
        }
    }
    for shadowed in result.policy.shadowedRules() {
        precondition((shadowed.hiddenBy ?? -1) < shadowed.rule)
    }
    return 0
}

/// Each rule, written out, is read as the same rule.
private func checkRoundTrip(_ policy: Policy) {
    let rules = (0..<min(policy.ruleCount, 50)).map { policy.description(of: $0).text }
    if rules.isEmpty { return }
    let text = rules.map { $0 + "\n" }.joined()
    let again = Policy.load(
        PolicyDirectories(["/p"]),
        files: MemoryPolicyFiles(["/p/a.policy": Array(text.utf8)], directories: ["/p"]))
    precondition(again.isUsable, "a rule that was read is not read again")
    let second = (0..<again.policy.ruleCount).map { again.policy.description(of: $0).text }
    precondition(rules == second, "a rule changed when it was written out")
}

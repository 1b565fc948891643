import QrexecDom0
import QrexecPolicy
import QrexecProtocol

private let engine: PolicyEngine = {
    let system = SystemInformation([
        Qube(name: "dom0", uuid: "00000000-0000-0000-0000-000000000000", type: "AdminVM"),
        Qube(
            name: "work", uuid: "00000000-0000-0000-0000-000000000001", type: "AppVM",
            defaultDisposable: "dvm"),
        Qube(name: "vault", uuid: "00000000-0000-0000-0000-000000000002", type: "AppVM"),
        Qube(name: "relay", uuid: "00000000-0000-0000-0000-000000000003", type: "AppVM"),
        Qube(
            name: "dvm", uuid: "00000000-0000-0000-0000-000000000004", type: "AppVM",
            isDisposableTemplate: true),
        Qube(
            name: "remote", uuid: "00000000-0000-0000-0000-000000000005", type: "RemoteVM",
            relay: "relay", transportService: "qubes.Transport"),
    ])
    let text = """
        test.Ask * * * ask
        test.Deny * * * deny
        * * * @default allow target=vault
        * * * * allow

        """
    let files = MemoryPolicyFiles(["/p/a.policy": Array(text.utf8)])
    return PolicyEngine(Policy.load(PolicyDirectories(["/p"]), files: files).policy, system)
}()

/// Whatever is asked, the answer is one that a daemon takes.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzPolicyRequest(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: data, count: count))
    _ = EvaluationRequest(bytes[...])
    guard let query = try? PolicyQuery(lines: bytes[...]) else { return 0 }
    var decision = engine.decide(
        source: query.source.span, target: query.target.span, service: query.service.span,
        claimedSource: query.claimedSource.span)
    if query.assumesYes { decision = engine.assumingYes(decision) }
    var answer: [UInt8] = []
    engine.appendAnswer(to: decision, service: query.service.span, to: &answer)
    guard let read = try? PolicyAnswer(bytes: answer) else {
        preconditionFailure("an answer that no daemon takes")
    }
    precondition((read.permission != nil) == (decision.outcome == .allow) || answer.count < 200)
    return 0
}

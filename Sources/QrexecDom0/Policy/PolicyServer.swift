import LinuxSystem
import QrexecRuntime
import SystemPackage

/// The sockets of the policy service: for the daemons (section 13.1) and for those who only want to
/// know (13.2).
enum PolicyServer {
    /// Answers the daemons of the qubes.
    static func forDaemons(
        _ authority: PolicyAuthority, _ loop: EventLoop, path: String, log: Log
    ) throws(Errno) -> RequestServer {
        try RequestServer(
            loop, path: path, limit: PolicyQuery.maximumSize, log: log,
            frame: { input, seen, isEnd in
                if let end = endOfLines(input, from: seen) {
                    return end == 0 ? .nothing : .complete(end)
                }
                if !isEnd { return .incomplete }
                return input.isEmpty ? .nothing : .complete(input.count)
            },
            handle: { lines, reply in
                do throws(PolicyQuery.Malformed) {
                    let query = try PolicyQuery(lines: lines)
                    return authority.decide(query) { reply($0.answer) }
                } catch {
                    log.warning("policy request refused: \(error)")
                    reply(nil)
                    return nil
                }
            })
    }

    /// Where the empty line begins that ends a request.
    private static func endOfLines(_ input: [UInt8], from seen: Int) -> Int? {
        if input.first == 0x0A { return 0 }
        // The line's end may be new and the one before it not.
        var index = max(seen, 1)
        while index < input.count {
            if input[index] == 0x0A && input[index - 1] == 0x0A { return index }
            index += 1
        }
        return nil
    }

    /// Serves policy.EvalSimple, or policy.EvalGUI, which tells only about qubes that its caller
    /// shows.
    static func forEvaluation(
        _ authority: PolicyAuthority, _ loop: EventLoop, path: String, isGUI: Bool, log: Log
    ) throws(Errno) -> RequestServer {
        try RequestServer(
            loop, path: path, limit: EvaluationRequest.maximumSize, log: log,
            frame: { input, _, isEnd in
                if !isEnd { return .incomplete }
                return input.isEmpty ? .nothing : .complete(input.count)
            },
            handle: { bytes, reply in
                guard let request = EvaluationRequest(bytes) else {
                    log.warning("\(path): request refused: malformed")
                    reply(nil)
                    return nil
                }
                guard
                    !isGUI || authority.isShown(by: request.caller, request.source, request.target)
                else {
                    log.warning(
                        "\(path): request refused: the caller does not show both qubes",
                        ["caller": request.caller])
                    reply(nil)
                    return nil
                }
                let query = PolicyQuery(
                    source: Array(request.source.utf8), target: Array(request.target.utf8),
                    service: Array(request.service.utf8), assumesYes: true, justEvaluates: true)
                return authority.decide(query) { reply($0.answer) }
            })
    }
}

/// What EvalSimple and EvalGUI are asked (section 13.2).
public struct EvaluationRequest: Equatable {
    /// The qube that asks.
    public let caller: String
    /// Service and argument that are asked about.
    public let service: String
    public let source: String
    public let target: String

    /// The descriptor with the longest service, and what follows it.
    static let maximumSize = 65_000 + 256
    private static let maximumBody = 96

    /// Reads `policy.EvalX+SERVICE[+ARG] CALLER …` NUL SOURCE NUL TARGET.
    public init?(_ bytes: ArraySlice<UInt8>) {
        guard let end = bytes.firstIndex(of: 0) else { return nil }
        let words = bytes[..<end].split(separator: 0x20)
        guard words.count >= 2, let plus = words[0].firstIndex(of: UInt8(ascii: "+")) else {
            return nil
        }
        let service = words[0][(plus + 1)...]
        guard !service.isEmpty, service.first != UInt8(ascii: "+"),
            service.allSatisfy(isArgumentCharacter)
        else { return nil }
        let body = bytes[(end + 1)...]
        let fields = body.split(separator: 0, omittingEmptySubsequences: false)
        guard body.count <= Self.maximumBody, fields.count == 2,
            (1...31).contains(fields[0].count), (1...63).contains(fields[1].count),
            body.allSatisfy({ $0 == 0 || $0 == UInt8(ascii: "@") || isServiceCharacter($0) })
        else { return nil }
        caller = String(decoding: words[1], as: UTF8.self)
        self.service = String(decoding: service, as: UTF8.self)
        source = String(decoding: fields[0], as: UTF8.self)
        target = String(decoding: fields[1], as: UTF8.self)
    }
}

import LinuxSystem
import QrexecProtocol
import QrexecRuntime

/// One call in the log: its id, and how long each stage took.
final class CallTrace {
    /// Told by every program of dom0 that has to do with the call.
    var id: String
    private let began = CurrentProcess.now
    private var stageBegan: UInt64
    private var stages: [(name: String, nanoseconds: UInt64)] = []

    init(id: String) {
        self.id = id
        stageBegan = began
    }

    /// The present stage is over; the next one begins.
    func end(stage: String) {
        let now = CurrentProcess.now
        stages.append((stage, now - stageBegan))
        stageBegan = now
    }

    /// `policy=0.31 connect=0.12`, in milliseconds.
    var stageTimes: String {
        stages.map { "\($0.name)=\(Self.milliseconds($0.nanoseconds))" }.joined(separator: " ")
    }

    /// The stages, those of another process first, and `total=`.
    func times(before others: String = "") -> String {
        [others, stageTimes, "total=\(Self.milliseconds(CurrentProcess.now - began))"]
            .filter { !$0.isEmpty }.joined(separator: " ")
    }

    static func milliseconds(_ nanoseconds: UInt64) -> String {
        let hundredths = nanoseconds / 10_000
        let rest = hundredths % 100
        return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
    }
}

/// Ids of one daemon's calls: the qube's name, a number of this run of the daemon, a count.
struct TraceNumbers {
    private let prefix: String
    private var count = 0

    init(_ name: String) {
        let run = UInt32(truncatingIfNeeded: CurrentProcess.wallClock.nanoseconds / 1000)
        prefix = "\(name)-\(String(run & 0xFFFFF, radix: 16))-"
    }

    mutating func next() -> String {
        count += 1
        return prefix + String(count)
    }
}

/// What became of a qube's request.
enum RequestOutcome {
    /// The caller is to serve a data channel there.
    case connected(ConnectParameters)
    case refused(reason: String)
    /// Allowed, but it cannot be carried out; or nobody could decide.
    case failed(reason: String)
}

extension CallTrace {
    /// What is known of a decision, by whoever made it.
    struct Decision {
        var target: String?
        var rule: String?
        /// Stages of another process.
        var times = ""
    }

    /// The one line about a request: who, what, which rule, and how long each stage took.
    func report(
        _ request: ServiceRequest, of source: (name: String, domain: UInt32),
        _ decision: Decision,
        _ outcome: RequestOutcome, to log: Log
    ) {
        var reason = ""
        let what: String
        switch outcome {
        case .connected(let place):
            what = "allowed place=\(place.domain):\(place.port)"
        case .refused(let text):
            what = "denied"
            reason = text
        case .failed(let text):
            what = "failed"
            reason = text
        }
        let target = decision.target ?? request.target
        var text = "call source=\(LogText.value(source.name))"
        if !request.claimedSource.isEmpty {
            text += " claimed_source=\(LogText.value(request.claimedSource))"
        }
        text +=
            " service=\(LogText.value(request.service))"
            + " requested_target=\(LogText.value(request.target))"
            + " target=\(LogText.value(target)) outcome=\(what)"
            + " rule=\(decision.rule.map(LogText.value) ?? "none")"
        if !reason.isEmpty { text += " reason=\(LogText.value(reason))" }
        text +=
            " domain=\(source.domain) id=\(LogText.value(id)) ms: \(times(before: decision.times))"
        if case .failed = outcome { log.warning(text) } else { log.info(text) }
    }
}

import LinuxSystem
import QrexecRuntime

/// Bounds how often each qube may cause something: a number at once, and then so many a second.
struct RateLimiter {
    private struct Bucket {
        var tokens: Double
        var updated: UInt64
        /// Refused since the limit began to bite.
        var refused = 0
    }

    enum Outcome: Equatable {
        case admitted
        /// The first refusal since the limit was kept.
        case refusedFirst
        case refused
    }

    private let burst: Double
    private let perSecond: Double
    private var buckets: [String: Bucket] = [:]

    /// Qubes that are told apart; those beyond share one bucket.
    static let maximumQubes = 4096

    init(burst: Int, perSecond: Double) {
        self.burst = Double(burst)
        self.perSecond = perSecond
    }

    /// Takes one of a qube's tokens.
    ///
    /// - Parameter now: nanoseconds of a clock that never jumps.
    mutating func admit(_ qube: String, now: UInt64 = CurrentProcess.now) -> Outcome {
        let key = buckets[qube] != nil || buckets.count < Self.maximumQubes ? qube : ""
        var bucket = buckets[key] ?? Bucket(tokens: burst, updated: now)
        let elapsed = Double(now &- bucket.updated) / 1e9
        bucket.tokens = min(burst, bucket.tokens + elapsed * perSecond)
        bucket.updated = now
        defer { buckets[key] = bucket }
        if bucket.tokens >= 1 {
            bucket.tokens -= 1
            bucket.refused = 0
            return .admitted
        }
        bucket.refused += 1
        return bucket.refused == 1 ? .refusedFirst : .refused
    }
}

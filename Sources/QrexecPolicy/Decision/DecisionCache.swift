import Synchronization

/// Rules found before, for calls that come again: most calls do, and with very many rules finding
/// one is mostly waiting for memory (three times as long at 100,000 rules as at 50). Of a fixed size; a call that falls on the place of another
/// takes it over. It belongs to one policy and one state of the qubes.
final class DecisionCache: Sendable {
    /// What the first rule depends on.
    struct Key: Sendable, Equatable {
        /// The groups of rules.
        let groups: UInt64
        /// The source and the target.
        let qubes: UInt64

        /// No call has it: groups are counted from 1.
        static let none = Key(groups: 0, qubes: .max)
    }

    private struct Entry: Sendable {
        var key = Key.none
        var rule = FoundRule.none
    }

    /// Two places for each value of the hash: with one, calls that come in turns would push each
    /// other out all the time.
    private struct Pair: Sendable {
        var newer = Entry()
        var older = Entry()
    }

    private static let size = 8_192
    private let pairs = Mutex([Pair](repeating: Pair(), count: DecisionCache.size))

    private static func place(_ key: Key) -> Int {
        let mixed = (key.groups &* 0x9e37_79b9_7f4a_7c15) ^ (key.qubes &* 0xc2b2_ae3d_27d4_eb4f)
        return Int(truncatingIfNeeded: ((mixed ^ mixed >> 29) &* 0xbf58_476d_1ce4_e5b9) >> 40)
            & (size - 1)
    }

    /// The rule that was found for a key; nil when the key is not here.
    func rule(_ key: Key) -> FoundRule? {
        pairs.withLock { pairs in
            let pair = pairs[Self.place(key)]
            if pair.newer.key == key { return pair.newer.rule }
            return pair.older.key == key ? pair.older.rule : nil
        }
    }

    /// Keeps a rule for a key that is not here; the pair's older one makes room.
    func store(_ key: Key, _ rule: FoundRule) {
        pairs.withLock { pairs in
            let place = Self.place(key)
            pairs[place].older = pairs[place].newer
            pairs[place].newer = Entry(key: key, rule: rule)
        }
    }
}

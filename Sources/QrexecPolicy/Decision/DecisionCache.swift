import Synchronization

/// Rules found before, for calls that come again: most calls do, and with very many rules finding
/// one is mostly waiting for memory (three times as long at 100,000 rules as at 50). Of a fixed
/// size; the oldest of those that share a place makes room. It belongs to one policy and one state
/// of the qubes.
final class DecisionCache: Sendable {
    /// What the first rule depends on.
    struct Key: Sendable, Equatable {
        /// The most special group of rules, which determines the others.
        let group: Int32
        let source: Int32
        let target: UInt32

        /// No call has it: sources are counted from 0.
        static let none = Key(group: -1, source: -1, target: 0)
    }

    private struct Entry: Sendable {
        var key = Key.none
        var rule = FoundRule.none
    }

    /// Four places, a line of the processor's cache, for each value of the hash: with one, calls
    /// that come in turns would push each other out all the time.
    private struct Places: Sendable {
        var first = Entry()
        var second = Entry()
        var third = Entry()
        var fourth = Entry()
    }

    private static let size = 8_192
    private let places = Mutex([Places](repeating: Places(), count: DecisionCache.size))

    private static func place(_ key: Key) -> Int {
        let pair = UInt64(UInt32(bitPattern: key.group)) << 32 | UInt64(key.target)
        let mixed =
            (pair &* 0x9e37_79b9_7f4a_7c15)
            ^ (UInt64(UInt32(bitPattern: key.source)) &* 0xc2b2_ae3d_27d4_eb4f)
        return Int(truncatingIfNeeded: ((mixed ^ mixed >> 29) &* 0xbf58_476d_1ce4_e5b9) >> 40)
            & (size - 1)
    }

    /// The rule that was found for a key; nil when the key is not here.
    func rule(_ key: Key) -> FoundRule? {
        places.withLock { places in
            let place = places[Self.place(key)]
            if place.first.key == key { return place.first.rule }
            if place.second.key == key { return place.second.rule }
            if place.third.key == key { return place.third.rule }
            return place.fourth.key == key ? place.fourth.rule : nil
        }
    }

    /// Keeps a rule for a key that is not here.
    func store(_ key: Key, _ rule: FoundRule) {
        places.withLock { places in
            let number = Self.place(key)
            let before = places[number]
            places[number] = Places(
                first: Entry(key: key, rule: rule), second: before.first, third: before.second,
                fourth: before.third)
        }
    }
}

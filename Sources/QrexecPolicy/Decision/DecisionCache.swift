import Synchronization

/// The first rule that matches a call, with what mostly is all that is needed of it.
struct FoundRule: Sendable {
    /// -1 when no rule matches.
    var number: Int32
    var action = PolicyAction.deny
    var notify = true
    var autostart = true
    var hasRedirect = false

    static let none = FoundRule(number: -1)

    init(number: Int32) { self.number = number }

    init(number: Int32, _ rule: Rule) {
        self.number = number
        action = rule.action
        notify = rule.notify
        autostart = rule.autostart
        hasRedirect = rule.redirect != nil
    }
}

/// Rules found before, for calls that come again: most calls do, and with very many rules finding
/// one is mostly waiting for memory. Of a fixed size; a call that falls on the place of another
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

    private static let size = 16_384
    private let entries = Mutex([Entry](repeating: Entry(), count: DecisionCache.size))

    private static func place(_ key: Key) -> Int {
        let mixed = (key.groups &* 0x9e37_79b9_7f4a_7c15) ^ (key.qubes &* 0xc2b2_ae3d_27d4_eb4f)
        return Int(truncatingIfNeeded: (mixed ^ mixed >> 29) &* 0xbf58_476d_1ce4_e5b9 >> 40)
            & (size - 1)
    }

    /// The rule that was found for a key; nil when the key is not here.
    func rule(_ key: Key) -> FoundRule? {
        entries.withLock { entries in
            let entry = entries[Self.place(key)]
            return entry.key == key ? entry.rule : nil
        }
    }

    func store(_ key: Key, _ rule: FoundRule) {
        entries.withLock { entries in entries[Self.place(key)] = Entry(key: key, rule: rule) }
    }
}

/// Texts, each kept once and known by a number: the words of a policy, the names of qubes.
///
/// Looking a text up allocates nothing. Entries come from files of dom0 only; what a qube sends is
/// looked up and never added, so a qube can neither grow the table nor choose its collisions.
struct SymbolTable: Sendable {
    /// Stands for a text that is not in the table.
    static let none: Int32 = -1

    private var bytes: [UInt8] = []
    private var ends: [Int32] = [0]
    /// Open addressing; a power of two, at most half full; -1 is free.
    private var slots = [Int32](repeating: -1, count: 64)

    var count: Int { ends.count - 1 }

    /// The number of a text, added if it is new.
    mutating func intern(_ text: Span<UInt8>) -> Int32 {
        let slot = self.slot(of: text)
        if slots[slot] >= 0 { return slots[slot] }
        let symbol = Int32(count)
        for index in text.indices { bytes.append(text[index]) }
        ends.append(Int32(bytes.count))
        slots[slot] = symbol
        if count * 2 > slots.count { grow() }
        return symbol
    }

    mutating func intern(_ text: String) -> Int32 { intern(Array(text.utf8).span) }

    /// The number of a text, or `none`.
    func find(_ text: Span<UInt8>) -> Int32 { slots[slot(of: text)] }

    func find(_ text: String) -> Int32 { find(Array(text.utf8).span) }

    /// The text of a number that this table gave out.
    func text(_ symbol: Int32) -> String { String(decoding: self[symbol], as: UTF8.self) }

    /// The bytes of a number that this table gave out.
    subscript(_ symbol: Int32) -> ArraySlice<UInt8> {
        bytes[Int(ends[Int(symbol)])..<Int(ends[Int(symbol) + 1])]
    }

    private func slot(of text: Span<UInt8>) -> Int {
        let mask = slots.count - 1
        var slot = Int(truncatingIfNeeded: Self.hash(text)) & mask
        while slots[slot] >= 0, !isEqual(slots[slot], text) { slot = (slot + 1) & mask }
        return slot
    }

    private func isEqual(_ symbol: Int32, _ text: Span<UInt8>) -> Bool {
        let start = Int(ends[Int(symbol)])
        if Int(ends[Int(symbol) + 1]) - start != text.count { return false }
        for index in text.indices where bytes[start + index] != text[index] { return false }
        return true
    }

    private mutating func grow() {
        let size = slots.count * 2
        var slots = [Int32](repeating: -1, count: size)
        for symbol in 0..<count {
            let text = bytes.span.extracting(Int(ends[symbol])..<Int(ends[symbol + 1]))
            var slot = Int(truncatingIfNeeded: Self.hash(text)) & (size - 1)
            while slots[slot] >= 0 { slot = (slot + 1) & (size - 1) }
            slots[slot] = Int32(symbol)
        }
        self.slots = slots
    }

    /// FNV-1a, folded: the low bits take part of the high ones.
    private static func hash(_ text: Span<UInt8>) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for index in text.indices { hash = (hash ^ UInt64(text[index])) &* 0x100_0000_01b3 }
        return hash ^ (hash >> 29)
    }
}

/// A map from 64-bit keys to numbers, filled once and then only read. Keys are not 0.
struct FlatMap: Sendable {
    private struct Entry {
        var key: UInt64
        var value: Int32
    }

    private var entries = [Entry](repeating: Entry(key: 0, value: -1), count: 16)
    private(set) var count = 0

    /// The value of a key, or -1.
    @inline(__always)
    func find(_ key: UInt64) -> Int32 {
        let mask = entries.count - 1
        var index = Self.home(key, mask)
        while entries[index].key != 0 {
            if entries[index].key == key { return entries[index].value }
            index = (index + 1) & mask
        }
        return -1
    }

    /// The value of a key, set to `value` first if the key is new.
    mutating func findOrInsert(_ key: UInt64, _ value: Int32) -> Int32 {
        precondition(key != 0, "0 marks a free entry")
        let mask = entries.count - 1
        var index = Self.home(key, mask)
        while entries[index].key != 0 {
            if entries[index].key == key { return entries[index].value }
            index = (index + 1) & mask
        }
        entries[index] = Entry(key: key, value: value)
        count += 1
        if count * 2 > entries.count { grow() }
        return value
    }

    private mutating func grow() {
        let old = entries
        entries = [Entry](repeating: Entry(key: 0, value: -1), count: old.count * 2)
        let mask = entries.count - 1
        for entry in old where entry.key != 0 {
            var index = Self.home(entry.key, mask)
            while entries[index].key != 0 { index = (index + 1) & mask }
            entries[index] = entry
        }
    }

    @inline(__always)
    private static func home(_ key: UInt64, _ mask: Int) -> Int {
        let mixed = (key ^ (key >> 31)) &* 0x9e37_79b9_7f4a_7c15
        return Int(truncatingIfNeeded: mixed >> 32) & mask
    }
}

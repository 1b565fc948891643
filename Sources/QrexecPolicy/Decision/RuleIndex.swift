/// A rule's source or target field as a number: its kind and its symbol.
struct Term: Sendable {
    let raw: UInt32

    init(_ kind: Token.Kind, _ symbol: Int32) { raw = UInt32(kind.rawValue) << 28 | UInt32(symbol) }

    /// The keywords are one term each, however they are spelled.
    init(_ token: Token) {
        switch token.kind {
        case .everything, .anyQube, .adminQube, .default, .disposable: self.init(token.kind, 0)
        case .qube, .disposableOf, .disposableOfTag, .tag, .type:
            self.init(token.kind, token.symbol)
        }
    }
}

/// Finds the first rule that matches without looking at the others.
///
/// A request matches a handful of source terms (its name, `@anyvm`, its tags…) and of target terms.
/// For each group of rules with the same service and argument the index knows the first rule of
/// each pair of terms, so a decision looks up pairs of terms, however many rules there are. Most
/// terms of a request are in no rule of its group: masks tell that without a look-up, which for
/// many rules is a miss of the processor's cache.
struct RuleIndex: Sendable {
    /// Rules with the same service and argument, or with the same source as well.
    private struct Bundle: Sendable {
        /// The lowest of its rules.
        let first: Int32
        /// The end of its rules in `cellRules` (cells only).
        var end: Int32 = 0
        /// A bit for each source term (groups) or target term (cells) that is in it.
        var mask: UInt64 = 0
    }

    /// The group of each service symbol for any argument, or -1.
    private var groupOfService: [Int32]
    /// (service, argument) → group, for those with an argument.
    private var groups = FlatMap()
    /// The group of all services, or -1.
    private var commonGroup: Int32 = -1
    /// (group, source term) → cell.
    private var cells = FlatMap()
    /// (cell, target term) → first rule.
    private var slots = FlatMap()
    private var groupBundles: [Bundle] = []
    private var cellBundles: [Bundle] = []
    /// The rules of all cells one after another.
    private var cellRules: [Int32] = []
    /// Services that have rules for single arguments.
    private var hasArguments: [Bool]

    init(_ rules: [Rule], symbols: Int) {
        groupOfService = [Int32](repeating: -1, count: symbols)
        hasArguments = [Bool](repeating: false, count: symbols)
        var cellOfRule: [Int32] = []
        cellOfRule.reserveCapacity(rules.count)
        for (number, rule) in rules.enumerated() {
            let number = Int32(number)
            let group = makeGroup(rule.service, rule.argument)
            if group == groupBundles.count { groupBundles.append(Bundle(first: number)) }
            let source = Term(rule.source).raw
            groupBundles[Int(group)].mask |= Self.bit(source)
            let cell = cells.findOrInsert(Self.key(group, source), Int32(cellBundles.count))
            if cell == cellBundles.count { cellBundles.append(Bundle(first: number)) }
            let target = Term(rule.target).raw
            cellBundles[Int(cell)].mask |= Self.bit(target)
            _ = slots.findOrInsert(Self.key(cell, target), number)
            cellOfRule.append(cell)
        }
        fillCells(cellOfRule)
    }

    /// The group of a rule; a new one has the next number.
    private mutating func makeGroup(_ service: Int32, _ argument: Int32) -> Int32 {
        let next = Int32(groupBundles.count)
        if service < 0 {
            if commonGroup < 0 { commonGroup = next }
            return commonGroup
        }
        if argument < 0 {
            if groupOfService[Int(service)] < 0 { groupOfService[Int(service)] = next }
            return groupOfService[Int(service)]
        }
        hasArguments[Int(service)] = true
        return groups.findOrInsert(Self.groupKey(service, argument), next)
    }

    private mutating func fillCells(_ cellOfRule: [Int32]) {
        for cell in cellOfRule { cellBundles[Int(cell)].end += 1 }
        var next: [Int32] = []
        var end: Int32 = 0
        for index in cellBundles.indices {
            next.append(end)
            end += cellBundles[index].end
            cellBundles[index].end = end
        }
        cellRules = [Int32](repeating: 0, count: cellOfRule.count)
        for (rule, cell) in cellOfRule.enumerated() {
            cellRules[Int(next[Int(cell)])] = Int32(rule)
            next[Int(cell)] += 1
        }
    }

    private static func groupKey(_ service: Int32, _ argument: Int32) -> UInt64 {
        UInt64(service + 2) << 32 | UInt64(argument + 2)
    }

    private static func key(_ number: Int32, _ term: UInt32) -> UInt64 {
        UInt64(number + 1) << 32 | UInt64(term)
    }

    /// The bit of a term in a mask.
    @inline(__always)
    private static func bit(_ term: UInt32) -> UInt64 {
        1 << (UInt64(term &* 0x9e37_79b1) >> 26)
    }

    /// The groups that a service and argument belong to; -1 where there is none.
    func groups(service: Int32, argument: Int32) -> (Int32, Int32, Int32) {
        if service < 0 { return (-1, -1, commonGroup) }
        var exact: Int32 = -1
        if argument >= 0 && hasArguments[Int(service)] {
            exact = groups.find(Self.groupKey(service, argument))
        }
        return (exact, groupOfService[Int(service)], commonGroup)
    }

    /// Lowers `best` to the first rule of a group that matches one of each list of terms.
    func lower(
        _ best: inout Int32, group: Int32, terms: [UInt32], sources: Range<Int>,
        targets: Range<Int>
    ) {
        if group < 0 { return }
        let bundle = groupBundles[Int(group)]
        if bundle.first >= best { return }
        for index in sources {
            let source = terms[index]
            if bundle.mask & Self.bit(source) == 0 { continue }
            let number = cells.find(Self.key(group, source))
            if number < 0 { continue }
            let cell = cellBundles[Int(number)]
            if cell.first >= best { continue }
            for index in targets {
                let target = terms[index]
                if cell.mask & Self.bit(target) == 0 { continue }
                let rule = slots.find(Self.key(number, target))
                if rule >= 0 && rule < best { best = rule }
            }
        }
    }

    /// Adds the rules of a group whose source is one of the terms, whatever their target.
    func collect(
        _ rules: inout [Int32], group: Int32, terms: [UInt32], sources: Range<Int>
    ) {
        if group < 0 { return }
        for source in sources {
            let cell = Int(cells.find(Self.key(group, terms[source])))
            if cell < 0 { continue }
            let start = cell == 0 ? 0 : cellBundles[cell - 1].end
            rules.append(contentsOf: cellRules[Int(start)..<Int(cellBundles[cell].end)])
        }
    }
}

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
/// each pair of terms, so a decision looks up pairs of terms, however many rules there are.
struct RuleIndex: Sendable {
    /// (service, argument) → group.
    private var groups = FlatMap()
    /// (group, source term) → cell.
    private var cells = FlatMap()
    /// (cell, target term) → first rule.
    private var slots = FlatMap()
    /// The lowest rule of each group and each cell.
    private var groupFirst: [Int32] = []
    private var cellFirst: [Int32] = []
    /// The rules of all cells one after another; those of cell i end at `cellEnds[i]`.
    private var cellRules: [Int32] = []
    private var cellEnds: [Int32] = []

    init(_ rules: [Rule]) {
        var cellOfRule: [Int32] = []
        cellOfRule.reserveCapacity(rules.count)
        for (number, rule) in rules.enumerated() {
            let number = Int32(number)
            let key = Self.groupKey(rule.service, rule.argument)
            let group = groups.findOrInsert(key, Int32(groupFirst.count))
            if group == groupFirst.count { groupFirst.append(number) }
            let cell = cells.findOrInsert(
                Self.key(group, Term(rule.source).raw), Int32(cellFirst.count))
            if cell == cellFirst.count { cellFirst.append(number) }
            _ = slots.findOrInsert(Self.key(cell, Term(rule.target).raw), number)
            cellOfRule.append(cell)
        }
        fillCells(cellOfRule)
    }

    private mutating func fillCells(_ cellOfRule: [Int32]) {
        var counts = [Int32](repeating: 0, count: cellFirst.count)
        for cell in cellOfRule { counts[Int(cell)] += 1 }
        var next: [Int32] = []
        var end: Int32 = 0
        for count in counts {
            next.append(end)
            end += count
            cellEnds.append(end)
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

    /// The groups that a service and argument belong to; -1 where there is none.
    func groups(service: Int32, argument: Int32) -> (Int32, Int32, Int32) {
        let any = SymbolTable.none
        var exact = SymbolTable.none
        var ofService = SymbolTable.none
        if service != any {
            if argument != any { exact = groups.find(Self.groupKey(service, argument)) }
            ofService = groups.find(Self.groupKey(service, any))
        }
        return (exact, ofService, groups.find(Self.groupKey(any, any)))
    }

    /// Lowers `best` to the first rule of a group that matches one of each list of terms.
    func lower(
        _ best: inout Int32, group: Int32, terms: [UInt32], sources: Range<Int>,
        targets: Range<Int>
    ) {
        if group < 0 || groupFirst[Int(group)] >= best { return }
        for source in sources {
            let cell = cells.find(Self.key(group, terms[source]))
            if cell < 0 || cellFirst[Int(cell)] >= best { continue }
            for target in targets {
                let rule = slots.find(Self.key(cell, terms[target]))
                if rule >= 0 && rule < best { best = rule }
            }
        }
    }

    /// The first rule of each pair of terms: rules that are not among them can never decide.
    func firstRule(like rule: Rule) -> Int32 {
        let group = groups.find(Self.groupKey(rule.service, rule.argument))
        let cell = cells.find(Self.key(group, Term(rule.source).raw))
        return slots.find(Self.key(cell, Term(rule.target).raw))
    }

    /// Adds the rules of a group whose source is one of the terms, whatever their target.
    func collect(
        _ rules: inout [Int32], group: Int32, terms: [UInt32], sources: Range<Int>
    ) {
        if group < 0 { return }
        for source in sources {
            let cell = Int(cells.find(Self.key(group, terms[source])))
            if cell < 0 { continue }
            let start = cell == 0 ? 0 : Int(cellEnds[cell - 1])
            rules.append(contentsOf: cellRules[start..<Int(cellEnds[cell])])
        }
    }
}

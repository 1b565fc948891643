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

    /// Spreads a term over 32 bits.
    @inline(__always)
    static func mixed(_ raw: UInt32) -> UInt32 {
        let product = (raw ^ raw >> 15) &* 0x9e37_79b1
        return product ^ product >> 15
    }
}

/// A rule as the index finds it: its number, and what mostly is all that is needed of it, so that
/// the rule itself is not looked at. A lower one decides before a higher one.
struct FoundRule: Sendable {
    /// The number of the rule, then two bits of its action and one for each property.
    let code: UInt32

    /// No rule.
    static let none = FoundRule(code: .max)
    /// Numbers fit in what the properties leave.
    static let maximumNumber = 1 << 27 - 2

    init(code: UInt32) { self.code = code }

    init(number: Int, _ rule: Rule) {
        let action: UInt32 =
            switch rule.action {
            case .allow: 0
            case .ask: 1
            case .deny: 2
            }
        code =
            UInt32(number) << 5 | action << 3 | (rule.notify ? 4 : 0) | (rule.autostart ? 2 : 0)
            | (rule.redirect != nil ? 1 : 0)
    }

    /// -1 when no rule matches.
    var number: Int32 { code == .max ? -1 : Int32(code >> 5) }

    var action: PolicyAction {
        switch code >> 3 & 3 {
        case 0: .allow
        case 1: .ask
        default: .deny
        }
    }

    var notify: Bool { code & 4 != 0 }
    var autostart: Bool { code & 2 != 0 }
    var hasRedirect: Bool { code & 1 != 0 }
}

/// Finds the first rule that matches without looking at the others.
///
/// A request matches a handful of source terms (its name, `@anyvm`, its tags…) and of target terms.
/// For each group of rules with the same service and argument the index knows the first rule of
/// each pair of terms, so a decision looks up pairs of terms, however many rules there are.
///
/// With very many rules a decision is mostly waiting for memory. Therefore what it reads of a group
/// lies together: first the cells of sources that many qubes match (`@anyvm`, tags, types), found by
/// counting bits, then a small table of those that name one qube. A cell has its targets in the
/// order of their rules, and a mask that mostly tells without a further look that none matches.
struct RuleIndex: Sendable {
    /// Rules with the same service and argument.
    private struct Group: Sendable {
        /// The lowest of its rules.
        var first = UInt32.max
        /// Its part of `cells`: those of `shared`, then a table of open addressing.
        var start: Int32 = 0
        /// The size of the table.
        var size: Int32 = 0
        /// The shared source terms that are in it.
        var shared: UInt64 = 0
        /// Where the table begins.
        var table: Int32 { start &+ Int32(truncatingIfNeeded: shared.nonzeroBitCount) }
    }

    /// Rules with the same source as well.
    private struct Cell: Sendable {
        /// The source term, plus 1; 0 is free.
        var term: UInt32 = 0
        /// The lowest of its rules.
        var first = UInt32.max
        /// Where its part of `targets` begins; with a single target its term.
        var targets: UInt32 = 0
        /// 27 bits, one for each target term that is in it, and 5 that tell the size.
        var shape: UInt32 = 0
    }

    /// The first rule for a target term of a cell.
    private struct Target: Sendable {
        /// The target term, plus 1; 0 is free.
        var term: UInt32 = 0
        var rule = UInt32.max
    }

    /// Cells with more targets have a table of open addressing, others a list in rules' order.
    private static let longestList = 8

    /// The group of each service symbol for any argument, or -1.
    private var groupOfService: [Int32]
    /// (service, argument) → group, for those with an argument.
    private var groupNumbers = FlatMap()
    /// The group of all services, or -1.
    private var commonGroup: Int32 = -1
    /// Services that have rules for single arguments.
    private var hasArguments: [Bool]
    /// Source terms that many qubes match, at most 64; each has a bit in masks.
    private var sharedTerms: [UInt32] = []
    private var groups: [Group] = []
    private var cells: [Cell] = []
    private var targets: [Target] = []
    /// The rules of the cells, one cell after another; only questions need all of them.
    private var cellRules: [Int32] = []
    /// Where the rules of each cell begin in `cellRules`, and their end.
    private var cellStarts: [Int32] = [0]

    init(_ rules: [Rule], symbols: Int) {
        precondition(rules.count <= FoundRule.maximumNumber, "the loader limits rules")
        groupOfService = [Int32](repeating: -1, count: symbols)
        hasArguments = [Bool](repeating: false, count: symbols)
        for rule in rules where rule.source.kind != .qube && sharedTerms.count < 64 {
            let term = Term(rule.source).raw
            if !sharedTerms.contains(term) { sharedTerms.append(term) }
        }
        let order = sortedIntoGroups(rules)
        cells.reserveCapacity(rules.count)
        targets.reserveCapacity(rules.count)
        cellRules.reserveCapacity(rules.count)
        var builder = GroupBuilder(terms: Self.termCount(rules))
        var start = 0
        for number in groups.indices {
            let end = start + Int(groups[number].size)
            add(group: number, of: order[start..<end], rules, &builder)
            start = end
        }
    }

    // MARK: Building

    /// The group of a rule; a new one has the next number.
    private mutating func makeGroup(_ service: Int32, _ argument: Int32) -> Int32 {
        let next = Int32(groups.count)
        if service < 0 {
            if commonGroup < 0 { commonGroup = next }
            return commonGroup
        }
        if argument < 0 {
            if groupOfService[Int(service)] < 0 { groupOfService[Int(service)] = next }
            return groupOfService[Int(service)]
        }
        hasArguments[Int(service)] = true
        return groupNumbers.findOrInsert(Self.groupKey(service, argument), next)
    }

    /// Makes the groups, with the numbers of their rules as `size`.
    ///
    /// - Returns: the rules of the groups one after another, each group's in their order.
    private mutating func sortedIntoGroups(_ rules: [Rule]) -> [Int32] {
        var groupOfRule: [Int32] = []
        groupOfRule.reserveCapacity(rules.count)
        for rule in rules {
            let group = makeGroup(rule.service, rule.argument)
            if group == groups.count { groups.append(Group()) }
            groups[Int(group)].size += 1
            groupOfRule.append(group)
        }
        var next: [Int32] = []
        var end: Int32 = 0
        for group in groups {
            next.append(end)
            end += group.size
        }
        var order = [Int32](repeating: 0, count: rules.count)
        for (rule, group) in groupOfRule.enumerated() {
            order[Int(next[Int(group)])] = Int32(rule)
            next[Int(group)] += 1
        }
        return order
    }

    /// The highest symbol of a source, plus 1.
    private static func termCount(_ rules: [Rule]) -> Int {
        rules.reduce(0) { max($0, Int($1.source.symbol) + 1) }
    }

    /// Lays out one group: its table of cells, and their targets.
    private mutating func add(
        group number: Int, of numbers: ArraySlice<Int32>, _ rules: [Rule],
        _ builder: inout GroupBuilder
    ) {
        builder.begin(numbers.map { (Term(rules[Int($0)].source).raw, $0) })
        var group = Group()
        group.start = Int32(cells.count)
        var places: [(bit: Int, source: Int)] = []
        var single: [Int] = []
        for (index, source) in builder.sources.enumerated() {
            if let bit = sharedBit(source) {
                group.shared |= 1 << UInt64(bit)
                places.append((bit, index))
            } else {
                single.append(index)
            }
        }
        places.sort { $0.bit < $1.bit }
        // A quarter is free, so that a look-up soon ends.
        group.size = Int32(single.count * 4 / 3 + 1)
        var table = [Int](repeating: -1, count: Int(group.size))
        for index in single {
            var slot = Int(Self.home(builder.sources[index], group.size))
            while table[slot] >= 0 { slot = slot + 1 == table.count ? 0 : slot + 1 }
            table[slot] = index
        }
        for index in places.map(\.source) + table {
            if index >= 0 {
                let own = builder.rules(of: index)
                cellRules.append(contentsOf: own)
                let cell = makeCell(builder.sources[index], own, rules)
                cells.append(cell)
                group.first = min(group.first, cell.first)
            } else {
                cells.append(Cell())
            }
            cellStarts.append(Int32(cellRules.count))
        }
        groups[number] = group
    }

    private func sharedBit(_ term: UInt32) -> Int? { sharedTerms.firstIndex(of: term) }

    private mutating func makeCell(
        _ source: UInt32, _ numbers: ArraySlice<Int32>, _ rules: [Rule]
    ) -> Cell {
        let all = numbers.map { number in
            let rule = rules[Int(number)]
            return Target(
                term: Term(rule.target).raw + 1, rule: FoundRule(number: Int(number), rule).code)
        }
        var cell = Cell(term: source + 1, first: all[0].rule, targets: UInt32(targets.count))
        for target in all { cell.shape |= Self.bit(target.term - 1) }
        var list: [Target] = []
        for target in all where !list.contains(where: { $0.term == target.term }) {
            list.append(target)
            if list.count > Self.longestList { break }
        }
        if list.count <= Self.longestList {
            if list.count == 1 { cell.targets = list[0].term - 1 } else { targets += list }
            cell.shape |= UInt32(list.count)
            return cell
        }
        // Lists are 1 to 8 long: the code of a table is its logarithm and 8.
        var logarithm: UInt32 = 5
        while 1 << Int(logarithm) < all.count * 3 / 2 { logarithm += 1 }
        cell.shape |= logarithm + UInt32(Self.longestList)
        targets.append(contentsOf: repeatElement(Target(), count: 1 << Int(logarithm)))
        for target in all {
            let slot = tableSlot(of: target.term, cell.targets, logarithm)
            // The first one stays: it decides.
            if targets[slot].term == 0 { targets[slot] = target }
        }
        return cell
    }

    /// The place of a target term (plus 1) in a table, or the free place where it would be.
    @inline(__always)
    private func tableSlot(of term: UInt32, _ start: UInt32, _ logarithm: UInt32) -> Int {
        let mask = 1 << Int(logarithm) - 1
        var slot = Int(Term.mixed(term - 1)) & mask
        while targets[Int(start) + slot].term != 0, targets[Int(start) + slot].term != term {
            slot = (slot + 1) & mask
        }
        return Int(start) + slot
    }

    private static func groupKey(_ service: Int32, _ argument: Int32) -> UInt64 {
        UInt64(service + 2) << 32 | UInt64(argument + 2)
    }

    /// The place of a term in a table of any size.
    @inline(__always)
    private static func home(_ term: UInt32, _ size: Int32) -> Int32 {
        Int32(truncatingIfNeeded: (UInt64(Term.mixed(term)) &* UInt64(UInt32(size))) >> 32)
    }

    /// The bit of a target term in the mask of a cell.
    @inline(__always)
    private static func bit(_ term: UInt32) -> UInt32 {
        32 &<< UInt32(truncatingIfNeeded: (UInt64(term &* 0x85eb_ca6b) &* 27) >> 32)
    }

    // MARK: Looking up

    /// The groups that a service and argument belong to; -1 where there is none.
    func groups(service: Int32, argument: Int32) -> (Int32, Int32, Int32) {
        if service < 0 { return (-1, -1, commonGroup) }
        var exact: Int32 = -1
        if argument >= 0 && hasArguments[Int(service)] {
            exact = groupNumbers.find(Self.groupKey(service, argument))
        }
        return (exact, groupOfService[Int(service)], commonGroup)
    }

    /// Source terms as the index looks for them.
    struct Sources {
        /// A bit for each of those that many qubes match.
        var shared: UInt64 = 0
        /// The others, as a range of a list of terms.
        var single = 0..<0
    }

    /// Splits source terms.
    ///
    /// - Parameter list: the terms that are not shared are added to it.
    func sources(_ terms: [Term], _ list: inout [UInt32]) -> Sources {
        var sources = Sources()
        let start = list.count
        for term in terms {
            if let bit = sharedBit(term.raw) {
                sources.shared |= 1 << UInt64(bit)
            } else {
                list.append(term.raw)
            }
        }
        sources.single = start..<list.count
        return sources
    }

    /// What a request matches.
    struct Request {
        let terms: [UInt32]
        let sources: Sources
        /// A range of `terms`.
        let targets: Range<Int>
        /// The bits of the target terms.
        let mask: UInt32

        init(terms: [UInt32], sources: Sources, targets: Range<Int>) {
            self.terms = terms
            self.sources = sources
            self.targets = targets
            var mask: UInt32 = 0
            for index in targets { mask |= RuleIndex.bit(terms[index]) }
            self.mask = mask
        }

        @inline(__always)
        func hasTarget(_ term: UInt32) -> Bool {
            for index in targets where terms[index] == term { return true }
            return false
        }
    }

    /// Cells that may have the first rule.
    private struct Candidates {
        static let room = 32
        var places = InlineArray<32, Int32>(repeating: 0)
        var count = 0
    }

    /// The first rule of some groups that matches a request.
    ///
    /// With very many rules this waits for memory. All cells are looked at before any of them is
    /// followed to its targets, and without a branch, so that the waits are at the same time.
    func first(_ numbers: (Int32, Int32, Int32), _ request: Request) -> FoundRule {
        var best = FoundRule.none
        var candidates = Candidates()
        gather(&candidates, &best, numbers.0, request)
        gather(&candidates, &best, numbers.1, request)
        gather(&candidates, &best, numbers.2, request)
        follow(&candidates, &best, request)
        return best
    }

    @inline(__always)
    private func gather(
        _ candidates: inout Candidates, _ best: inout FoundRule, _ number: Int32,
        _ request: Request
    ) {
        if number < 0 { return }
        let group = groups[Int(number)]
        var shared = group.shared & request.sources.shared
        while shared != 0 {
            add(Int32(truncatingIfNeeded: Self.place(shared, group)), &candidates, &best, request)
            shared &= shared &- 1
        }
        for index in request.sources.single {
            let place = find(request.terms[index], group)
            if place >= 0 { add(place, &candidates, &best, request) }
        }
    }

    @inline(__always)
    private func add(
        _ place: Int32, _ candidates: inout Candidates, _ best: inout FoundRule,
        _ request: Request
    ) {
        if candidates.count == Candidates.room { follow(&candidates, &best, request) }
        candidates.places[candidates.count] = place
        let matches = cells[Int(place)].shape & request.mask & ~31
        candidates.count &+= matches == 0 ? 0 : 1
    }

    @inline(__always)
    private func follow(
        _ candidates: inout Candidates, _ best: inout FoundRule, _ request: Request
    ) {
        for index in 0..<candidates.count {
            lower(&best, cells[Int(candidates.places[index])], request)
        }
        candidates.count = 0
    }

    /// The place of the cell of the lowest of some shared terms of a group.
    @inline(__always)
    private static func place(_ shared: UInt64, _ group: Group) -> Int {
        let below = (shared & (0 &- shared)) &- 1
        return Int(group.start) &+ (group.shared & below).nonzeroBitCount
    }

    /// The place of a source's cell, or -1.
    @inline(__always)
    private func find(_ source: UInt32, _ group: Group) -> Int32 {
        var slot = Self.home(source, group.size)
        while true {
            let term = cells[Int(group.table &+ slot)].term
            if term == source &+ 1 { return group.table &+ slot }
            if term == 0 { return -1 }
            slot = slot &+ 1 == group.size ? 0 : slot &+ 1
        }
    }

    /// Lowers `best` to the first rule of a cell that matches a target term.
    @inline(__always)
    private func lower(_ best: inout FoundRule, _ cell: Cell, _ request: Request) {
        if cell.first >= best.code || cell.shape & request.mask == 0 { return }
        let size = cell.shape & 31
        if size == 1 {
            if request.hasTarget(cell.targets) { best = FoundRule(code: cell.first) }
        } else if size <= Self.longestList {
            for place in Int(cell.targets)..<Int(cell.targets) + Int(size) {
                let target = targets[place]
                if target.rule >= best.code { return }
                if Self.bit(target.term - 1) & request.mask == 0 { continue }
                if request.hasTarget(target.term - 1) {
                    best = FoundRule(code: target.rule)
                    return
                }
            }
        } else {
            for index in request.targets {
                let term = request.terms[index]
                if cell.shape & Self.bit(term) == 0 { continue }
                let slot = tableSlot(of: term + 1, cell.targets, size - UInt32(Self.longestList))
                if targets[slot].rule < best.code { best = FoundRule(code: targets[slot].rule) }
            }
        }
    }

    /// Adds the rules of a group whose source is one of the terms, whatever their target.
    func collect(
        _ rules: inout [Int32], group number: Int32, terms: [UInt32], sources: Sources
    ) {
        if number < 0 { return }
        let group = groups[Int(number)]
        var places: [Int] = []
        var shared = group.shared & sources.shared
        while shared != 0 {
            places.append(Self.place(shared, group))
            shared &= shared &- 1
        }
        for index in sources.single {
            let place = find(terms[index], group)
            if place >= 0 { places.append(Int(place)) }
        }
        for place in places {
            rules.append(
                contentsOf: cellRules[Int(cellStarts[place])..<Int(cellStarts[place + 1])])
        }
    }
}

/// Sorts the rules of one group by their source; its memory serves all groups.
private struct GroupBuilder {
    /// The source terms of the group, in the order in which they come first.
    private(set) var sources: [UInt32] = []
    private var starts: [Int32] = []
    private var order: [Int32] = []
    /// For each kind and symbol the place in `sources`, or -1.
    private var places: [Int32]
    private let symbols: Int

    init(terms symbols: Int) {
        self.symbols = symbols
        places = [Int32](repeating: -1, count: max(symbols, 1) * 10)
    }

    private func key(_ term: UInt32) -> Int {
        Int(term >> 28) * symbols + Int(term & 0xFFF_FFFF)
    }

    mutating func begin(_ rules: [(source: UInt32, number: Int32)]) {
        for source in sources { places[key(source)] = -1 }
        sources.removeAll(keepingCapacity: true)
        starts.removeAll(keepingCapacity: true)
        var counts: [Int32] = []
        for rule in rules {
            let key = key(rule.source)
            if places[key] < 0 {
                places[key] = Int32(sources.count)
                sources.append(rule.source)
                counts.append(0)
            }
            counts[Int(places[key])] += 1
        }
        var next: [Int32] = []
        var end: Int32 = 0
        for count in counts {
            starts.append(end)
            next.append(end)
            end += count
        }
        starts.append(end)
        order = [Int32](repeating: 0, count: rules.count)
        for rule in rules {
            let place = Int(places[key(rule.source)])
            order[Int(next[place])] = rule.number
            next[place] += 1
        }
    }

    /// The rules of a source, in their order.
    func rules(of source: Int) -> ArraySlice<Int32> {
        order[Int(starts[source])..<Int(starts[source + 1])]
    }
}

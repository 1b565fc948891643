/// The qubes of one moment in the terms of a policy: for each qube the terms that match it.
struct Binding: Sendable {
    /// The ranges of a qube in `terms`.
    struct Ranges: Sendable {
        var asSource = RuleIndex.Sources()
        var asTarget = 0..<0
        /// As `@dispvm:QUBE`.
        var asTemplate = 0..<0
        /// What a call of this qube to `@dispvm` matches.
        var disposable = 0..<0
    }

    private(set) var terms: [UInt32] = []
    private(set) var qubes: [Ranges] = []
    /// What a call to `@default`, and to dom0 spelled `@adminvm`, matches.
    private(set) var defaultTarget = 0..<0
    private(set) var adminKeyword = 0..<0
    /// The qube that a symbol of the policy names, or -1.
    private(set) var qubeOfSymbol: [Int32]

    init(_ policy: Policy, _ system: SystemInformation, _ index: RuleIndex) {
        qubeOfSymbol = [Int32](repeating: -1, count: policy.symbols.count)
        for (index, qube) in system.qubes.enumerated() {
            for name in Self.names(qube) {
                let symbol = policy.symbols.find(name)
                if symbol >= 0 { qubeOfSymbol[Int(symbol)] = Int32(index) }
            }
        }
        defaultTarget = append([Self.everything, Self.anyQube, Term(.default, 0)])
        adminKeyword = append([Self.everything, Term(.adminQube, 0)])
        for (number, qube) in system.qubes.enumerated() {
            var ranges = Ranges()
            let isAdmin = number == Int(system.adminQube)
            let common =
                [Self.everything, isAdmin ? Term(.adminQube, 0) : Self.anyQube]
                + Self.names(qube, .qube, policy.symbols)
                + Self.properties(qube, policy.symbols)
            ranges.asSource = index.sources(common, &terms)
            ranges.asTarget = append(common)
            let base = Self.template(qube, policy.symbols)
            ranges.asTemplate = append([Self.everything, Self.anyQube] + base)
            let template = Int(system.defaultDisposables[number])
            ranges.disposable = append(
                [Self.everything, Self.anyQube, Term(.disposable, 0)]
                    + (template < 0
                        ? [] : Self.ownTemplate(system.qubes[template], policy.symbols)))
            qubes.append(ranges)
        }
    }

    private static let everything = Term(.everything, 0)
    private static let anyQube = Term(.anyQube, 0)

    private mutating func append(_ added: [Term]) -> Range<Int> {
        let start = terms.count
        terms.append(contentsOf: added.map(\.raw))
        return start..<terms.count
    }

    private static func names(_ qube: Qube) -> [String] {
        qube.uuid.map { [qube.name, "uuid:" + $0] } ?? [qube.name]
    }

    private static func terms(
        _ texts: [String], _ kind: Token.Kind, _ symbols: SymbolTable
    ) -> [Term] {
        texts.compactMap { text in
            let symbol = symbols.find(text)
            return symbol < 0 ? nil : Term(kind, symbol)
        }
    }

    private static func names(
        _ qube: Qube, _ kind: Token.Kind, _ symbols: SymbolTable
    ) -> [Term] {
        terms(names(qube), kind, symbols)
    }

    private static func properties(_ qube: Qube, _ symbols: SymbolTable) -> [Term] {
        terms(qube.tags, .tag, symbols) + terms([qube.type], .type, symbols)
    }

    /// What `@dispvm:QUBE` matches.
    private static func template(_ qube: Qube, _ symbols: SymbolTable) -> [Term] {
        names(qube, .disposableOf, symbols) + templateTags(qube, symbols)
    }

    /// What `@dispvm` matches when that is the source's template: its name but, as in the
    /// reference, not its uuid.
    private static func ownTemplate(_ qube: Qube, _ symbols: SymbolTable) -> [Term] {
        terms([qube.name], .disposableOf, symbols) + templateTags(qube, symbols)
    }

    private static func templateTags(_ qube: Qube, _ symbols: SymbolTable) -> [Term] {
        qube.isDisposableTemplate ? terms(qube.tags, .disposableOfTag, symbols) : []
    }
}

/// All calls that a policy can tell apart, for tools that look at every one of them.
public struct CallSpace: Sendable {
    /// Service and argument, `SERVICE+ARGUMENT`.
    public struct Service: Sendable, Hashable {
        public let call: String
        /// What stands for all that no rule names: as people read it.
        public let shown: String

        public init(call: String, shown: String) {
            self.call = call
            self.shown = shown
        }
    }

    public var services: [Service]
    /// Names of the qubes that can call.
    public let sources: [String]
    /// Requested targets: names, `dom0`, `@default`, `@dispvm` and `@dispvm:NAME`.
    public let targets: [String]

    /// An argument and a service that no rule of the policies names.
    private static let otherWord = "other"

    /// The calls that the rules of these policies can tell apart.
    public init(_ policies: [Policy], _ system: SystemInformation) {
        var arguments: [String: Set<String>] = [:]
        var all: Set<String> = []
        for policy in policies {
            for rule in policy.rules where rule.service >= 0 {
                let service = policy.symbols.text(rule.service)
                all.insert(service)
                if rule.argument >= 0 {
                    arguments[service, default: []].insert(policy.symbols.text(rule.argument))
                }
            }
        }
        var services: [Service] = []
        for service in all.sorted(by: precedes) {
            let named = arguments[service] ?? []
            for argument in named.sorted(by: precedes) {
                services.append(Service(call: service + argument, shown: service + argument))
            }
            let other = Self.unused("+" + Self.otherWord, named)
            services.append(
                Service(call: service + other, shown: service + (named.isEmpty ? "" : "+(other)")))
        }
        let other = Self.unused(Self.otherWord, all)
        services.append(Service(call: other + "+", shown: "(any other service)"))
        self.services = services
        sources = system.qubes.map(\.name)
        targets =
            system.qubes.map(\.name) + ["@default", "@dispvm"]
            + system.qubes.filter(\.isDisposableTemplate).map { "@dispvm:" + $0.name }
    }

    private static func unused(_ word: String, _ used: Set<String>) -> String {
        var word = word
        while used.contains(word) { word += "-" }
        return word
    }
}

import LinuxSystem
import QrexecRuntime
import SystemPackage
import Vchan

/// `vchan-conformance`: the promises of a vchan, tried between two processes, or two domains.
public enum ConformanceProgram {
    static let usage = """
        Usage: vchan-conformance [OPTIONS]

        Tries what every vchan must keep, one case after the other, each side in a process of its
        own. Without --role both sides run here, over the local or the socket transport. With it one
        side runs here and the other one, started with the same options, in another domain.

          --transport NAME    local or socket (default local); with --role also xen, libxenvchan
          --pair NAME/NAME    transports of server and client: local, libxenvchan or socket. The C
                              library runs over the user-space Xen here, and meets local or itself
          --xen-local DIR     the user-space Xen (default: xen-local beside this program)
          --peer-transport T  with --role: what the other side uses, if it is not the same
          --role ROLE         server or client: this side only
          --domain PEER       number of the other domain (with --role)
          --own-domain N      with --state: act for this domain
          --state DIR         directory that both ends share (default: a temporary one)
          --port P            number of the first case's vchan (default 1000)
          --case TEXT         only cases whose name contains this
          --part K/N          of the many sizes of streams and frames, part K of N (from 0)
          --closes N          closes of the cases that look for lost data (default 2000)
          --bytes N           bytes each way of a streaming case at most (default 8388608)
          --list              print the names of the cases
          --quiet             print failures and the sum only
          --progress          say every ten seconds how far the closes have come
          -h, --help
          --version

        Exit status: 0 all cases kept; 1 one was not, or none was run; 2 wrong usage.
        """

    public static func run(arguments: [String]) -> Int32 {
        let settings: ConformanceSettings
        do throws(OptionParser.UsageError) {
            settings = try ConformanceSettings(Array(arguments.dropFirst()))
        } catch {
            Terminal.printError(
                "vchan-conformance: \(error.description)\nTry 'vchan-conformance --help'.")
            return 2
        }
        switch settings.mode {
        case .help: Terminal.print(usage)
        case .version: Terminal.print(Version.line("vchan-conformance"))
        case .list: for one in settings.cases { Terminal.print(one.name) }
        case .one(let number): return runCase(settings, number)
        case .all:
            do throws(ConformanceFailure) {
                var runner = try ConformanceRunner(settings)
                return try runner.run()
            } catch {
                Terminal.printError("vchan-conformance: \(error.description)")
                return 1
            }
        }
        return 0
    }

    @Sendable private static func tell(_ progress: String) {
        Terminal.printError("vchan-conformance: \(progress)")
    }

    /// The process of one side of one case.
    private static func runCase(_ settings: ConformanceSettings, _ number: Int) -> Int32 {
        do {
            let transport = try settings.end.transport()
            let side = ConformanceSide(
                role: settings.role!, transport: transport, peer: settings.end.peer!,
                port: settings.port(of: number),
                tellsDeath: settings.end.transportName == "local", crashesForReal: true,
                progress: settings.showsProgress ? Self.tell : nil)
            try settings.allCases[number].run(side)
            return 0
        } catch {
            Terminal.printError("vchan-conformance: \(error)")
            return 1
        }
    }
}

struct ConformanceSettings {
    enum Mode {
        case help, version, list, all
        /// One side of one case, by its number: how the program starts itself.
        case one(Int)
    }

    var mode = Mode.all
    var role: ConformanceSide.Role?
    var end = EndOptions()
    /// Transports of server and client.
    private(set) var pair: [String]?
    var xenLocal = ""
    var filter = ""
    /// This part of so many parts of the cases of which there are many.
    private var part = (index: 0, count: 1)
    private var peerTransport: String?
    var quiet = false
    var showsProgress = false
    private var closes = 2000
    private var bytes = 8 << 20
    private(set) var allCases: [ConformanceCase] = []
    private(set) var cases: [ConformanceCase] = []

    init(_ arguments: [String]) throws(OptionParser.UsageError) {
        let values = [
            "role", "case", "part", "closes", "bytes", "run-one", "pair", "xen-local",
            "peer-transport",
        ]
        let flags = ["list", "quiet", "progress", "version"]
        let parser = OptionParser(
            EndOptions.options + values.map { .init(long: $0, takesValue: true) }
                + flags.map { .init(long: $0) } + [.init(short: "h", long: "help")])
        // A closure cannot change self before it is whole.
        var taken: [(String, String)] = []
        let operands = try parser.parse(arguments) { name, value in taken.append((name, value)) }
        if let extra = operands.first { throw .init("unexpected argument '\(extra)'") }
        for (name, value) in taken {
            if try !end.take(name, value) { try take(name, value) }
        }
        if pair != nil, role != nil || end.transportName != nil {
            throw .init("--pair stands for --transport, without --role")
        }
        if pair == nil, role == nil { end.transportName = end.transportName ?? "local" }
        allCases = ConformanceCase.all(.init(bytes: bytes, closes: closes))
        let rings = areRings
        let offered = allCases.filter { rings || !$0.needsRings }
        cases = offered.enumerated().filter { index, one in
            !one.isOfMany || index % part.count == part.index
        }.map(\.element).filter { filter.isEmpty || $0.name.contains(filter) }
        if role != nil, end.peer == nil { throw .init("--role needs --domain") }
        if role != nil { try end.check() }
        if case .one(let number) = mode, number >= allCases.count || role == nil {
            throw .init("--run-one is for this program itself")
        }
    }

    private mutating func take(
        _ name: String, _ value: String
    ) throws(OptionParser.UsageError) {
        switch name {
        case "role":
            guard let role = ConformanceSide.Role(rawValue: value) else {
                throw .init("--role \(value): expected server or client")
            }
            self.role = role
        case "pair":
            let names = value.split(separator: "/").map(String.init)
            guard names.count == 2, Self.pairs.contains(names) else {
                throw .init("--pair \(value): expected one of \(Self.pairList)")
            }
            pair = names
        case "xen-local": xenLocal = value
        case "peer-transport": peerTransport = value
        case "part":
            let numbers = value.split(separator: "/").map { Int($0) ?? -1 }
            guard numbers.count == 2, numbers[1] > 0, 0..<numbers[1] ~= numbers[0] else {
                throw .init("--part \(value): expected two numbers such as 0/8")
            }
            part = (numbers[0], numbers[1])
        case "case": filter = value
        case "closes": closes = try Self.number(name, value)
        case "bytes": bytes = try Self.number(name, value)
        case "run-one": mode = .one(try Self.number(name, value))
        case "list": mode = .list
        case "quiet": quiet = true
        case "progress": showsProgress = true
        case "help": mode = .help
        default: mode = .version
        }
    }

    private static func number(
        _ name: String, _ value: String
    ) throws(OptionParser.UsageError) -> Int {
        guard let number = Int(value), 0..<1 << 32 ~= number else {
            throw .init("--\(name) \(value): expected a number")
        }
        return number
    }

    /// Each case has a vchan of its own, so that a late end of one never meets the next.
    func port(of number: Int) -> Port { Port((end.port?.rawValue ?? 1000) + UInt32(number))! }

    /// Who can meet whom on one machine.
    static let pairs = [
        ["local", "local"], ["local", "libxenvchan"], ["libxenvchan", "local"],
        ["libxenvchan", "libxenvchan"], ["socket", "socket"],
    ]
    private static var pairList: String {
        pairs.map { $0.joined(separator: "/") }.joined(separator: ", ")
    }

    /// Whether both sides are rings of this library, so that one can do harm to the other's pages.
    private var areRings: Bool {
        let names = [transport(of: .server), transport(of: .client), peerTransport]
        return !names.contains { $0 == "libxenvchan" || $0 == "socket" }
    }

    /// The transport of one side; nil is that of this machine.
    func transport(of role: ConformanceSide.Role) -> String? {
        guard let pair else { return end.transportName }
        return role == .server ? pair[0] : pair[1]
    }

    /// What the C library needs to find the user-space Xen, and who it is there.
    func childEnvironment(
        _ role: ConformanceSide.Role, state: String?, own: DomainID?
    ) -> [String] {
        guard pair != nil, transport(of: role) == "libxenvchan", let state, let own else {
            return CurrentProcess.environment
        }
        let names = ["LD_LIBRARY_PATH=", "XEN_LOCAL_STATE=", "XEN_LOCAL_DOMID="]
        return CurrentProcess.environment.filter { entry in
            !names.contains { entry.hasPrefix($0) }
        } + [names[0] + xenLocal, names[1] + state, names[2] + "\(own)"]
    }

    /// Arguments by which a child runs one side of one case.
    func childArguments(
        _ role: ConformanceSide.Role, case number: Int, state: String?, own: DomainID?,
        peer: DomainID
    ) -> [String] {
        var arguments = [
            "vchan-conformance", "--role", role.rawValue, "--run-one", String(number), "--domain",
            "\(peer)", "--closes", String(closes), "--bytes", String(bytes), "--port",
            "\(port(of: 0))",
        ]
        let name = transport(of: role)
        if let name { arguments += ["--transport", name] }
        if name != "libxenvchan", name != "xen" {
            if let state { arguments += ["--state", state] }
            if let own { arguments += ["--own-domain", "\(own)"] }
        }
        if showsProgress { arguments.append("--progress") }
        return arguments
    }
}

import QrexecRuntime

/// The command line of one of this module's tools: options, then operands.
struct ToolArguments {
    /// The name that the tool was started by.
    let program: String
    /// What was not taken yet; behind the options the operands.
    private(set) var rest: ArraySlice<String>
    /// The exit status of a wrong command line.
    private let usageStatus: Int32

    /// - Parameters:
    ///   - arguments: all of argv.
    ///   - name: what the tool is called when argv is empty.
    init(_ arguments: [String], name: String, usageStatus: Int32 = 2) {
        program = programName(arguments.first ?? name)
        rest = arguments.dropFirst()
        self.usageStatus = usageStatus
    }

    /// Takes everything up to the first operand; answers `--help` and `--version` itself.
    ///
    /// - Parameter take: told each other option; returns whether the tool has it.
    /// - Returns: the exit status when the tool has nothing more to do.
    mutating func takeOptions(help: String, _ take: (_ option: String) -> Bool) -> Int32? {
        while let option = rest.first, option.hasPrefix("-"), option != "-" {
            rest.removeFirst()
            switch option {
            case "--": return nil
            case "--help", "-h":
                say(help)
                return 0
            case "--version":
                say(Version.line(program) + "\n")
                return 0
            default: if !take(option) { return refuse("unknown option \(option)") }
            }
        }
        return nil
    }

    /// Takes the next operand.
    mutating func next() -> String? { rest.popFirst() }

    /// Says what is wrong with the command line, and returns the exit status for that.
    func refuse(_ text: String) -> Int32 {
        complain(program, "\(text); see --help")
        return usageStatus
    }
}

extension String {
    /// What follows a prefix; nil when this does not begin with it.
    func after(_ prefix: String) -> String? {
        hasPrefix(prefix) ? String(dropFirst(prefix.count)) : nil
    }
}

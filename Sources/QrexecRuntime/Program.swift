import LinuxSystem

/// How every program of this package opens: its options, `--help`, `--version`, and what it says
/// and returns when it is used wrongly.
public struct Program: Sendable {
    public let name: String
    private let usage: String
    private let parser: OptionParser
    /// The exit status of wrong usage, and of an option that there is not.
    private let wrongUsage: Int32
    private let unknownOption: Int32

    /// - Parameters:
    ///   - options: without `-h`, `--help` and `--version`, which every program has.
    ///   - stopsAtOperand: see `OptionParser`.
    public init(
        _ name: String, usage: String, _ options: [OptionParser.Option],
        stopsAtOperand: Bool = false, wrongUsage: Int32 = 1, unknownOption: Int32? = nil
    ) {
        self.name = name
        self.usage = usage
        self.wrongUsage = wrongUsage
        self.unknownOption = unknownOption ?? wrongUsage
        parser = OptionParser(
            options + [.init(short: "h", long: "help"), .init(long: "version")],
            stopsAtOperand: stopsAtOperand)
    }

    /// Reads the command line, then runs the program, or shows what was asked for, or what is wrong.
    ///
    /// - Parameters:
    ///   - list: the command line with the program's own name.
    ///   - start: the settings without any option.
    ///   - option: takes one option, by its long name or, without one, its short name.
    ///   - operands: takes what is no option; not called for `--help` and `--version`.
    /// - Returns: the exit status.
    public func run<Arguments>(
        _ list: [String], _ start: Arguments,
        option: (inout Arguments, _ name: String, _ value: String) throws(OptionParser.UsageError)
            -> Void,
        operands: (inout Arguments, [String]) throws(OptionParser.UsageError) -> Void,
        body: (Arguments) -> Int32
    ) -> Int32 {
        var arguments = start
        var shown: String?
        do throws(OptionParser.UsageError) {
            let rest = try parser.parse(Array(list.dropFirst())) {
                (name, value) throws(OptionParser.UsageError) in
                switch name {
                case "help": shown = usage
                case "version": shown = Version.line(self.name)
                default: try option(&arguments, name, value)
                }
            }
            if shown == nil { try operands(&arguments, rest) }
        } catch {
            Terminal.printError("\(name): \(error.description)")
            Terminal.printError("Try '\(name) --help'.")
            return error.isUnknownOption ? unknownOption : wrongUsage
        }
        if let shown {
            Terminal.print(shown)
            return 0
        }
        return body(arguments)
    }

    /// For programs that take no operands.
    public static func none<Arguments>(
        _ arguments: inout Arguments, _ operands: [String]
    ) throws(OptionParser.UsageError) {
        if let extra = operands.first {
            throw OptionParser.UsageError("unexpected argument '\(extra)'")
        }
    }
}

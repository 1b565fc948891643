import LinuxSystem

/// Command line options of the programs that start once a call (they cannot afford an argument
/// parser library): short and long ones, values as `-oV`, `-o V`, `--option=V`, `--option V`.
public struct OptionParser: Sendable {
    public struct Option: Sendable {
        public let short: Character?
        public let long: String?
        public let takesValue: Bool

        public init(short: Character? = nil, long: String? = nil, takesValue: Bool = false) {
            self.short = short
            self.long = long
            self.takesValue = takesValue
        }
    }

    public struct UsageError: Error, Sendable, CustomStringConvertible {
        public let description: String
        /// Whether an option was given that the program does not have.
        public let isUnknownOption: Bool

        public init(_ description: String, isUnknownOption: Bool = false) {
            self.description = description
            self.isUnknownOption = isUnknownOption
        }
    }

    private let options: [Option]
    private let stopsAtOperand: Bool

    /// - Parameter stopsAtOperand: whether everything from the first argument that is no option is
    ///   left alone (programs that take another program's command line).
    public init(_ options: [Option], stopsAtOperand: Bool = false) {
        self.options = options
        self.stopsAtOperand = stopsAtOperand
    }

    /// - Parameters:
    ///   - arguments: without the program's name.
    ///   - handle: called for each option in order, by its long name, or its short one when it has
    ///     no long one.
    /// - Returns: the operands.
    public func parse(
        _ arguments: [String],
        _ handle: (_ name: String, _ value: String) throws(UsageError) -> Void
    ) throws(UsageError) -> [String] {
        var operands: [String] = []
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            if argument == "--" {
                operands.append(contentsOf: rest)
                break
            }
            if argument.hasPrefix("--") {
                try parseLong(argument.dropFirst(2), &rest, handle)
            } else if argument.hasPrefix("-"), argument != "-" {
                try parseShort(argument.dropFirst(), &rest, handle)
            } else {
                operands.append(argument)
                if stopsAtOperand {
                    operands.append(contentsOf: rest)
                    break
                }
            }
        }
        return operands
    }

    private func parseLong(
        _ text: Substring, _ rest: inout ArraySlice<String>,
        _ handle: (String, String) throws(UsageError) -> Void
    ) throws(UsageError) {
        let name = text.prefix { $0 != "=" }
        guard let option = options.first(where: { $0.long.map { $0 == name } ?? false }) else {
            throw UsageError("unknown option --\(name)", isUnknownOption: true)
        }
        let inline = name.endIndex < text.endIndex ? text[text.index(after: name.endIndex)...] : nil
        guard option.takesValue else {
            if inline != nil { throw UsageError("option --\(name) takes no value") }
            try handle(String(name), "")
            return
        }
        guard let value = inline.map(String.init) ?? rest.popFirst() else {
            throw UsageError("option --\(name) needs a value")
        }
        try handle(String(name), value)
    }

    private func parseShort(
        _ text: Substring, _ rest: inout ArraySlice<String>,
        _ handle: (String, String) throws(UsageError) -> Void
    ) throws(UsageError) {
        var letters = text
        while let letter = letters.popFirst() {
            guard let option = options.first(where: { $0.short == letter }) else {
                throw UsageError("unknown option -\(letter)", isUnknownOption: true)
            }
            let name = option.long ?? String(letter)
            guard option.takesValue else {
                try handle(name, "")
                continue
            }
            guard let value = letters.isEmpty ? rest.popFirst() : String(letters) else {
                throw UsageError("option -\(letter) needs a value")
            }
            try handle(name, value)
            return
        }
    }
}

/// Text for people on the standard streams of a program.
public enum Terminal {
    public static func print(_ text: String) { write(text + "\n", to: 1) }

    public static func printError(_ text: String) { write(text + "\n", to: 2) }

    private static func write(_ text: String, to number: Int32) {
        // Nobody is left to be told when this fails.
        try? Descriptor.writeAll(Array(text.utf8), to: number)
    }
}

import LinuxSystem

/// One program file under several names: the name it is started by picks the tool, which keeps the
/// installed size small. `PROGRAM TOOL ARGUMENTS…` works too, and
/// `PROGRAM --list-tools` names the links that an installation makes.
public struct MultiCall {
    public typealias Tool = (_ arguments: [String]) -> Int32

    private let program: String
    private let tools: [String: Tool]

    public init(program: String, tools: [String: Tool]) {
        self.program = program
        self.tools = tools
    }

    /// Runs the tool and ends the process with its status.
    public func run() -> Never {
        CurrentProcess.completeStandardStreams()
        var arguments = CurrentProcess.arguments
        if arguments.isEmpty { arguments = [program] }
        let name = Self.basename(arguments[0])
        // A tool may have the program's own name, and is not asked then.
        if name == program, arguments.dropFirst().first == "--list-tools" {
            for name in tools.keys.sorted() { Terminal.print(name) }
            CurrentProcess.exit(0)
        }
        if let tool = tools[name] { CurrentProcess.exit(tool(arguments)) }
        if arguments.count > 1, let tool = tools[arguments[1]] {
            CurrentProcess.exit(tool(Array(arguments.dropFirst())))
        }
        let names = tools.keys.sorted().joined(separator: " ")
        if arguments.dropFirst().first == "--version" {
            Terminal.print(Version.line(program))
            CurrentProcess.exit(0)
        }
        Terminal.printError(
            "Usage: \(program) TOOL [ARGUMENTS…], or start it by a link of that name.\n"
                + "Tools: \(names)")
        CurrentProcess.exit(arguments.dropFirst().first == "--help" ? 0 : 2)
    }

    private static func basename(_ path: String) -> String {
        path.split(separator: "/").last.map(String.init) ?? path
    }
}

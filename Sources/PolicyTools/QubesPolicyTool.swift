import ArgumentParser
import QrexecRuntime

/// `qubes-policy`: reads, changes, checks and explains policy.
struct QubesPolicyTool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "qubes-policy",
        abstract: "Read, change, check and explain the policy for calls between qubes.",
        discussion: """
            qubes-policy -l | -g NAME | -r NAME | -d NAME work on the policy files themselves; \
            names of included files begin with include/.
            """,
        version: Version.line("qubes-policy"),
        subcommands: [
            EvaluateCommand.self, ExplainCommand.self, DiffCommand.self, TestCommand.self,
            FlowsCommand.self, ShadowedCommand.self, StatusCommand.self, FilesCommand.self,
        ],
        defaultSubcommand: FilesCommand.self)
}

/// The tools for people, by the names they are started with.
public enum PolicyTools {
    static let tools: [String: any ParsableCommand.Type] = [
        "qubes-policy": QubesPolicyTool.self,
        "qubes-policy-lint": LintTool.self,
        "qubes-policy-editor": EditorTool.self,
        "qrexec-policy-graph": GraphTool.self,
        "qrexec-legacy-convert": LegacyConvertTool.self,
        "qrexec-policy-restore": RestoreTool.self,
    ]

    /// Runs the tool that the program's name says, or its first argument.
    public static func main(_ arguments: [String]) -> Never {
        var rest = Array(arguments.dropFirst())
        let name = String(arguments.first?.split(separator: "/").last ?? "")
        if let tool = tools[name] { run(tool, rest) }
        if let first = rest.first, let tool = tools[first] {
            rest.removeFirst()
            run(tool, rest)
        }
        if rest.first == "--list-tools" {
            for name in tools.keys.sorted() { print(name) }
            QubesPolicyTool.exit()
        }
        Console.error(
            "start qubes-policy-tools by the name of a tool, or name it first: "
                + tools.keys.sorted().joined(separator: " "))
        QubesPolicyTool.exit(withError: ExitCode(ToolStatus.usage))
    }

    private static func run(_ tool: any ParsableCommand.Type, _ arguments: [String]) -> Never {
        func open<Tool: ParsableCommand>(_ tool: Tool.Type) -> Never {
            tool.main(arguments)
            tool.exit()
        }
        open(tool)
    }
}

import ArgumentParser
import QrexecPolicy
import QrexecRuntime

/// `qubes-policy-lint`: finds errors in policy files.
struct LintTool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "qubes-policy-lint",
        abstract: "Find errors in policy files.",
        discussion: """
            Each error is a line FILE:LINE: error: TEXT. Exit status: 0 no errors, 1 errors, \
            64 usage.
            """,
        version: Version.line("qubes-policy-lint"))

    @Flag(name: [.short, .long], help: "Show the line of each error.") var showLine = false
    @Flag(name: [.short, .long], help: "Files for !include-service, with three fields a line.")
    var includeService = false

    @OptionGroup var input: PolicyInput

    @Argument(help: ArgumentHelp("Files to look at; - is standard input.", valueName: "FILE"))
    var files: [String]

    func run() throws {
        var hasErrors = false
        for file in files where !lint(file) { hasErrors = true }
        if hasErrors { throw ExitCode(1) }
    }

    private func lint(_ file: String) -> Bool {
        guard let bytes = try? InputFile.read(file) else {
            Console.line("\(file):0: error: the file cannot be read")
            return false
        }
        // What is read from standard input stands for a file of the policy directory.
        let name =
            file == "-" ? input.policyDirectories.directories.last! + "/-" : absolutePath(file)
        let result = Policy.loadFile(
            name, contents: bytes, oldFormat: includeService,
            directories: input.policyDirectories)
        let lines = String(decoding: bytes, as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false)
        for diagnostic in result.diagnostics {
            let isHere = diagnostic.file == result.policy.files.first || result.policy.files.isEmpty
            let place = isHere ? file : diagnostic.file.display
            let column = diagnostic.column > 0 ? " (column \(diagnostic.column))" : ""
            Console.line(
                "\(place):\(diagnostic.line): \(diagnostic.severity.rawValue): "
                    + "\(diagnostic.message)\(column)")
            if showLine, isHere, lines.indices.contains(diagnostic.line - 1) {
                Console.line("    \(lines[diagnostic.line - 1])")
                if diagnostic.column > 0 {
                    Console.line(
                        "    " + String(repeating: " ", count: diagnostic.column - 1) + "^")
                }
            }
        }
        return result.isUsable
    }
}

import ArgumentParser
import Foundation
import LinuxSystem
import QrexecDom0
import QrexecPolicy

/// `qubes-policy status`: what the policy service has in force, and what is wrong with the files.
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show what the policy service has in force.",
        discussion: """
            Exit status: 0 the files are in force, 1 they are not (errors, or no qubes are known), \
            2 the service does not run.
            """)

    @Option(help: ArgumentHelp("Status file of the service.", valueName: "FILE"))
    var file = PolicyStatus.defaultPath

    @Flag(help: "Write JSON.") var json = false

    func run() throws {
        guard let data = FileManager.default.contents(atPath: file),
            let status = try? JSONReader.read([UInt8](data)),
            let pid = status["pid"]?.integer, kill(pid_t(pid), 0) == 0 || errno == EPERM
        else {
            Console.error("qrexec-policy-daemon does not run: every call is denied")
            throw ExitCode(2)
        }
        let errors = status["errors"]?.array ?? []
        let isKnown = status["qubes_known"]?.bool ?? false
        if json {
            Console.line(status.text)
        } else {
            show(status, errors, isKnown)
        }
        if !errors.isEmpty || !isKnown { throw ExitCode(1) }
    }

    private func show(_ status: JSONValue, _ errors: [JSONValue], _ isKnown: Bool) {
        let rules = status["rules"]?.integer
        let pid = status["pid"]?.integer ?? 0
        Console.line("qrexec-policy-daemon runs, pid \(pid)")
        if let rules, let since = status["loaded_at"]?.string {
            let files = status["files"]?.integer ?? 0
            Console.line("\(rules) rules of \(files) files in force since \(since)")
        } else {
            Console.line(Console.colour("no policy in force: every call is denied", .red))
        }
        if !errors.isEmpty {
            Console.line(
                Console.colour("the files have errors; the last good policy stays in force:", .red))
            for error in errors { Console.line("  " + (error.string ?? "")) }
        }
        if isKnown {
            Console.line("\(status["qubes"]?.integer ?? 0) qubes known, kept current by qubesd")
        } else {
            let problem = status["problem"]?.string ?? ""
            Console.line(
                Console.colour("no qubes are known, every call is denied: \(problem)", .red))
        }
    }
}

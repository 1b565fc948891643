import ArgumentParser
import LinuxSystem
import QrexecPolicy

/// `qubes-policy evaluate`: what policy says about one call, or about many.
struct EvaluateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "evaluate",
        abstract: "Say what policy decides about a call, and the rule that decides.",
        usage: """
            qubes-policy evaluate [OPTIONS] SOURCE TARGET SERVICE[+ARG]
            qubes-policy evaluate [OPTIONS] --batch < REQUESTS
            """,
        discussion: """
            Exit status: 0 allow, 1 deny, 3 ask, 2 unusable policy, 64 usage.

            With --batch each line of the input is a JSON object with the keys source, target, \
            service, argument and requested_source, and each line of the output its decision.
            """)

    @OptionGroup var input: PolicyInput

    @Argument(help: ArgumentHelp("SOURCE, TARGET and SERVICE[+ARG].", valueName: "CALL"))
    var call: [String] = []

    @Option(
        name: .customLong("requested-source"),
        help: ArgumentHelp("The remote qube that SOURCE relays for.", valueName: "QUBE"))
    var requestedSource = ""

    @Flag(help: "Write JSON.") var json = false
    @Flag(help: "Decide the requests on standard input.") var batch = false

    func validate() throws {
        if batch && !call.isEmpty { throw ValidationError("--batch takes no call") }
        if !batch && call.count != 3 {
            throw ValidationError("expected SOURCE TARGET SERVICE[+ARG]")
        }
    }

    func run() throws {
        if batch { return try runBatch() }
        let request = CallRequest(
            source: call[0], target: call[1], service: call[2], requestedSource: requestedSource)
        let engine = try json ? loadOrReport() : input.loadEngine()
        let report = DecisionReport(
            engine: engine, decision: request.decide(engine), service: request.service)
        if json {
            Console.line(report.fullJSON.text)
        } else {
            show(report, request)
        }
        throw ExitCode(report.status)
    }

    private func show(_ report: DecisionReport, _ request: CallRequest) {
        let decision = report.decision
        Console.line(
            "\(Console.outcome(decision.outcome.rawValue)): \(request.fullService) from "
                + "\(request.source) to \(request.target.isEmpty ? "@default" : request.target)")
        Console.line("  rule: \(report.ruleText)")
        switch decision.outcome {
        case .deny: Console.line("  reason: \(decision.reason.text)")
        case .allow:
            for (name, value) in report.answer where name != "result" {
                Console.line("  \(name): \(value.string ?? "")")
            }
        case .ask:
            let question = decision.question
            Console.line("  choice: \((question?.targets ?? []).joined(separator: ", "))")
            if let preferred = question?.defaultTarget { Console.line("  default: \(preferred)") }
            if question?.isDefaultMissing == true {
                Console.line("  warning: the rule's default_target is not among them")
            }
        }
        if decision.notify { Console.line("  people are notified") }
    }

    /// The engine, or one line that says why there is none.
    private func loadOrReport() throws -> PolicyEngine {
        let result = Policy.load(input.policyDirectories)
        guard result.isUsable else {
            Console.line(PolicyErrorReport.json(result.errors).text)
            throw ExitCode(ToolStatus.unusablePolicy)
        }
        return PolicyEngine(result.policy, try input.loadSystem())
    }

    private func runBatch() throws {
        let engine = try loadOrReport()
        var hasMalformed = false
        var output = ""
        while let line = Console.readLine() {
            if line.allSatisfy(\.isWhitespace) { continue }
            do throws(CallRequest.Malformed) {
                let request = try CallRequest(json: Array(line.utf8))
                let report = DecisionReport(
                    engine: engine, decision: request.decide(engine), service: request.service)
                output += JSONValue.object(report.json).text + "\n"
            } catch {
                hasMalformed = true
                output +=
                    JSONValue.object([
                        ("error", .string("request")), ("message", .string(error.description)),
                    ]).text + "\n"
            }
            if output.utf8.count > 65536 {
                Console.write(output)
                output = ""
            }
        }
        Console.write(output)
        if hasMalformed { throw ExitCode(ToolStatus.usage) }
    }
}

/// Errors of a policy as one JSON object: the first of them, and all.
enum PolicyErrorReport {
    static func json(_ errors: [PolicyDiagnostic]) -> JSONValue {
        guard let first = errors.first else { return .null }
        var members: [(name: String, value: JSONValue)] = [("error", .string("syntax"))]
        members += self.members(first)
        members.append(("errors", .array(errors.map { .object(self.members($0)) })))
        return .object(members)
    }

    private static func members(
        _ error: PolicyDiagnostic
    ) -> [(name: String, value: JSONValue)] {
        [
            ("file", .string(error.file.display)), ("line", .number("\(error.line)")),
            ("column", .number("\(error.column)")),
            ("message", .string("\(error.file.display):\(error.line): \(error.message)")),
            ("found", .string(error.found)), ("expected", .string(error.expected)),
            ("suggestion", error.suggestion.map { .string($0) } ?? .null),
        ]
    }
}

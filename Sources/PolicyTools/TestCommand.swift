import ArgumentParser
import QrexecPolicy

/// `qubes-policy test`: a person's unit tests for a policy.
struct TestCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "test",
        abstract: "Check assertions about calls, all calls where wildcards stand.",
        discussion: """
            Each line of a FILE (- for standard input) is

              allow|ask|deny SERVICE[+ARG] SOURCE TARGET [target=QUBE]

            '*' as SERVICE is every service and argument, SERVICE+* every argument, '*' and \
            @anyvm, @tag:TAG and @type:TYPE every qube that is meant; '*' as TARGET also \
            @default and disposables. A call to oneself is left out where a wildcard stands. \
            Lines that begin with # are comments.

            Exit status: 0 all hold, 1 some do not, 2 unusable policy, 64 usage or a file that \
            cannot be read.
            """)

    @OptionGroup var input: PolicyInput

    @Argument(help: ArgumentHelp("Files with assertions.", valueName: "FILE"))
    var files: [String]

    @Option(help: ArgumentHelp("Failing calls that are shown for a line.", valueName: "N"))
    var show = 5

    func run() throws {
        var assertions: [(file: String, assertions: [PolicyAssertion])] = []
        for file in files {
            do {
                let text = String(decoding: try InputFile.read(file), as: UTF8.self)
                assertions.append((file, try PolicyAssertion.read(text, file: file)))
            } catch let error as PolicyAssertion.Malformed {
                Console.error("\(error)")
                throw ExitCode(ToolStatus.usage)
            } catch {
                Console.error("\(file): cannot be read: \(error)")
                throw ExitCode(ToolStatus.usage)
            }
        }
        let engine = try input.loadEngine()
        let checker = AssertionChecker(engine, shown: show)
        var failures = 0
        var count = 0
        for (file, list) in assertions {
            for assertion in list {
                count += 1
                if !checker.check(assertion, file: file) { failures += 1 }
            }
        }
        Console.line(
            failures == 0
                ? Console.colour("\(count) assertions hold", .green)
                : Console.colour("\(failures) of \(count) assertions fail", .red))
        if failures > 0 { throw ExitCode(1) }
    }
}

/// Checks assertions and tells those that fail.
struct AssertionChecker {
    private let engine: PolicyEngine
    private let space: CallSpace
    private let shown: Int

    init(_ engine: PolicyEngine, shown: Int) {
        self.engine = engine
        self.shown = shown
        space = CallSpace([engine.policy], engine.system)
    }

    /// - Returns: whether the assertion holds for every call that it is about.
    func check(_ assertion: PolicyAssertion, file: String) -> Bool {
        let calls: AssertionCalls
        do throws(AssertionCalls.Unknown) {
            calls = try AssertionCalls(assertion, space, engine.system)
        } catch {
            Console.line("\(file):\(assertion.line): \(assertion.text)")
            Console.line("    \(error)")
            return false
        }
        var failed = 0
        var tried = 0
        let isExact = calls.sources.count == 1 && calls.targets.count == 1
        for service in calls.services {
            for source in calls.sources {
                for target in calls.targets where isExact || source != target {
                    tried += 1
                    let decision = engine.decide(
                        source: source, target: target, service: service)
                    guard let problem = problem(assertion, decision) else { continue }
                    if failed == 0 { Console.line("\(file):\(assertion.line): \(assertion.text)") }
                    failed += 1
                    if failed > shown { continue }
                    let report = DecisionReport(
                        engine: engine, decision: decision, service: service)
                    Console.line("    \(service) from \(source) to \(target): \(problem)")
                    Console.line(
                        "        by \(report.ruleText)"
                            + (decision.outcome == .deny ? " (\(decision.reason.text))" : ""))
                }
            }
        }
        if failed > shown { Console.line("    and \(failed - shown) calls more") }
        if tried == 0 {
            Console.line("\(file):\(assertion.line): \(assertion.text)")
            Console.line("    there is no such call: no qube is meant")
            return false
        }
        return failed == 0
    }

    private func problem(_ assertion: PolicyAssertion, _ decision: Decision) -> String? {
        if decision.outcome != assertion.outcome {
            return "expected \(assertion.outcome.rawValue), got \(decision.outcome.rawValue)"
        }
        guard let redirect = assertion.redirect else { return nil }
        let target = engine.text(of: decision.target)
        return target == redirect ? nil : "expected to go to \(redirect), goes to \(target)"
    }
}

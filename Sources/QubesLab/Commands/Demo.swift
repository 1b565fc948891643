import ArgumentParser
import Glibc
import LinuxSystem
import QrexecRuntime
import SystemPackage

/// `qubes-lab demo`: a first look, in a lab of its own that is gone afterwards. Every step is a
/// command that a user could type.
struct Demo: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows an allowed and a denied call and a file copy, in a lab of its own.",
        discussion: "Status 0 if everything came out as promised. Nothing is left behind.")

    func run() throws {
        let programs = try Up.programs(nil)
        let state = StateDirectory("\(temporaryDirectory)/qubes-lab-demo-\(CurrentProcess.id)").path
        // A signal ends the demo between two steps, so that the lab is always taken down.
        let signals = try CurrentProcess.signalDescriptor([SIGINT, SIGTERM, SIGHUP])
        let stage = DemoStage(program: "\(programs)/qubes-lab", state: state)
        var outcome = DemoOutcome.completed
        for step in DemoStep.all {
            outcome = stage.perform(step)
            if let signal = try CurrentProcess.nextSignal(of: signals) {
                outcome = .interrupted(signal)
            }
            guard case .completed = outcome else { break }
        }
        stage.takeDown()
        switch outcome {
        case .completed:
            print("\nEverything came out as promised. Now try: \(programs)/qubes-lab up")
        case .failed(let what):
            print("\nThe demo failed: \(what)")
            throw ExitCode(1)
        case .interrupted(let signal):
            CurrentProcess.die(of: signal)
        }
    }

    private var temporaryDirectory: String {
        CurrentProcess.variable("TMPDIR").map { StateDirectory($0).path } ?? "/tmp"
    }
}

enum DemoOutcome {
    case completed
    case failed(String)
    case interrupted(Int32)
}

/// One step: what it shows, the command, and what must come out.
struct DemoStep {
    /// What is said before.
    let title: String
    /// Arguments of qubes-lab.
    var arguments: [String]
    var input = ""
    var expectedStatus: Int32 = 0
    /// Text that the output must have.
    var expected: [String] = []
    /// Runs before the command: prepares files of the lab.
    var prepare: (DemoStage) throws(Errno) -> Void = { (_) throws(Errno) in }

    static let service = """
        #!/bin/sh
        echo "Hello $QREXEC_REMOTE_DOMAIN, this is $(hostname). You said: $(cat)"

        """
    static let rule = "demo.Greet  *  work  personal  allow\n"

    /// A tree with all that is hard about names, modes and links.
    static let makeTree = """
        mkdir -p 'photos/a folder/inner' && cp -rL /etc/. photos/etc 2>/dev/null; \
        find photos -type d -exec chmod u+rwx {} + && \
        head -c 20000000 /dev/urandom > photos/large && \
        echo text > 'photos/a folder/Grüße 世界.txt' && : > photos/empty && \
        chmod 640 photos/large && chmod 755 photos/empty && touch -d '2001-02-03 04:05:06' photos/large && \
        ln -s ../large 'photos/a folder/link'
        """
    /// Names, kinds, modes, times, link targets and contents.
    static let describeTree = """
        find photos -mindepth 1 -printf '%P %y %m %T@ %l\\n' | LC_ALL=C sort | sha256sum; \
        find photos -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum; \
        find photos | wc -l
        """

    static var all: [DemoStep] {
        [
            DemoStep(
                title: "Start dom0 and some qubes, each a sandbox with the real programs",
                arguments: ["up"]),
            DemoStep(title: "They run", arguments: ["status"], expected: ["personal", "vault"]),
            DemoStep(
                title: "A service in 'personal' is an executable file:\n\(indented(service))\n"
                    + "dom0 allows it to 'work', by one line in its policy:\n\(indented(rule))\n"
                    + "A program in 'work' calls it",
                arguments: ["run", "work", "--", "qrexec-client-vm", "personal", "demo.Greet"],
                input: "data goes straight from qube to qube\n",
                expected: ["Hello work, this is personal", "straight from qube to qube"],
                prepare: { (stage) throws(Errno) in try stage.installService() }),
            DemoStep(
                title: "No rule allows it to 'untrusted': the same call is refused (status 126)",
                arguments: [
                    "run", "untrusted", "--", "qrexec-client-vm", "personal", "demo.Greet",
                ],
                expectedStatus: 126),
            DemoStep(
                title: "dom0's log says who asked what, which rule decided, and how long it took",
                arguments: ["log"],
                expected: ["outcome=allowed", "outcome=denied"]),
            DemoStep(
                title: "Copy a directory tree from 'work' to 'personal'",
                arguments: [
                    "run", "work", "--", "sh", "-c",
                    makeTree + " && qvm-copy-to-vm personal photos",
                ]),
            DemoStep(
                title: "It arrived whole: names, modes, times, links and contents are equal",
                arguments: [
                    "run", "personal", "--", "sh", "-c", "cd QubesIncoming/work && " + describeTree,
                ],
                prepare: { (stage) throws(Errno) in
                    stage.remember([
                        "run", "work", "--", "sh", "-c", describeTree,
                    ])
                }),
        ]
    }

    private static func indented(_ text: String) -> String {
        text.split(separator: "\n").map { "    \($0)" }.joined(separator: "\n")
    }
}

/// Runs the steps' commands and shows them.
final class DemoStage {
    private let program: String
    private let state: String
    private let colours = isatty(1) == 1
    private var remembered: String?
    private var number = 0

    init(program: String, state: String) {
        self.program = program
        self.state = state
    }

    private func bold(_ text: String) -> String { colours ? "\u{1B}[1m\(text)\u{1B}[0m" : text }

    func perform(_ step: DemoStep) -> DemoOutcome {
        number += 1
        print("\n" + bold("\(number). \(step.title)"))
        do throws(Errno) {
            try step.prepare(self)
        } catch {
            return .failed("the lab's files cannot be written: \(error)")
        }
        let shown = step.arguments.map { $0.contains(" ") ? "'…'" : $0 }.joined(separator: " ")
        let echo = step.input.isEmpty ? "" : "echo '\(step.input.dropLast())' | "
        print("$ \(echo)qubes-lab \(shown)")
        guard let (status, output) = command(step.arguments, input: step.input) else {
            return .failed("\(program) cannot be started")
        }
        let lines =
            step.arguments == ["log"]
            ? output.split(separator: "\n").filter { $0.contains(" call source=") }
            : output.split(separator: "\n")
        for line in lines { print("  \(line)") }
        guard status == step.expectedStatus else {
            return .failed("status \(status) instead of \(step.expectedStatus)")
        }
        for text in step.expected where !output.contains(text) {
            return .failed("the output has no '\(text)'")
        }
        if let remembered {
            self.remembered = nil
            guard remembered == output else {
                return .failed("the copy differs from the original:\n\(remembered)")
            }
        }
        print(bold("   as promised" + (status == 0 ? "" : " (status \(status))")))
        return .completed
    }

    /// The next step's output must be equal to that of this command.
    func remember(_ arguments: [String]) {
        remembered = command(arguments, input: "")?.output ?? ""
    }

    func takeDown() {
        print("\n" + bold("End: the lab is taken down"))
        _ = command(["down", "--quiet"], input: "")
    }

    func installService() throws(Errno) {
        try QubeFiles.write(
            DemoStep.service,
            to: "\(state)/qubes/personal/root/usr/local/etc/qubes-rpc/demo.Greet", mode: 0o755)
        try QubeFiles.write(
            DemoStep.rule, to: "\(state)/qubes/dom0/root/etc/qubes/policy.d/20-demo.policy",
            mode: 0o644)
    }

    /// Output and errors of a command together; nil when it cannot be started.
    private func command(
        _ arguments: [String], input: String
    ) -> (status: Int32, output: String)? {
        do throws(Errno) {
            let toChild = try Descriptor.pipe()
            let fromChild = try Descriptor.pipe()
            var request = SpawnRequest(
                path: program, arguments: [program] + arguments,
                environment: CurrentProcess.environment.filter { !$0.hasPrefix("QUBES_LAB_") }
                    + ["QUBES_LAB_STATE=\(state)"])
            request.descriptors = [
                toChild.first.number, fromChild.second.number, fromChild.second.number,
            ]
            let child = try ChildProcess.spawn(request)
            _ = consume toChild.first
            _ = consume fromChild.second
            try toChild.second.writeAll(Array(input.utf8))
            _ = consume toChild.second
            let output = try fromChild.first.readAll(limit: 16 << 20)
            return (try child.reap(), String(decoding: output, as: UTF8.self))
        } catch {
            return nil
        }
    }
}

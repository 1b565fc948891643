// Asks about one call in a window: JSON of qrexec-policy-agent on the input, `allow:TARGET` or
// `deny` on the output.
import CPromptWindow
import Glibc
import LinuxSystem
import QrexecPolicy
import QrexecRuntime
import SystemPackage

let program = "qrexec-policy-window"

func refuse(_ reason: String) -> Never {
    Terminal.printError("\(program): \(reason)")
    try? Descriptor.writeAll(Array("deny".utf8), to: 1)
    CurrentProcess.exit(1)
}

switch CommandLine.arguments.dropFirst().first {
case nil: break
case "--version":
    Terminal.print(Version.line(program))
    CurrentProcess.exit(0)
case "-h", "--help":
    Terminal.print(
        """
        usage: qrexec-policy-window < QUESTION

        Shows one question of qrexec-policy-agent in a window and prints the answer. No answer
        counts before the window had the focus for a second; Escape refuses.

        Exit status: 0 answered, 1 it could not ask (which refuses).
        """)
    CurrentProcess.exit(0)
default: refuse("it takes no arguments; see --help")
}

guard let bytes = try? Descriptor.duplicate(of: 0).readAll(limit: 4 << 20),
    let question = try? JSONReader.read(bytes), let source = question["source"]?.string,
    let targets = question["targets"]?.array, !targets.isEmpty
else { refuse("no question on the input") }

if prompt_window_start() != 0 { refuse("there is no display") }

func text(_ key: String) -> String { question[key]?.string ?? "" }
func icon(_ name: String) -> String { question["icons"]?[name]?.string ?? "" }

let window = prompt_window_make(
    source, icon(source), text("plain"), text("bold"), text("argument"), text("warning"))
let names = targets.map { $0.string ?? "" }
for name in names {
    prompt_window_add(window, name, icon(name), name == text("preselected") ? 1 : 0)
}
let answer = Int(prompt_window_run(window))
let isAllowed = names.indices.contains(answer) && !names[answer].isEmpty
try? Descriptor.writeAll(Array((isAllowed ? "allow:" + names[answer] : "deny").utf8), to: 1)
CurrentProcess.exit(0)

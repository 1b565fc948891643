// Stands in the place of a confined daemon that its qube has taken over, for the tests: tries
// everything that it must not be able to do, and prints what it could.
//
// The starter gives it the arguments of a daemon; the default user's name is what it is to try.
// Words separated by commas:
//   system, execute, reach   what a process, and a caller, could do
//   handles,PORT,OTHER       what can be done with the handles of a channel over Xen
//   free-handles,PORT,OTHER,DOMID,NAME   the same where nothing but the handles themselves stops it
//   anything else            one message to the dispatcher, commas for line ends
import Glibc
import LinuxSystem
import SystemPackage

let attempt = CurrentProcess.arguments.last ?? ""
let words = attempt.split(separator: ",").map(String.init)

func execute(_ path: String) -> Int {
    var arguments: [UnsafeMutablePointer<CChar>?] = [strdup(path), nil]
    _ = execve(path, &arguments, environ)
    return -1
}

switch words.first {
case "system":
    trySystem()
case "execute":
    _ = execute("/bin/sh")
case "handles":
    // As every daemon does before it reads a byte of its qube.
    try DaemonConfinement.finish()
    Handles(Line(Descriptor(taking: 3)), port: words[1], other: words[2])?.tryAll()
case "free-handles":
    let line = try Line(registeredAs: words[4], domain: words[3])
    Handles(line, port: words[1], other: words[2])?.tryAll()
case "reach":
    let line = Line(Descriptor(taking: 3))
    // An allowed call: the connection to the target's daemon takes nothing more.
    line.send("call\nid=1\ntarget=personal\nservice=test.Echo\nclaimed=")
    var descriptors = DescriptorList()
    let answer = line.receive(&descriptors) ?? "nothing"
    say(String(answer.split(separator: "\n").first ?? ""))
    guard let connection = descriptors.takeFirst() else { break }
    try? connection.setNonblocking(false)
    // EXEC_CMDLINE as another qube.
    let command = Array("root:QUBESRPC qubes.VMShell+ vault".utf8) + [0]
    let body: [UInt8] = [9, 0, 0, 0, 0, 0, 0, 0] + command
    let bytes: [UInt8] = [0, 2, 0, 0, UInt8(body.count), 0, 0, 0] + body
    var buffer = [UInt8](repeating: 0, count: 4096)
    var total = 0
    while total < 28, let count = try? connection.read(into: &buffer), count > 0 { total += count }
    _ = try? connection.write(bytes.span)
    let rest = (try? connection.read(into: &buffer)) ?? 0
    say("the target's daemon \(rest == 0 ? "closed" : "answered")")
default:
    // One message to the dispatcher, commas for line ends.
    let line = Line(Descriptor(taking: 3))
    line.send(attempt.replacing(",", with: "\n"))
    if let answer = line.receive() {
        say("answered \(answer.split(separator: "\n").sorted().joined(separator: " "))")
    } else {
        say("closed")
    }
}
say("done")

// Stands in the place of a confined daemon that its qube has taken over, for the tests: tries
// everything that it must not be able to do, and prints what it could.
//
// The starter gives it the arguments of a daemon; the default user's name is what it is to try.
import Glibc
import LinuxSystem
import SystemPackage

let attempt = CurrentProcess.arguments.last ?? ""
let line = Descriptor(taking: 3)
try? line.setNonblocking(false)

func say(_ text: String) { try? Descriptor.writeAll(Array("hostile: \(text)\n".utf8), to: 2) }

func send(_ text: String) {
    _ = try? UnixSocket.send(line, Array(text.utf8), descriptors: [], wait: true)
}

/// The dispatcher's next message and its descriptors; nil when it has closed the line.
func receive(_ descriptors: inout DescriptorList) -> String? {
    let bytes = try? UnixSocket.receive(
        line, limit: 70_000, maximumDescriptors: 4, wait: true, descriptors: &descriptors)
    return bytes.flatMap { $0.isEmpty ? nil : String(decoding: $0, as: UTF8.self) }
}

func receive() -> String? {
    var descriptors = DescriptorList()
    return receive(&descriptors)
}

/// Everything by which a process gets hold of something that it does not have.
func trySystem() {
    func could(_ what: String, _ result: Int) { if result >= 0 { say("could \(what)") } }
    for path in [
        "/", "/etc/passwd", "/proc/self/maps", "/proc/1/environ", "/dev/null", "/dev/xen/evtchn",
        "/run/qubes", "/run/qubes/policy.sock", "/run/xen-local", "/run/xen-local/peers/1",
        "/usr/bin/env", "/tmp",
    ] {
        for flags in [O_RDONLY, O_RDWR, 0o10000000] {
            could("open \(path)", Int(open(path, flags)))
        }
        could("look at \(path)", Int(access(path, F_OK)))
    }
    could("make a file", Int(open("/tmp/hostile", O_CREAT | O_RDWR, 0o600)))
    could("remove a file", Int(unlink("/run/qubes/policy.sock")))
    could("make a directory", Int(mkdir("/tmp/hostile", 0o700)))
    for (family, name) in [
        (AF_UNIX, "unix"), (AF_INET, "inet"), (AF_INET6, "inet6"), (16, "netlink"), (40, "vsock"),
    ] {
        could("make a \(name) socket", Int(socket(family, Int32(SOCK_STREAM.rawValue), 0)))
    }
    var pair: [Int32] = [0, 0]
    could("make a socket pair", Int(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair)))
    could("fork", syscall0(57))
    could("clone", syscall0(56))
    could("signal", Int(kill(getppid(), 0)))
    could("signal everybody", Int(kill(-1, 0)))
    for (name, number) in [
        ("ptrace", 101), ("process_vm_readv", 310), ("pidfd_open", 434), ("pidfd_getfd", 438),
        ("mount", 165), ("unshare", 272), ("setns", 308), ("chroot", 161), ("setuid", 105),
        ("io_uring_setup", 425), ("bpf", 321), ("userfaultfd", 323), ("memfd_create", 319),
        ("perf_event_open", 298), ("keyctl", 250), ("init_module", 175), ("shmget", 29),
        ("msgget", 68), ("mq_open", 240), ("inotify_init", 253), ("open_by_handle_at", 304),
        ("name_to_handle_at", 303), ("capset", 126), ("personality", 135), ("tgkill", 234),
    ] { could(name, syscall0(number)) }
    let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    could("run its own code", Int(mprotect(page, 4096, PROT_READ | PROT_EXEC)))
    let code = mmap(nil, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if code != MAP_FAILED { say("could map code") }
    for number in 4..<1024 where fcntl(Int32(number), F_GETFD) >= 0 {
        say("has descriptor \(number)")
    }
}

@_silgen_name("syscall") func systemCall(
    _ number: Int, _ a: Int, _ b: Int, _ c: Int, _ d: Int, _ e: Int, _ f: Int
) -> Int

/// A system call without arguments; a complaint about them is as good as a success.
func syscall0(_ number: Int) -> Int {
    let result = systemCall(number, 0, 0, 0, 0, 0, 0)
    if result == 0, number == 56 || number == 57 { _exit(0) }
    return result < 0 && errno != EPERM ? 0 : result
}

func execute(_ path: String) -> Int {
    var arguments: [UnsafeMutablePointer<CChar>?] = [strdup(path), nil]
    _ = execve(path, &arguments, environ)
    return -1
}

switch attempt {
case "system":
    trySystem()
case "execute":
    _ = execute("/bin/sh")
case "reach":
    // An allowed call: the connection to the target's daemon takes nothing more.
    send("call\nid=1\ntarget=personal\nservice=test.Echo\nclaimed=")
    var descriptors = DescriptorList()
    let answer = receive(&descriptors) ?? "nothing"
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
    // One message to the dispatcher, blanks for line ends.
    send(attempt.replacing(",", with: "\n"))
    if let answer = receive() {
        say("answered \(answer.split(separator: "\n").sorted().joined(separator: " "))")
    } else {
        say("closed")
    }
}
say("done")

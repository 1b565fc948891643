// Stands in for a receiver of files that was taken over: shuts itself in as the receiver does, then
// tries what an attacker would. Prints a line `WHAT: allowed` or `WHAT: errno NUMBER` for each.
//
//   receiver-probe INCOMING SECRET SOCKET PID
import Glibc
import LinuxSystem
import QubesServices

let arguments = CommandLine.arguments
guard arguments.count == 5, let victim = Int32(arguments[4]) else { exit(2) }
let (secret, socketPath) = (arguments[2], arguments[3])

func attempt(_ what: String, _ body: () -> Int) {
    errno = 0
    let result = body()
    let text = result >= 0 ? "allowed" : "errno \(errno)"
    try? Descriptor.writeAll(Array("\(what): \(text)\n".utf8), to: 1)
}

func connectTo(path: String) -> Int {
    let number = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    if number < 0 { return -1 }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let length = socklen_t(MemoryLayout<sockaddr_un>.size)
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { Int(connect(number, $0, length)) }
    }
}

let owner = IncomingDirectory.Owner(user: getuid(), group: getgid(), home: "/")
do {
    let place = try IncomingDirectory.open(arguments[1], for: owner)
    let root = try IncomingDirectory.confine(to: place, as: owner)
    let number = root.number
    attempt("create a file") { Int(openat(number, "new", O_CREAT | O_EXCL | O_WRONLY, 0o600)) }
    attempt("read a secret") { Int(open(secret, O_RDONLY)) }
    attempt("read a secret by way of the directory") {
        Int(openat(number, "../secret", O_RDONLY))
    }
    attempt("read what arrived") { Int(openat(number, "new", O_RDONLY)) }
    attempt("write beside the directory") {
        Int(openat(number, "../planted", O_CREAT | O_WRONLY, 0o600))
    }
    attempt("make a link to a secret") { Int(symlinkat(secret, number, "link")) }
    attempt("read a secret through that link") { Int(openat(number, "link", O_RDONLY)) }
    attempt("write through that link") { Int(openat(number, "link", O_WRONLY)) }
    attempt("make a device") { Int(mknodat(number, "device", S_IFCHR | 0o600, 0x103)) }
    attempt("make a socket") { Int(socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)) }
    attempt("call the agent") { connectTo(path: socketPath) }
    attempt("start a program") { Int(execv("/bin/true", [nil])) }
    attempt("start a process") {
        var pid: pid_t = 0
        return -Int(posix_spawn(&pid, "/bin/true", nil, nil, [nil], [nil]))
    }
    attempt("signal a process") { Int(kill(victim, 0)) }
    attempt("look into a process") { Int(open("/proc/\(victim)/mem", O_RDWR)) }
    attempt("rename") { Int(renameat(number, "new", number, "other")) }
    attempt("become root again") { Int(setuid(0)) }
    attempt("mount") { Int(mount("none", "/", "tmpfs", 0, nil)) }
} catch {
    print("failed: \(error)")
    exit(1)
}

import Glibc
import LinuxSystem
import SystemPackage

/// Everything by which a process gets hold of something that it does not have.
func trySystem() {
    for path in [
        "/", "/etc/passwd", "/proc/self/maps", "/proc/1/environ", "/dev/null", "/dev/xen/evtchn",
        "/dev/xen/gntdev", "/dev/xen/xenbus", "/dev/xen/privcmd", "/run/xenstored/socket",
        "/run/qubes", "/run/qubes/policy.sock", "/run/qubes/dispatcher.sock", "/run/qubesd.sock",
        "/run/xen-local", "/run/xen-local/peers/1", "/usr/bin/env", "/tmp",
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
        ("process_vm_readv", 310), ("pidfd_open", 434), ("pidfd_getfd", 438),
        ("mount", 165), ("unshare", 272), ("setns", 308), ("chroot", 161), ("setuid", 105),
        ("io_uring_setup", 425), ("bpf", 321), ("userfaultfd", 323), ("memfd_create", 319),
        ("perf_event_open", 298), ("keyctl", 250), ("init_module", 175), ("shmget", 29),
        ("msgget", 68), ("mq_open", 240), ("inotify_init", 253), ("open_by_handle_at", 304),
        ("name_to_handle_at", 303), ("capset", 126), ("personality", 135), ("tgkill", 234),
    ] { could(name, syscall0(number)) }
    // Of nobody: request 0 would make the parent our tracer, to whom each signal that comes looks
    // like our end.
    could("ptrace", syscall0(101, 0x4206))
    let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    could("run its own code", Int(mprotect(page, 4096, PROT_READ | PROT_EXEC)))
    let code = mmap(nil, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if code != MAP_FAILED { say("could map code") }
    for number in 4..<1024 where fcntl(Int32(number), F_GETFD) >= 0 {
        say("has descriptor \(number)")
    }
}

/// A system call with one argument at most; a complaint about the others is as good as a success.
func syscall0(_ number: Int, _ argument: Int = 0) -> Int {
    let result = systemCall(number, argument, 0, 0, 0, 0, 0)
    if result == 0, number == 56 || number == 57 { _exit(0) }
    return result < 0 && errno != EPERM ? 0 : result
}

// Which system calls a process may still make.
#define _GNU_SOURCE
#include "DaemonConfinement.h"
#include "FileTree.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "no filter for this architecture"
#endif

// The instructions of one filter. All that it does not allow is EPERM.
struct filter {
    size_t count;
    struct sock_filter code[256];
};

static void add(struct filter *filter, struct sock_filter instruction) {
    filter->code[filter->count++] = instruction;
}

static void load(struct filter *filter, size_t field) {
    add(filter, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)field));
}

static void answer(struct filter *filter, uint32_t action) {
    add(filter, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

// Goes on behind the next `skip` instructions unless the loaded word is `value`.
static void unless(struct filter *filter, uint32_t value, uint8_t skip) {
    add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip));
}

// Calls of another architecture have other numbers, and end the process.
static void begin(struct filter *filter) {
    filter->count = 0;
    load(filter, offsetof(struct seccomp_data, arch));
    add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCHITECTURE, 1, 0));
    answer(filter, SECCOMP_RET_KILL_PROCESS);
    load(filter, offsetof(struct seccomp_data, nr));
}

static void allow(struct filter *filter, const int *calls, size_t count) {
    for (size_t i = 0; i < count; i++) {
        unless(filter, (uint32_t)calls[i], 1);
        answer(filter, SECCOMP_RET_ALLOW);
    }
}

// Memory that is not to be executed: the third argument is its protection.
static void allow_data(struct filter *filter, int call) {
    unless(filter, (uint32_t)call, 4);
    load(filter, offsetof(struct seccomp_data, args[2]));
    add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 0));
    answer(filter, SECCOMP_RET_ALLOW);
    answer(filter, SECCOMP_RET_ERRNO | EPERM);
}

// One request to drivers: the second argument says which. The kernel looks at its lower half only.
static void allow_request(struct filter *filter, uint32_t request) {
    unless(filter, SYS_ioctl, 4);
    load(filter, offsetof(struct seccomp_data, args[1]));
    unless(filter, request, 1);
    answer(filter, SECCOMP_RET_ALLOW);
    answer(filter, SECCOMP_RET_ERRNO | EPERM);
}

// From now on for this thread and what it starts.
static int enforce(struct filter *filter) {
    answer(filter, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog program = {
        .len = (unsigned short)filter->count,
        .filter = filter->code,
    };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

// What a process needs that writes files beneath open directories: no sockets, no programs, no other
// processes, no mounts, no new names for what it must not reach.
static const int file_calls[] = {
    SYS_read, SYS_write, SYS_writev, SYS_close, SYS_lseek, SYS_ftruncate, SYS_openat, SYS_openat2,
    SYS_fstat, SYS_newfstatat, SYS_statx, SYS_fstatfs, SYS_linkat, SYS_unlinkat, SYS_mkdirat,
    SYS_symlinkat, SYS_fchmod, SYS_utimensat, SYS_syncfs, SYS_fcntl, SYS_ppoll,
#ifdef SYS_poll
    SYS_poll,
#endif
    SYS_clock_nanosleep, SYS_nanosleep, SYS_clock_gettime, SYS_mmap, SYS_munmap, SYS_mremap,
    SYS_mprotect, SYS_madvise, SYS_brk, SYS_futex, SYS_getrandom, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_restart_syscall, SYS_getpid, SYS_gettid, SYS_getuid,
    SYS_geteuid, SYS_exit, SYS_exit_group,
};

int cs_only_file_calls(void) {
    struct filter filter;
    begin(&filter);
    allow(&filter, file_calls, sizeof file_calls / sizeof *file_calls);
    return enforce(&filter);
}

// What a daemon does: its open descriptors, its memory, the time. No mapping is moved, and none gets
// other rights later: drivers' mappings are not made for that.
static const int daemon_calls[] = {
    SYS_read, SYS_pread64, SYS_write, SYS_readv, SYS_writev, SYS_close, SYS_lseek, SYS_fcntl,
    SYS_dup, SYS_dup3, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_shutdown,
    SYS_accept4, SYS_getsockopt, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_ppoll,
    SYS_signalfd4, SYS_timerfd_create, SYS_timerfd_settime, SYS_munmap, SYS_madvise, SYS_brk,
    SYS_clock_gettime, SYS_gettimeofday, SYS_nanosleep, SYS_clock_nanosleep,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_getpid,
    SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_futex, SYS_getrandom,
    SYS_sched_yield, SYS_sched_getaffinity, SYS_restart_syscall, SYS_exit, SYS_exit_group,
#if defined(__x86_64__)
    SYS_dup2, SYS_epoll_wait, SYS_poll, SYS_time,
#endif
};

// What a program needs to begin, and to take the rest away from itself.
static const int starting_calls[] = {
    SYS_execve, SYS_readlinkat, SYS_set_tid_address, SYS_set_robust_list, SYS_prlimit64, SYS_prctl,
    SYS_seccomp,
#if defined(SYS_rseq)
    SYS_rseq,
#endif
#if defined(__x86_64__)
    SYS_arch_prctl, SYS_readlink,
#endif
};

// To send an event, by /dev/xen/evtchn (protocol 2): all that a daemon asks of Xen's drivers. Its
// ports and pages were joined by who started it.
static const uint32_t notify_request = _IOC(_IOC_NONE, 'E', 4, sizeof(uint32_t));

_Static_assert(2 * (sizeof daemon_calls + sizeof starting_calls) / sizeof(int) + 32
                   < sizeof((struct filter *)0)->code / sizeof(struct sock_filter),
               "room for all instructions");

int cs_filter_system_calls(int can_execute) {
    struct filter filter;
    begin(&filter);
    allow(&filter, daemon_calls, sizeof daemon_calls / sizeof *daemon_calls);
    if (can_execute)
        allow(&filter, starting_calls, sizeof starting_calls / sizeof *starting_calls);
    allow_data(&filter, SYS_mmap);
    if (can_execute) allow_data(&filter, SYS_mprotect);
    allow_request(&filter, notify_request);
    return enforce(&filter);
}

// Taking everything from a daemon of dom0 but what it holds open.
#define _GNU_SOURCE
#include "DaemonConfinement.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

int cs_drop_capabilities(void) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -1;
    // Refused where there is no capability to do so: then there is none to be had either.
    for (int capability = 0; capability < 64; capability++) {
        int has = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
        if (has < 0) break;
        if (has > 0) (void)prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    }
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}, {0}};
    return (int)syscall(SYS_capset, &header, none);
}

// The rights of Landlock's versions, spelled out because the build machine's headers may be older
// than the kernel the program runs on.
struct daemon_ruleset {
    uint64_t files;
    uint64_t network;
    uint64_t scoped;
};

int cs_landlock_nothing(int program) {
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0) return -1;
    struct daemon_ruleset ruleset = {.files = (1 << 13) - 1};
    size_t size = sizeof ruleset.files;
    if (version >= 2) ruleset.files |= 1 << 13;
    if (version >= 3) ruleset.files |= 1 << 14;
    if (version >= 4) {
        ruleset.network = 3;
        size += sizeof ruleset.network;
    }
    if (version >= 5) ruleset.files |= 1 << 15;
    if (version >= 6) {
        ruleset.scoped = 3;
        size += sizeof ruleset.scoped;
    }
    int rules = (int)syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
    if (rules < 0) return -1;
    struct landlock_path_beneath_attr beneath = {
        .allowed_access = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE,
        .parent_fd = program,
    };
    int failed = (program >= 0
                  && syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0)
                      < 0)
        || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
        || syscall(SYS_landlock_restrict_self, rules, 0) < 0;
    int error = errno;
    close(rules);
    errno = error;
    return failed ? -1 : 0;
}

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "no filter for this architecture"
#endif

// What a daemon does: its open descriptors, its memory, the time.
static const int own_calls[] = {
    SYS_read, SYS_pread64, SYS_write, SYS_readv, SYS_writev, SYS_close, SYS_lseek, SYS_fcntl, SYS_dup, SYS_dup3,
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_shutdown, SYS_accept4, SYS_getsockopt,
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_ppoll, SYS_signalfd4,
    SYS_timerfd_create, SYS_timerfd_settime,
    SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk,
    SYS_clock_gettime, SYS_gettimeofday, SYS_nanosleep, SYS_clock_nanosleep,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack,
    SYS_getpid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
    SYS_futex, SYS_getrandom, SYS_sched_yield, SYS_sched_getaffinity, SYS_restart_syscall,
    SYS_exit, SYS_exit_group,
#if defined(__x86_64__)
    SYS_dup2, SYS_epoll_wait, SYS_poll, SYS_time,
#endif
};

// What a program needs to begin, and to take the rest away from itself.
static const int starting_calls[] = {
    SYS_execve, SYS_readlinkat, SYS_set_tid_address, SYS_set_robust_list, SYS_prlimit64, SYS_prctl, SYS_seccomp,
#if defined(SYS_rseq)
    SYS_rseq,
#endif
#if defined(__x86_64__)
    SYS_arch_prctl, SYS_readlink,
#endif
};

enum { maximum_filter = 256 };

static struct sock_filter *allow(struct sock_filter *next, const int *calls, size_t count) {
    for (size_t i = 0; i < count; i++) {
        *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1);
        *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    return next;
}

// Memory that is not to be executed: the third argument is its protection.
static struct sock_filter *allow_data(struct sock_filter *next, int call) {
    *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 4);
    *next++ = (struct sock_filter)BPF_STMT(
        BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2]));
    *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 0);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    return next;
}

int cs_filter_system_calls(int can_execute) {
    struct sock_filter filter[maximum_filter];
    struct sock_filter *next = filter;
    *next++ = (struct sock_filter)BPF_STMT(
        BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCHITECTURE, 1, 0);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    *next++ = (struct sock_filter)BPF_STMT(
        BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    next = allow(next, own_calls, sizeof own_calls / sizeof own_calls[0]);
    if (can_execute)
        next = allow(next, starting_calls, sizeof starting_calls / sizeof starting_calls[0]);
    next = allow_data(next, SYS_mmap);
    next = allow_data(next, SYS_mprotect);
    *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog program = {
        .len = (unsigned short)(next - filter),
        .filter = filter,
    };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

int cs_set_dumpable(int on) { return prctl(PR_SET_DUMPABLE, on, 0, 0, 0); }

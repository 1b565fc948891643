// Shutting a process into one directory before it reads bytes of another qube.
#define _GNU_SOURCE
#include "FileTree.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

// Later additions to the kernel's interface, spelled out because the build machine's headers may
// be older than the kernel the program runs on.
enum {
    right_refer = 1 << 13,
    right_truncate = 1 << 14,
    right_ioctl = 1 << 15,
    network_bind_and_connect = 3,
    scope_abstract_sockets_and_signals = 3,
};

struct ruleset {
    uint64_t files;
    uint64_t network;
    uint64_t scoped;
};

int cs_landlock_only(int directory) {
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0) return -1;
    struct ruleset ruleset = {.files = (1 << 13) - 1};
    size_t size = sizeof ruleset.files;
    if (version >= 2) ruleset.files |= right_refer;
    if (version >= 3) ruleset.files |= right_truncate;
    if (version >= 4) {
        ruleset.network = network_bind_and_connect;
        size += sizeof ruleset.network;
    }
    if (version >= 5) ruleset.files |= right_ioctl;
    if (version >= 6) {
        ruleset.scoped = scope_abstract_sockets_and_signals;
        size += sizeof ruleset.scoped;
    }
    int rules = (int)syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
    if (rules < 0) return -1;
    struct landlock_path_beneath_attr beneath = {
        .allowed_access = ruleset.files
            & (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_DIR
               | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR
               | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SYM | right_truncate),
        .parent_fd = directory,
    };
    int failed = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0
        || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
        || syscall(SYS_landlock_restrict_self, rules, 0) < 0;
    int error = errno;
    close(rules);
    errno = error;
    return failed ? -1 : 0;
}

int cs_enter_root(int directory) {
    int tree = (int)syscall(SYS_open_tree, directory, "",
                            AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0) return -1;
    struct mount_attr attributes = {
        .attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
    };
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0
        || fchdir(tree) < 0 || chroot(".") < 0) {
        int error = errno;
        close(tree);
        errno = error;
        return -1;
    }
    return tree;
}

int cs_become_user(uid_t uid, gid_t gid) {
    if (geteuid() == 0 && setgroups(1, &gid) < 0) return -1;
    if (setresgid(gid, gid, gid) < 0) return -1;
    return setresuid(uid, uid, uid);
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

#if defined(__x86_64__)
#define NATIVE_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

int cs_only_file_calls(void) {
#ifndef NATIVE_ARCHITECTURE
    errno = ENOSYS;
    return -1;
#else
    enum { count = sizeof file_calls / sizeof *file_calls };
    struct sock_filter program[count + 7];
    size_t n = 0;
    program[n++] = (struct sock_filter)BPF_STMT(
        BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    // Calls of another architecture have other numbers.
    program[n++] = (struct sock_filter)BPF_JUMP(
        BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCHITECTURE, 1, 0);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    program[n++] = (struct sock_filter)BPF_STMT(
        BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned char i = 0; i < count; i++)
        program[n++] = (struct sock_filter)BPF_JUMP(
            BPF_JMP | BPF_JEQ | BPF_K, (unsigned)file_calls[i], (unsigned char)(count - i), 0);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {.len = (unsigned short)n, .filter = program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
#endif
}

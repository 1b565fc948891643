#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

int cs_private_mounts(void) {
    if (unshare(CLONE_NEWNS) < 0) return -1;
    return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
}

int cs_mount_tmpfs(const char *target, const char *options) {
    return mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options);
}

int cs_bind(int source, const char *target, int read_only) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", source);
    if (mount(path, target, NULL, MS_BIND | MS_REC, NULL) < 0) return -1;
    if (!read_only) return 0;
    // In a user namespace the flags that the original mount has are locked and must be repeated.
    static const unsigned long locked[] = {0, MS_NOSUID | MS_NODEV, MS_NOSUID | MS_NODEV | MS_NOEXEC};
    unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY;
    for (size_t i = 0; i < sizeof locked / sizeof *locked; i++) {
        if (mount(NULL, target, NULL, flags | locked[i], NULL) == 0) return 0;
        if (errno != EPERM) return -1;
    }
    return -1;
}

static int write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t done = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return done < 0 ? -1 : 0;
}

static int write_map(pid_t pid, const char *file, unsigned inside, unsigned outside,
                     unsigned count) {
    char path[64], map[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    snprintf(map, sizeof map, "%u %u %u", inside, outside, count);
    return write_file(path, map);
}

// A second process writes the maps, because only one that is still outside may map more than one
// id. It is told by a byte that the namespace exists and tells by its exit status how it went.
int cs_enter_user_namespace(unsigned base, unsigned count) {
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) < 0) return -1;
    pid_t self = getpid();
    pid_t writer = fork();
    if (writer < 0) return -1;
    if (writer == 0) {
        char byte;
        close(ready[1]);
        if (read(ready[0], &byte, 1) != 1) _exit(EPIPE);
        if (write_map(self, "uid_map", 0, base, count) < 0
            || write_map(self, "gid_map", 0, base, count) < 0)
            _exit(errno);
        _exit(0);
    }
    int failed = unshare(CLONE_NEWUSER) < 0;
    int error = errno;
    if (!failed && write(ready[1], "", 1) != 1) {
        failed = 1;
        error = errno;
    }
    close(ready[0]);
    close(ready[1]);
    int status = 0;
    while (waitpid(writer, &status, 0) < 0 && errno == EINTR) {}
    if (!failed && status != 0) {
        failed = 1;
        error = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
    }
    if (failed) {
        errno = error;
        return -1;
    }
    if (syscall(SYS_setgroups, 0, NULL) < 0) return -1;
    if (syscall(SYS_setresgid, 0, 0, 0) < 0) return -1;
    return (int)syscall(SYS_setresuid, 0, 0, 0);
}

int cs_enter_own_namespaces(unsigned id) {
    unsigned uid = getuid(), gid = getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return -1;
    if (write_file("/proc/self/setgroups", "deny") < 0) return -1;
    if (write_map(getpid(), "uid_map", id, uid, 1) < 0) return -1;
    if (write_map(getpid(), "gid_map", id, gid, 1) < 0) return -1;
    return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
}

int cs_die_with_parent(void) { return prctl(PR_SET_PDEATHSIG, SIGKILL); }

int cs_dies_with_parent(void) {
    int signal = 0;
    return prctl(PR_GET_PDEATHSIG, &signal) == 0 && signal == SIGKILL;
}

int cs_execute(const char *path, char *const *argv, char *const *envp) {
    return execve(path, argv, envp);
}

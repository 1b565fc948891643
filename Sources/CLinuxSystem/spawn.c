#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Descriptors a child can be given; far above what any caller needs.
enum { max_child_descriptors = 64 };

// The soft limit of descriptors that this process was started with; children get it back, because
// programs that use select() break with more.
static struct rlimit started_with;

int cs_raise_own_descriptor_limit(unsigned long wanted) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -1;
    if (limit.rlim_cur >= wanted) return 0;
    if (started_with.rlim_cur == 0) started_with = limit;
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit);
}

struct child {
    const struct cs_spawn_request *request;
    pid_t parent;
    int error;
};

// The C library's set*id functions change every thread of the process, which here is still the
// parent's memory: only the bare system calls act on the child alone.
static int change_user(const struct cs_spawn_request *r) {
    if (syscall(SYS_setgroups, r->group_count, r->groups) < 0) return -1;
    if (syscall(SYS_setresgid, r->gid, r->gid, r->gid) < 0) return -1;
    return (int)syscall(SYS_setresuid, r->uid, r->uid, r->uid);
}

// Moves the sources out of the way first, so that no assignment overwrites a later source.
int cs_arrange_descriptors(const int *fds, int count) {
    int moved[max_child_descriptors];
    if (count < 0 || count > max_child_descriptors) {
        errno = EINVAL;
        return -1;
    }
    for (int i = 0; i < count; i++) {
        moved[i] = -1;
        if (fds[i] < 0) continue;
        moved[i] = fcntl(fds[i], F_DUPFD, count);
        if (moved[i] < 0) return -1;
    }
    for (int i = 0; i < count; i++) {
        if (moved[i] < 0) close(i);
        else if (dup2(moved[i], i) < 0) return -1;
    }
    return (int)syscall(SYS_close_range, count, ~0U, 0);
}

// Signals that this process handles or ignores, bit by bit: asked once, because asking for all of them
// at each start is most of the calls that a start makes. What is changed later goes through
// cs_ignore_signal, which adds to it.
static uint64_t changed_signals;
static int asked;

void cs_note_changed_signal(int number) {
    __atomic_fetch_or(&changed_signals, UINT64_C(1) << (number - 1), __ATOMIC_RELAXED);
}

static void ask_signals(void) {
    if (__atomic_load_n(&asked, __ATOMIC_ACQUIRE)) return;
    for (int number = 1; number < NSIG; number++) {
        struct sigaction now;
        if (sigaction(number, NULL, &now) == 0 && now.sa_handler != SIG_DFL)
            cs_note_changed_signal(number);
    }
    __atomic_store_n(&asked, 1, __ATOMIC_RELEASE);
}

static int child_main(void *argument) {
    struct child *child = argument;
    const struct cs_spawn_request *r = child->request;

    // Handlers point into the parent's program; ignored signals (SIGPIPE) go back to default too.
    struct sigaction standard = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++)
        if (changed_signals >> (number - 1) & 1) sigaction(number, &standard, NULL);
    if (r->new_session && setsid() < 0) goto fail;
    if (cs_arrange_descriptors(r->fds, r->fd_count) < 0) goto fail;
    if (r->controlling_terminal >= 0 && ioctl(r->controlling_terminal, TIOCSCTTY, 0) < 0) goto fail;
    if (r->change_user && change_user(r) < 0) goto fail;
    if (r->directory && chdir(r->directory) < 0 && !r->directory_is_optional) goto fail;
    if (r->die_with_parent) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) goto fail;
        if (getppid() != child->parent) _exit(127);
    }
    if (started_with.rlim_cur != 0 && setrlimit(RLIMIT_NOFILE, &started_with) < 0) goto fail;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(r->path, r->argv, r->envp);
fail:
    child->error = errno;
    _exit(127);
}

pid_t cs_spawn(const struct cs_spawn_request *request, int *pidfd) {
    if (request->fd_count < 0 || request->fd_count > max_child_descriptors) {
        errno = EINVAL;
        return -1;
    }
    ask_signals();
    // No signal handler of the parent may run in the child while both share the memory.
    sigset_t all, before;
    sigfillset(&all);
    if (sigprocmask(SIG_SETMASK, &all, &before) < 0) return -1;

    struct child child = {.request = request, .parent = getpid()};
    _Alignas(16) char stack[32 * 1024];
    int fd = -1;
    pid_t pid = clone(child_main, stack + sizeof stack,
                      CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &child, &fd);
    int error = pid < 0 ? errno : child.error;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        if (pid > 0) {
            while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
            close(fd);
        }
        errno = error;
        return -1;
    }
    *pidfd = fd;
    return pid;
}

int cs_exit_status(int wait_status) {
    if (WIFEXITED(wait_status)) return WEXITSTATUS(wait_status);
    return 128 + WTERMSIG(wait_status);
}

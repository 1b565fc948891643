#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

int cs_memfd_create(const char *name, unsigned flags) { return memfd_create(name, flags); }
int cs_add_seals(int fd, int seals) { return fcntl(fd, F_ADD_SEALS, seals); }
int cs_get_seals(int fd) { return fcntl(fd, F_GET_SEALS); }
int cs_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
int cs_pidfd_send_signal(int pidfd, int signal) {
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}
int cs_pipe(int fds[2]) { return pipe2(fds, O_CLOEXEC); }

int cs_is_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : (flags & O_NONBLOCK) != 0;
}

int cs_set_nonblocking(int fd, int on) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) return -1;
    int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    return wanted == flags ? 0 : fcntl(fd, F_SETFL, wanted);
}

int cs_open(const char *path, int flags, mode_t mode) {
    return open(path, flags | O_CLOEXEC, mode);
}
int cs_open_at(int directory, const char *path, int flags, mode_t mode) {
    return openat(directory, path, flags | O_CLOEXEC, mode);
}
int cs_duplicate(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 3); }

static void fill(sigset_t *set, const int *signals, size_t count) {
    sigemptyset(set);
    for (size_t i = 0; i < count; i++) sigaddset(set, signals[i]);
}

int cs_signalfd(const int *signals, size_t count) {
    sigset_t set;
    fill(&set, signals, count);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int cs_block_signals(const int *signals, size_t count) {
    sigset_t set;
    fill(&set, signals, count);
    return sigprocmask(SIG_BLOCK, &set, NULL);
}

int cs_ignore_signal(int signal) {
    struct sigaction action = {.sa_handler = SIG_IGN};
    cs_note_changed_signal(signal);
    return sigaction(signal, &action, NULL);
}

int cs_default_signal(int signal) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    return sigaction(signal, &action, NULL);
}

_Noreturn void cs_die_of_signal(int number) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(number, &standard, NULL);
    sigset_t set;
    fill(&set, &number, 1);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    kill(getpid(), number);
    _exit(128 + number);
}

const char *cs_secure_getenv(const char *name) { return secure_getenv(name); }
int cs_ioctl_int(int fd, unsigned long request, int value) { return ioctl(fd, request, value); }

int cs_window_size(int fd, unsigned short *rows, unsigned short *columns) {
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) < 0) return -1;
    *rows = size.ws_row;
    *columns = size.ws_col;
    return 0;
}

int cs_set_window_size(int fd, unsigned short rows, unsigned short columns) {
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    return ioctl(fd, TIOCSWINSZ, &size);
}

// By the linker: where this program's headers, constants and code begin and end.
extern char __executable_start[] __attribute__((weak));
extern char etext[] __attribute__((weak));

void cs_let_go_of_code(void) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)__executable_start & ~(page - 1);
    uintptr_t end = (uintptr_t)etext & ~(page - 1);
    // Pages that are as in the file: what is used again comes from the file's cache.
    if (begin != 0 && begin < end) (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

char **cs_environment(void) { return environ; }

#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

int cs_open_terminal(int *master, int *slave, uid_t owner) {
    int m = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (m < 0) return -1;
    int s = -1;
    if (unlockpt(m) < 0) goto fail;
    s = ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (s < 0) goto fail;
    // The user may open it again by its name; where it is not ours to give, it is the user's.
    if (geteuid() == 0 && (fchown(s, owner, (gid_t)-1) < 0 || fchmod(s, 0620) < 0)) goto fail;
    *master = m;
    *slave = s;
    return 0;
fail: {
    int error = errno;
    if (s >= 0) close(s);
    close(m);
    errno = error;
    return -1;
}
}

static struct termios saved;
static int saved_terminal = -1;

int cs_terminal_raw(int terminal) {
    struct termios raw;
    if (tcgetattr(terminal, &saved) < 0) return -1;
    raw = saved;
    cfmakeraw(&raw);
    if (tcsetattr(terminal, TCSADRAIN, &raw) < 0) return -1;
    saved_terminal = terminal;
    return 0;
}

void cs_terminal_restore(void) {
    if (saved_terminal >= 0) tcsetattr(saved_terminal, TCSADRAIN, &saved);
    saved_terminal = -1;
}

pid_t cs_reap_any(int *status) {
    int wait_status;
    pid_t pid = waitpid(-1, &wait_status, WNOHANG);
    if (pid > 0) *status = cs_exit_status(wait_status);
    return pid;
}

int cs_lock_exclusive(int fd) { return flock(fd, LOCK_EX | LOCK_NB); }

int cs_has_children(void) {
    siginfo_t info;
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

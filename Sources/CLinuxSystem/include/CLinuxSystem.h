// What Swift cannot express: the child's side of a spawn, control messages, and system calls whose
// declarations need _GNU_SOURCE. Every function returns -1 with errno set on failure unless its
// comment says otherwise; none allocates.
#ifndef CSYSTEM_H
#define CSYSTEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "Namespaces.h"

#include "FileTree.h"

#include "DaemonConfinement.h"

/// One program to start. Strings are NUL-terminated and live until the call returns.
struct cs_spawn_request {
    const char *path;           ///< executed as it is: no search in PATH
    char *const *argv;
    char *const *envp;
    const int *fds;             ///< fds[i] becomes descriptor i of the child; -1 leaves it closed
    int fd_count;               ///< every other descriptor is closed
    const char *directory;      ///< NULL: inherited
    int directory_is_optional;  ///< a failed chdir is not an error
    int new_session;            ///< setsid
    int controlling_terminal;   ///< descriptor of the child that becomes its terminal; -1: none
    int die_with_parent;        ///< SIGKILL when the thread that spawned it ends
    int change_user;            ///< set groups, gid and uid to the following
    uid_t uid;
    gid_t gid;
    const gid_t *groups;
    size_t group_count;
};

/// Starts a program without copying this process (CLONE_VM | CLONE_VFORK). On success the process
/// id is returned and *pidfd is a descriptor that becomes readable when it ends. On failure errno
/// is the child's or this side's error and nothing is left.
pid_t cs_spawn(const struct cs_spawn_request *request, int *pidfd);

/// Sends one message of `length` bytes with `count` descriptors (at most CS_MAX_DESCRIPTORS).
#define CS_MAX_DESCRIPTORS 16
ssize_t cs_send_descriptors(int socket, const void *bytes, size_t length, const int *fds,
                            int count, int flags);

/// Receives one message; descriptors are close-on-exec. *count is the room before and the number
/// after. A message whose bytes or descriptors do not fit is refused with EMSGSIZE, and the
/// descriptors that came with it are closed.
ssize_t cs_receive_descriptors(int socket, void *bytes, size_t length, int *fds, int *count,
                               int flags);

/// A listening or connected AF_UNIX socket of `type`, close-on-exec and non-blocking. Paths that
/// are too long for sun_path go through /proc/self/fd of their directory.
int cs_unix_listen(const char *path, int type, int backlog, int mode);
int cs_unix_connect(const char *path, int type);

/// Begins a connection to a numeric IPv4 or IPv6 address (EINVAL for others), non-blocking.
int cs_tcp_connect(const char *host, uint16_t port);
/// The pending error of a socket (0: none), as an error number.
int cs_socket_error(int socket);

/// pid, uid and gid of the process at the other end at the time of connect.
int cs_peer_credentials(int socket, pid_t *pid, uid_t *uid, gid_t *gid);

/// Readiness bits of the two calls below: 1 readable, 2 writable, 4 hang-up or error.
/// `operation` is 0 to add, 1 to modify, 2 to remove.
int cs_epoll_create(void);
int cs_epoll_control(int epoll, int operation, int fd, unsigned readiness, uint64_t tag);
#define CS_EPOLL_MAX_EVENTS 64
int cs_epoll_wait(int epoll, uint64_t tags[CS_EPOLL_MAX_EVENTS],
                  uint8_t readiness[CS_EPOLL_MAX_EVENTS], int milliseconds);

int cs_memfd_create(const char *name, unsigned flags);
int cs_add_seals(int fd, int seals);
int cs_get_seals(int fd);
int cs_pidfd_open(pid_t pid);
int cs_pidfd_send_signal(int pidfd, int signal);
int cs_accept(int socket);
int cs_pipe(int fds[2]);
int cs_set_nonblocking(int fd, int on);
int cs_is_nonblocking(int fd);
int cs_open(const char *path, int flags, mode_t mode);
int cs_open_at(int directory, const char *path, int flags, mode_t mode);
int cs_duplicate(int fd);
int cs_signalfd(const int *signals, size_t count);
/// Blocks these signals for this thread and its children until they execute something.
int cs_block_signals(const int *signals, size_t count);
int cs_ignore_signal(int signal);
/// To be told of every signal whose action this process changes: children get the default back.
void cs_note_changed_signal(int number);
int cs_default_signal(int signal);
/// Ends this process by a signal with its default action.
_Noreturn void cs_die_of_signal(int signal);
const char *cs_secure_getenv(const char *name);
int cs_ioctl_int(int fd, unsigned long request, int value);
int cs_window_size(int fd, unsigned short *rows, unsigned short *columns);
int cs_set_window_size(int fd, unsigned short rows, unsigned short columns);
/// Exit status of a finished child as a shell counts it: the status, or 128 + signal.
int cs_exit_status(int wait_status);

/// Raises the soft limit of open descriptors, as far as the hard one allows; programs started from
/// then on get the old one back.
int cs_raise_own_descriptor_limit(unsigned long wanted);

/// Gives back the memory of this program's code and constants; what is used comes again by itself.
void cs_let_go_of_code(void);

/// The environment, NULL-terminated.
char **cs_environment(void);
/// The arguments of this program, NULL-terminated.
char **cs_arguments(void);

/// Moves up to `count` bytes between a descriptor and a ring of `size` bytes, from byte `position`
/// on and round its end, in one system call. Sockets are never waited for.
ssize_t cs_read_into_ring(int fd, void *ring, size_t size, size_t position, size_t count,
                          int is_socket);
ssize_t cs_write_from_ring(int fd, const void *ring, size_t size, size_t position, size_t count,
                           int is_socket);
/// Anonymous memory of a fixed size, sealed against shrinking, growing and further sealing; and
/// whether a descriptor is such memory, so that no peer can cut it away under us (SIGBUS).
int cs_sealed_memory(const char *name, size_t size);
int cs_is_sealed(int fd);
/// Memory of a descriptor from its start, readable and writable; NULL with errno on failure.
void *cs_map_shared(int fd, size_t length);
int cs_file_size(int fd, uint64_t *size);

/// Changes of descriptors behind one: the epoll descriptor is readable when one of them has become
/// readable or writable, or hung up, since the last clear.
int cs_edges_add(int epoll, int fd);
void cs_edges_remove(int epoll, int fd);
void cs_edges_clear(int epoll);
/// A timer of the monotonic clock, readable once after each time it was set.
int cs_timer_create(void);
int cs_timer_set(int timer, long nanoseconds);

/// Removes a directory with everything in it; other file systems and links are not followed.
int cs_remove_tree(const char *path);

/// Cores of the machine that are in use.
int cs_online_cores(void);
/// Tells the core that this is a loop that waits for another one's store.
static inline void cs_spin_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/// Keeps this thread on one core.
int cs_pin(int core);

/// Sends one datagram to a Unix socket; a path that begins with `@` is an abstract name.
int cs_send_datagram(const char *path, const char *text);

/// A counter (eventfd) that is readable while it is set; `cs_counter_take` empties it, or a timer,
/// and tells whether there was anything.
int cs_event_create(void);
void cs_event_set(int event);
int cs_counter_take(int fd);
/// Waits on an epoll descriptor whose tags are bits; the bits of those that are ready, 0 when the time
/// is over, -1 with errno.
int cs_epoll_ready(int epoll, int milliseconds);
/// Readable again and again; 0 stops it.
int cs_timer_repeat(int timer, long nanoseconds);

/// Listens on a port of the IPv4 loopback address, close-on-exec.
int cs_tcp_listen(uint16_t port);

#endif

#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

ssize_t cs_send_descriptors(int socket, const void *bytes, size_t length, const int *fds,
                            int count, int flags) {
    if (count < 0 || count > CS_MAX_DESCRIPTORS) {
        errno = EINVAL;
        return -1;
    }
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * CS_MAX_DESCRIPTORS)] = {0};
    struct iovec vector = {.iov_base = (void *)bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * (size_t)count);
    }
    return sendmsg(socket, &message, flags | MSG_NOSIGNAL);
}

ssize_t cs_receive_descriptors(int socket, void *bytes, size_t length, int *fds, int *count,
                               int flags) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * CS_MAX_DESCRIPTORS)];
    struct iovec vector = {.iov_base = bytes, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof control,
    };
    int room = *count, taken = 0, refused = 0;
    *count = 0;
    ssize_t got = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    if (got < 0) return -1;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
        size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
            if (taken < room) {
                fds[taken++] = fd;
            } else {
                close(fd);
                refused = 1;
            }
        }
    }
    if (refused || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        while (taken > 0) close(fds[--taken]);
        errno = EMSGSIZE;
        return -1;
    }
    *count = taken;
    return got;
}

// Fills the address; a path that is too long is spelled through a descriptor of its directory,
// which the caller closes (-1 when none was needed). `room` bytes stay free for a longer last name.
static int unix_address(const char *path, struct sockaddr_un *address, size_t room,
                        int *directory) {
    *directory = -1;
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    size_t length = strlen(path);
    if (length == 0) {
        errno = ENOENT;
        return -1;
    }
    if (length + room < sizeof address->sun_path) {
        memcpy(address->sun_path, path, length);
        return 0;
    }
    char parent[4096];
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path || (size_t)(slash - path) >= sizeof parent) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(parent, path, (size_t)(slash - path));
    parent[slash - path] = 0;
    int fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    int n = snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%s", fd,
                     slash + 1);
    if (n < 0 || (size_t)n + room >= sizeof address->sun_path) {
        close(fd);
        errno = ENAMETOOLONG;
        return -1;
    }
    *directory = fd;
    return 0;
}

static int finish(int socket, int directory, int failed) {
    int error = errno;
    if (directory >= 0) close(directory);
    if (failed && socket >= 0) close(socket);
    errno = error;
    return failed ? -1 : socket;
}

// Binds beside the path and moves the socket there when it listens, so that who sees the path can
// connect: between bind and listen a connection is refused.
int cs_unix_listen(const char *path, int type, int backlog, int mode) {
    struct sockaddr_un address, unseen;
    unsigned long long unique;
    int directory;
    if (unix_address(path, &address, sizeof ".0123456789abcdef", &directory) < 0) return -1;
    if (getrandom(&unique, sizeof unique, 0) < 0) return finish(-1, directory, 1);
    memcpy(&unseen, &address, sizeof unseen);
    const char *slash = strrchr(address.sun_path, '/');
    size_t parent = slash ? (size_t)(slash + 1 - address.sun_path) : 0;
    char *hidden = unseen.sun_path + parent;
    *hidden++ = '.';
    for (int shift = 60; shift >= 0; shift -= 4) *hidden++ = "0123456789abcdef"[unique >> shift & 15];
    *hidden = 0;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return finish(fd, directory, 1);
    // fchmod on the unbound socket sets the mode that bind gives the file: no moment in which
    // it is open to more (or fewer) than asked for, whatever the umask.
    mode_t before = umask(0);
    int failed = fchmod(fd, (mode_t)mode) < 0
        || bind(fd, (struct sockaddr *)&unseen, sizeof unseen) < 0;
    int error = errno;
    umask(before);
    errno = error;
    if (failed) return finish(fd, directory, 1);
    if (listen(fd, backlog) < 0
        || renameat2(AT_FDCWD, unseen.sun_path, AT_FDCWD, address.sun_path, RENAME_NOREPLACE) < 0) {
        error = errno == EEXIST ? EADDRINUSE : errno;
        unlink(unseen.sun_path);
        errno = error;
        failed = 1;
    }
    return finish(fd, directory, failed);
}

int cs_unix_connect(const char *path, int type) {
    struct sockaddr_un address;
    int directory;
    if (unix_address(path, &address, 0, &directory) < 0) return -1;
    socklen_t length = sizeof address;
    if (path[0] == '@' && !strchr(path, '/')) {
        address.sun_path[0] = 0;
        length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    }
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return finish(fd, directory, 1);
    return finish(fd, directory, connect(fd, (struct sockaddr *)&address, length) < 0);
}

int cs_peer_credentials(int socket, pid_t *pid, uid_t *uid, gid_t *gid) {
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0) return -1;
    *pid = credentials.pid;
    *uid = credentials.uid;
    *gid = credentials.gid;
    return 0;
}

int cs_accept(int socket) { return accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

int cs_tcp_connect(const char *host, uint16_t port) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr *address;
    socklen_t length;
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        address = (struct sockaddr *)&v4;
        length = sizeof v4;
    } else {
        char plain[INET6_ADDRSTRLEN];
        const char *percent = strchr(host, '%');
        size_t n = percent ? (size_t)(percent - host) : strlen(host);
        if (n >= sizeof plain) {
            errno = EINVAL;
            return -1;
        }
        memcpy(plain, host, n);
        plain[n] = 0;
        if (inet_pton(AF_INET6, plain, &v6.sin6_addr) != 1) {
            errno = EINVAL;
            return -1;
        }
        if (percent && (v6.sin6_scope_id = if_nametoindex(percent + 1)) == 0) return -1;
        address = (struct sockaddr *)&v6;
        length = sizeof v6;
    }
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    return finish(fd, -1, connect(fd, address, length) < 0 && errno != EINPROGRESS);
}

int cs_socket_error(int socket) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) < 0) return errno;
    return error;
}

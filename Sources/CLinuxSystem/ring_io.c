#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

// The at most two pieces of `count` bytes that start at `position` of a ring.
static int pieces(struct iovec parts[2], void *ring, size_t size, size_t position, size_t count) {
    size_t first = size - position < count ? size - position : count;
    parts[0] = (struct iovec){.iov_base = (char *)ring + position, .iov_len = first};
    parts[1] = (struct iovec){.iov_base = ring, .iov_len = count - first};
    return parts[1].iov_len > 0 ? 2 : 1;
}

ssize_t cs_read_into_ring(int fd, void *ring, size_t size, size_t position, size_t count,
                          int is_socket) {
    struct iovec parts[2];
    int n = pieces(parts, ring, size, position, count);
    if (!is_socket) return n == 1 ? read(fd, parts[0].iov_base, count) : readv(fd, parts, n);
    if (n == 1) return recv(fd, parts[0].iov_base, count, MSG_DONTWAIT);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)n};
    return recvmsg(fd, &message, MSG_DONTWAIT);
}

ssize_t cs_write_from_ring(int fd, const void *ring, size_t size, size_t position, size_t count,
                           int is_socket) {
    struct iovec parts[2];
    int n = pieces(parts, (void *)ring, size, position, count);
    if (!is_socket) return n == 1 ? write(fd, parts[0].iov_base, count) : writev(fd, parts, n);
    if (n == 1) return send(fd, parts[0].iov_base, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)n};
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

enum { seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

int cs_sealed_memory(const char *name, size_t size) {
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -1;
    if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, seals) == 0) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

int cs_is_sealed(int fd) {
    int present = fcntl(fd, F_GET_SEALS);
    return present >= 0 && (present & seals) == seals;
}

void *cs_map_shared(int fd, size_t length) {
    void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return address == MAP_FAILED ? NULL : address;
}

int cs_file_size(int fd, uint64_t *size) {
    // Not fstat: a confined daemon may look at no file, not even at an open one.
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0) return -1;
    *size = (uint64_t)end;
    return 0;
}

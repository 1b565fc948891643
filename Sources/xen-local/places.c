#define _GNU_SOURCE
#include "local.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
void lock(void) { pthread_mutex_lock(&mutex); }
void unlock(void) { pthread_mutex_unlock(&mutex); }

// In a qube of a lab the mounts say who it is. Outside, for tests and benchmarks, two variables do.
static const char sandbox[] = "/run/xen-local";
static int pretended = -1;

static const char *state_directory(void) {
    const char *directory = secure_getenv("XEN_LOCAL_STATE");
    return directory && *directory ? directory : NULL;
}

EXPORT void xen_local_become(int domain);
/// For programs that are both ends at once: who opens handles from now on.
void xen_local_become(int domain) { pretended = domain; }

static int number(const char *text) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    bool whole = end != text && (*end == 0 || (*end == '\n' && end[1] == 0));
    if (errno || !whole || *text < '0' || *text > '9' || value > largest_domain) {
        errno = EINVAL;
        return -1;
    }
    return (int)value;
}

int own_domain(void) {
    if (pretended >= 0) return pretended;
    if (state_directory()) {
        const char *text = secure_getenv("XEN_LOCAL_DOMID");
        return number(text ? text : "");
    }
    char path[64], text[16] = {0};
    snprintf(path, sizeof path, "%s/domid", sandbox);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 ? number(text) : -1;
}

static bool fits(int length, size_t size) {
    if (length >= 0 && (size_t)length < size) return true;
    errno = ENAMETOOLONG;
    return false;
}

// Outside the sandboxes the directories are made by whoever comes first.
static bool meeting_directory(int server, int client, char *path, size_t size) {
    const char *state = state_directory();
    int length[4];
    const char *formats[] = {"%s", "%s/xen", "%s/xen/%d", "%s/xen/%d/%d"};
    for (int i = 0; i < 4; i++) {
        length[i] = snprintf(path, size, formats[i], state, server, client);
        if (!fits(length[i], size)) return false;
        if (mkdir(path, 0777) < 0 && errno != EEXIST) return false;
    }
    return true;
}

bool offers_directory(int server, int own, char *path, size_t size) {
    if (state_directory()) return meeting_directory(server, own, path, size);
    return fits(snprintf(path, size, "%s/peers/%d", sandbox, server), size);
}

bool socket_path(const struct meeting *meeting, int own, char *path, size_t size) {
    if (own == meeting->client) {
        if (!offers_directory(meeting->server, own, path, size)) return false;
    } else if (state_directory()) {
        if (!meeting_directory(own, meeting->client, path, size)) return false;
    } else if (!fits(snprintf(path, size, "%s/self/%d", sandbox, meeting->client), size)) {
        return false;
    }
    size_t used = strlen(path);
    return fits(snprintf(path + used, size - used, "/%u.sock", meeting->port), size - used);
}

static bool address_of(const char *path, struct sockaddr_un *address) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        return false;
    }
    strcpy(address->sun_path, path);
    return true;
}

// A connection of another type is refused by a living server without taking the place of its client.
static bool is_stale(const struct sockaddr_un *address) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    bool refused = connect(fd, (const struct sockaddr *)address, sizeof *address) < 0
        && (errno == ECONNREFUSED || errno == ENOENT);
    close(fd);
    return refused;
}

int listen_at(const char *path) {
    struct sockaddr_un address;
    if (!address_of(path, &address)) return -1;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    int bound = bind(fd, (struct sockaddr *)&address, sizeof address);
    if (bound < 0 && errno == EADDRINUSE && is_stale(&address)) {
        unlink(path);
        bound = bind(fd, (struct sockaddr *)&address, sizeof address);
    }
    if (bound == 0 && listen(fd, 1) == 0) {
        // Clients that saw the file before it listened wait for this change of it.
        chmod(path, 0666);
        return fd;
    }
    int error = errno;
    if (bound == 0) unlink(path);
    close(fd);
    errno = error;
    return -1;
}

bool send_offer(int connection, const struct offer *offer) {
    char text[64];
    int length = snprintf(text, sizeof text, "ring-ref=%u\nevent-channel=%u\n", offer->reference,
                          offer->event);
    struct iovec piece = {text, (size_t)length};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr alignment;
    } control = {{0}};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1,
        .msg_control = control.bytes, .msg_controllen = sizeof control.bytes,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &offer->memory, sizeof(int));
    return sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == length;
}

// Memory that the peer could cut away under us would be the end of this process (SIGBUS).
static bool is_acceptable(int memory) {
    int needed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    struct stat status;
    return (fcntl(memory, F_GET_SEALS) & needed) == needed && fstat(memory, &status) == 0
        && status.st_size >= page_size && status.st_size % page_size == 0
        && status.st_size <= (off_t)references_per_channel * page_size;
}

int receive_offer(int connection, struct offer *offer) {
    char text[65] = {0};
    struct iovec piece = {text, sizeof text - 1};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr alignment;
    } control;
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1,
        .msg_control = control.bytes, .msg_controllen = sizeof control.bytes,
    };
    ssize_t got = recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    offer->memory = -1;
    struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS
        && header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&offer->memory, CMSG_DATA(header), sizeof(int));
    int end = 0;
    int found = sscanf(text, "ring-ref=%u\nevent-channel=%u\n%n", &offer->reference,
                       &offer->event, &end);
    bool good = found == 2 && end == got && offer->reference && offer->event
        && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) && offer->memory >= 0;
    if (good && is_acceptable(offer->memory)) return 1;
    if (offer->memory >= 0) close(offer->memory);
    errno = EINVAL;
    return -1;
}

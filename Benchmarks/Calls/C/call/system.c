// Sockets, the loop over epoll, and the log.
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "call.h"

void fail(const char *what) {
    fprintf(stderr, "call-reference: %s: %s\n", what, strerror(errno));
    exit(1);
}

static socklen_t address_of(struct sockaddr_un *address, const char *path) {
    size_t length = strlen(path);
    if (length >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length + 1);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
}

int stream_to(const char *path) {
    struct sockaddr_un address;
    socklen_t length = address_of(&address, path);
    int new = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (new < 0 || connect(new, (struct sockaddr *)&address, length) < 0) fail(path);
    return new;
}

int listen_at(const char *path, int type) {
    struct sockaddr_un address;
    socklen_t length = address_of(&address, path);
    int new = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (new < 0 || bind(new, (struct sockaddr *)&address, length) < 0
        || listen(new, SOMAXCONN) < 0)
        fail(path);
    return new;
}

int accept_at(int listener) {
    int new = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (new < 0 && errno != EAGAIN) fail("accept4");
    if (new >= table_size) fail("too many connections");
    return new;
}

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
};

void send_all(int socket, const void *bytes, size_t length, int descriptor) {
    if (descriptor < 0) {
        if (send(socket, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)length)
            fail("send");
        return;
    }
    union control control = {.header = {
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
    struct iovec part = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    if (sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)length)
        fail("sendmsg");
}

ssize_t receive(int socket, void *bytes, size_t length, int *descriptor) {
    ssize_t got;
    if (descriptor) {
        union control control;
        struct iovec part = {bytes, length};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                                 .msg_controllen = sizeof control};
        got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
        *descriptor = -1;
        if (header) memcpy(descriptor, CMSG_DATA(header), sizeof *descriptor);
    } else {
        got = recv(socket, bytes, length, MSG_DONTWAIT);
    }
    if (got >= 0) return got;
    if (errno == ECONNRESET || errno == EPIPE) return 0;
    if (errno != EAGAIN) fail("recv");
    return -1;
}

// MARK: The loop

static int epoll_set(void) {
    static int set = -1;
    if (set < 0) set = epoll_create1(EPOLL_CLOEXEC);
    if (set < 0) fail("epoll_create1");
    return set;
}

void watch(int descriptor, uint32_t events, uint64_t tag) {
    struct epoll_event event = {.events = events, .data = {.u64 = tag}};
    if (epoll_ctl(epoll_set(), EPOLL_CTL_ADD, descriptor, &event) < 0) fail("epoll_ctl");
}

void run_loop(void (*ready)(uint64_t tag)) {
    while (true) {
        struct epoll_event events[64];
        int count = epoll_wait(epoll_set(), events, 64, -1);
        if (count < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < count; i++) ready(events[i].data.u64);
    }
}

void run_control(struct channel *control, int other, uint64_t tag, void (*ready)(uint64_t tag)) {
    watch(control->events, EPOLLIN, tag_control);
    watch(other, EPOLLIN, tag);
    channel_sleep(control);
    run_loop(ready);
}

// MARK: The log

int log_file = -1;

void tell(const char *format, ...) {
    if (log_file < 0) return;
    char line[512];
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t length = strftime(line, sizeof line, "%FT%T", &parts);
    length += (size_t)sprintf(line + length, ".%03ldZ ", now.tv_nsec / 1000000);
    va_list arguments;
    va_start(arguments, format);
    int added = vsnprintf(line + length, sizeof line - length - 1, format, arguments);
    va_end(arguments);
    length += (size_t)added;
    if (length > sizeof line - 1) length = sizeof line - 1;
    line[length++] = '\n';
    if (write(log_file, line, length) < 0) fail("log");
}

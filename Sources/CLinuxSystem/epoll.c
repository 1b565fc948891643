#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <sys/epoll.h>

enum { readable = 1, writable = 2, hangup = 4 };

int cs_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

int cs_epoll_control(int epoll, int operation, int fd, unsigned readiness, uint64_t tag) {
    static const int operations[] = {EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL};
    struct epoll_event event = {.data.u64 = tag};
    if (readiness & readable) event.events |= EPOLLIN;
    if (readiness & writable) event.events |= EPOLLOUT;
    // A hang-up cannot be masked: whoever waits for nothing is told once, not for ever.
    if (!event.events) event.events = EPOLLET;
    return epoll_ctl(epoll, operations[operation], fd, &event);
}

int cs_epoll_wait(int epoll, uint64_t tags[CS_EPOLL_MAX_EVENTS],
                  uint8_t readiness[CS_EPOLL_MAX_EVENTS], int milliseconds) {
    struct epoll_event events[CS_EPOLL_MAX_EVENTS];
    int count = epoll_wait(epoll, events, CS_EPOLL_MAX_EVENTS, milliseconds);
    for (int i = 0; i < count; i++) {
        tags[i] = events[i].data.u64;
        readiness[i] = (events[i].events & EPOLLIN ? readable : 0)
            | (events[i].events & EPOLLOUT ? writable : 0)
            | (events[i].events & (EPOLLHUP | EPOLLERR) ? hangup : 0);
    }
    return count;
}

#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

int cs_event_create(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

void cs_event_set(int event) {
    uint64_t one = 1;
    (void)!write(event, &one, sizeof one);
}

int cs_counter_take(int fd) {
    uint64_t count;
    return read(fd, &count, sizeof count) == sizeof count;
}

int cs_epoll_ready(int epoll, int milliseconds) {
    struct epoll_event events[8];
    int count = epoll_wait(epoll, events, 8, milliseconds), ready = 0;
    for (int i = 0; i < count; i++) ready |= (int)events[i].data.u64;
    return count < 0 ? count : ready;
}

int cs_timer_repeat(int timer, long nanoseconds) {
    struct timespec interval = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    struct itimerspec when = {.it_value = interval, .it_interval = interval};
    return timerfd_settime(timer, 0, &when, NULL);
}

#define _GNU_SOURCE
#include "CLinuxSystem.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

int cs_edges_add(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

void cs_edges_remove(int epoll, int fd) { (void)epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); }

void cs_edges_clear(int epoll) {
    struct epoll_event events[8];
    (void)!epoll_wait(epoll, events, 8, 0);
}

int cs_timer_create(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK); }

int cs_timer_set(int timer, long nanoseconds) {
    struct itimerspec when = {
        .it_value = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000},
    };
    return timerfd_settime(timer, 0, &when, NULL);
}

int cs_online_cores(void) { return (int)sysconf(_SC_NPROCESSORS_ONLN); }

int cs_pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

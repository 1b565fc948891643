// Event channels: a port is one end of a connected SOCK_SEQPACKET socket, an event a packet of one
// byte. A port that waits for its client is the listening socket in the local transport's state.
#define _GNU_SOURCE
#include "local.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xenevtchn.h>

struct port {
    uint32_t number;
    int own, domain;
    xenevtchn_handle *handle;
    int link;      // -1: nobody there
    int listener;  // -1: not published, or joined
    char path[128];
    struct offer offer;
    uint8_t *page;
    uint32_t peer_live;
    struct joined *joined;
};

struct xenevtchn_handle {
    int epoll;
    int own;
    uint32_t count;
    struct port *only;  // when count is 1
};

static struct port *ports[max_ports + 1];
static _Atomic uint64_t events_sent;

EXPORT uint64_t xen_local_events_sent(void);
/// Events that this process has sent, for measurements.
uint64_t xen_local_events_sent(void) { return events_sent; }

EXPORT xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned flags) {
    (void)logger, (void)flags;
    int own = own_domain();
    if (own < 0) return NULL;
    xenevtchn_handle *handle = calloc(1, sizeof *handle);
    if (!handle) return NULL;
    handle->own = own;
    handle->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (handle->epoll >= 0) return handle;
    free(handle);
    return NULL;
}

EXPORT int xenevtchn_fd(xenevtchn_handle *handle) { return handle->epoll; }

static bool watch(struct port *port, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = port->number};
    return epoll_ctl(port->handle->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static struct port *new_port(xenevtchn_handle *handle, uint32_t domain) {
    uint32_t number = 1;
    while (number <= max_ports && ports[number]) number++;
    struct port *port = number <= max_ports ? calloc(1, sizeof *port) : NULL;
    if (!port) {
        errno = ENOSPC;
        return NULL;
    }
    *port = (struct port){
        .number = number, .own = handle->own, .domain = (int)domain, .handle = handle,
        .link = -1, .listener = -1, .offer.memory = -1,
    };
    ports[number] = port;
    handle->count++;
    handle->only = handle->count == 1 ? port : NULL;
    return port;
}

static struct port *port_of(xenevtchn_handle *handle, uint32_t number) {
    struct port *port = number >= 1 && number <= max_ports ? ports[number] : NULL;
    if (port && (!handle || port->handle == handle)) return port;
    errno = EINVAL;
    return NULL;
}

static void stop_listening(struct port *port) {
    if (port->listener < 0) return;
    unlink(port->path);
    close(port->listener);
    port->listener = -1;
    if (port->offer.memory >= 0) close(port->offer.memory);
    port->offer.memory = -1;
}

// The peer is gone: as the kernel would do it for a process that died.
static void hang_up(struct port *port) {
    if (port->link < 0) return;
    if (port->page) port->page[port->peer_live] = 0;
    if (!port->joined) close(port->link);
    else epoll_ctl(port->handle->epoll, EPOLL_CTL_DEL, port->link, NULL);
    port->link = -1;
}

static void free_port(struct port *port) {
    stop_listening(port);
    if (port->link >= 0) {
        if (port->joined) epoll_ctl(port->handle->epoll, EPOLL_CTL_DEL, port->link, NULL);
        shutdown(port->link, SHUT_RDWR);
        if (!port->joined) close(port->link);
    }
    if (port->joined) joined_release(port->joined);
    xenevtchn_handle *handle = port->handle;
    ports[port->number] = NULL;
    handle->count--;
    handle->only = NULL;
    for (uint32_t i = 1; handle->count == 1 && i <= max_ports; i++)
        if (ports[i] && ports[i]->handle == handle) handle->only = ports[i];
    free(port);
}

EXPORT int xenevtchn_close(xenevtchn_handle *handle) {
    if (!handle) return 0;
    lock();
    for (uint32_t i = 1; handle->count > 0 && i <= max_ports; i++)
        if (ports[i] && ports[i]->handle == handle) free_port(ports[i]);
    unlock();
    close(handle->epoll);
    free(handle);
    return 0;
}

EXPORT xenevtchn_port_or_error_t xenevtchn_bind_unbound_port(xenevtchn_handle *handle,
                                                             uint32_t domain) {
    lock();
    struct port *port = new_port(handle, domain);
    int number = port ? (int)port->number : -1;
    unlock();
    return number;
}

EXPORT xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *handle,
                                                            uint32_t domain,
                                                            evtchn_port_t remote) {
    int number = -1;
    lock();
    struct joined *joined = join_for_event(handle->own, (int)domain, remote);
    struct port *port = joined ? new_port(handle, domain) : NULL;
    if (port) {
        port->joined = joined;
        port->link = joined->link;
        if (watch(port, port->link)) {
            number = (int)port->number;
        } else {
            free_port(port);
        }
    } else if (joined) {
        joined_release(joined);
    }
    unlock();
    return number;
}

EXPORT int xenevtchn_unbind(xenevtchn_handle *handle, evtchn_port_t number) {
    lock();
    struct port *port = port_of(handle, number);
    if (port) free_port(port);
    unlock();
    return port ? 0 : -1;
}

// ---- publication ----

bool publish_port(uint32_t number, const struct meeting *meeting, const struct offer *offer) {
    struct port *port = port_of(NULL, number);
    if (!port || port->own != meeting->server || port->domain != meeting->client
        || port->link >= 0 || port->listener >= 0) {
        errno = EINVAL;
        return false;
    }
    if (!socket_path(meeting, port->own, port->path, sizeof port->path)) return false;
    int listener = listen_at(port->path);
    if (listener < 0) return false;
    port->listener = listener;
    port->offer = *offer;
    port->offer.memory = fcntl(offer->memory, F_DUPFD_CLOEXEC, 3);
    if (port->offer.memory >= 0 && watch(port, listener)) return true;
    int error = errno;
    stop_listening(port);
    errno = error;
    return false;
}

void withdraw_port(uint32_t number) {
    struct port *port = port_of(NULL, number);
    if (port) stop_listening(port);
}

void port_has_page(uint32_t number, uint8_t *page, uint32_t live_offset) {
    struct port *port = port_of(NULL, number);
    if (!port) return;
    port->page = page;
    port->peer_live = live_offset;
}

void forget_page(const uint8_t *page) {
    for (uint32_t i = 1; i <= max_ports; i++)
        if (ports[i] && ports[i]->page == page) ports[i]->page = NULL;
}

// One client; the place is nobody else's from then on.
static void accept_client(struct port *port) {
    int link = accept4(port->listener, NULL, NULL, SOCK_CLOEXEC);
    if (link < 0) return;
    bool there = send_offer(link, &port->offer);
    stop_listening(port);
    port->link = link;
    if (!there || !watch(port, link)) hang_up(port);
}

void serve_while_waiting(int connection, int milliseconds) {
    struct pollfd *set = calloc(max_ports + 1, sizeof *set);
    uint32_t numbers[max_ports + 1], count = 1;
    if (!set) return;
    set[0] = (struct pollfd){.fd = connection, .events = POLLIN};
    for (uint32_t i = 1; i <= max_ports; i++) {
        if (!ports[i] || ports[i]->listener < 0) continue;
        numbers[count] = i;
        set[count++] = (struct pollfd){.fd = ports[i]->listener, .events = POLLIN};
    }
    if (poll(set, count, milliseconds) > 0)
        for (uint32_t i = 1; i < count; i++)
            if (set[i].revents) accept_client(ports[numbers[i]]);
    free(set);
}

// ---- events ----

static void send_over(struct port *port) {
    char byte = 1;
    events_sent++;
    // A full socket means that the peer has wake-ups enough already.
    while (send(port->link, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN) hang_up(port);
        return;
    }
}

void send_event(uint32_t number) {
    struct port *port = port_of(NULL, number);
    if (port && port->link >= 0) send_over(port);
}

EXPORT int xenevtchn_notify(xenevtchn_handle *handle, evtchn_port_t number) {
    lock();
    struct port *port = port_of(handle, number);
    if (port && port->link >= 0) send_over(port);
    unlock();
    return port ? 0 : -1;
}

// Takes one event from a link. Returns false when there was none.
static bool take_from(struct port *port, int flags) {
    char byte;
    ssize_t got = recv(port->link, &byte, 1, flags);
    if (got > 0) return true;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    lock();
    hang_up(port);
    unlock();
    return true;
}

EXPORT xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *handle) {
    bool waits = !(fcntl(handle->epoll, F_GETFL) & O_NONBLOCK);
    // The common case costs one call more than on Xen, where it costs a second one to unmask.
    struct port *only = handle->only;
    if (only && only->link >= 0) {
        if (take_from(only, waits ? 0 : MSG_DONTWAIT)) return (int)only->number;
        return -1;
    }
    struct epoll_event event;
    int count = epoll_wait(handle->epoll, &event, 1, waits ? -1 : 0);
    if (count <= 0) {
        if (count == 0) errno = EAGAIN;
        return -1;
    }
    lock();
    struct port *port = port_of(handle, event.data.u32);
    bool came = port != NULL;
    if (port && port->listener >= 0) accept_client(port);
    else if (port && port->link >= 0) came = take_from(port, MSG_DONTWAIT);
    unlock();
    if (came) return (int)event.data.u32;
    errno = EAGAIN;
    return -1;
}

// Events are not masked: a packet that comes meanwhile waits in the socket.
EXPORT int xenevtchn_unmask(xenevtchn_handle *handle, evtchn_port_t number) {
    (void)handle, (void)number;
    return 0;
}

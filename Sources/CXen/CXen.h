// Xen's stable libraries as Swift sees them, and the few things that only C can express.
#ifndef CXEN_H
#define CXEN_H

#include <errno.h>
#include <libxenvchan.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <xen/event_channel.h>
#include <xen/evtchn.h>
#include <xen/gntdev.h>
#include <xencall.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>
#include <xentoollog.h>

/// A logger for calls whose failures are told by errors of ours.
static inline xentoollog_logger *cxen_quiet_logger(void) {
    return (xentoollog_logger *)xtl_createlogger_stdiostream(stderr, XTL_CRITICAL, 0);
}

/// Bytes that `cxen_port_status` needs of memory that a hypercall may use.
enum { cxen_status_size = sizeof(struct evtchn_status) };

/// The status of a local event channel port (EVTCHNSTAT_*), -1 with errno.
static inline int cxen_port_status(xencall_handle *calls, void *buffer, uint32_t port) {
    struct evtchn_status *status = buffer;
    *status = (struct evtchn_status){.dom = DOMID_SELF, .port = port};
    if (xencall2(calls, __HYPERVISOR_event_channel_op, EVTCHNOP_status,
                 (uint64_t)(uintptr_t)buffer) < 0)
        return -1;
    return (int)status->status;
}

// What one process prepares for another, which will have nothing but the two devices' descriptors:
// the drivers themselves, because their libraries keep what they open (protocol 2).

/// Joins a port of a domain by an open /dev/xen/evtchn, after restricting that to the domain for
/// good. The local port, -1 with errno.
static inline int cxen_join_restricted(int events, uint16_t domain, uint32_t remote_port) {
    struct ioctl_evtchn_restrict_domid only = {.domid = domain};
    if (ioctl(events, IOCTL_EVTCHN_RESTRICT_DOMID, &only) < 0) return -1;
    struct ioctl_evtchn_bind_interdomain bind = {.remote_domain = domain, .remote_port = remote_port};
    return ioctl(events, IOCTL_EVTCHN_BIND_INTERDOMAIN, &bind);
}

/// The most references that `cxen_note_grants` takes: those of the largest ring.
enum { cxen_most_grants = 256 };

/// Notes which pages of a domain an mmap of this /dev/xen/gntdev will map, and sets `offset` to
/// where. 0, or -1 with errno.
static inline int cxen_note_grants(int grants, uint16_t domain, const uint32_t *references,
                                   uint32_t count, uint64_t *offset) {
    union {
        struct ioctl_gntdev_map_grant_ref call;
        char room[sizeof(struct ioctl_gntdev_map_grant_ref)
                  + cxen_most_grants * sizeof(struct ioctl_gntdev_grant_ref)];
    } map;
    if (count > cxen_most_grants) {
        errno = E2BIG;
        return -1;
    }
    map.call = (struct ioctl_gntdev_map_grant_ref){.count = count};
    struct ioctl_gntdev_grant_ref *entry = map.call.refs;
    for (uint32_t i = 0; i < count; i++) {
        entry[i].domid = domain;
        entry[i].ref = references[i];
    }
    if (ioctl(grants, IOCTL_GNTDEV_MAP_GRANT_REF, &map) < 0) return -1;
    *offset = map.call.index;
    return 0;
}

/// The library leaves the mode of a new channel undefined.
static inline void cxen_set_nonblocking(struct libxenvchan *channel) { channel->blocking = 0; }

#endif

// Xen's stable libraries as Swift sees them, and the few things that only C can express.
#ifndef CXEN_H
#define CXEN_H

#include <libxenvchan.h>
#include <stdio.h>
#include <xen/event_channel.h>
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

/// The library leaves the mode of a new channel undefined.
static inline void cxen_set_nonblocking(struct libxenvchan *channel) { channel->blocking = 0; }

#endif

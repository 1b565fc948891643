// Grants are pages of one anonymous shared mapping, an event channel is an eventfd of each side with
// the pending and mask bits that Xen has, the store is a small table. An event is sent by one write,
// nothing spins. Good for the C library between a parent and its child, and for nothing else.
#define _GNU_SOURCE
#include "xen.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { page_size = 4096, pages = 1024, entries = 4, pending_bit = 1, masked_bit = 2 };

struct state {
    _Atomic uint32_t next_page;
    _Atomic uint64_t events;
    _Atomic uint32_t event[3];  // by domain: pending and mask bits of its only port
    struct {
        char path[256], value[64];
    } store[entries];
};

static struct state *state;
static char *memory;
static int wake[3];
static int self;

void xen_prepare(void) {
    int flags = MAP_SHARED | MAP_ANONYMOUS;
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, flags, -1, 0);
    memory = mmap(NULL, pages * page_size, PROT_READ | PROT_WRITE, flags, -1, 0);
    for (int d = 1; d <= 2; d++) wake[d] = eventfd(0, EFD_CLOEXEC);
    if (state == MAP_FAILED || memory == MAP_FAILED || wake[1] < 0 || wake[2] < 0) {
        perror("shared memory");
        exit(1);
    }
}

void xen_become(int domain) { self = domain; }
uint64_t xen_events_sent(void) { return state->events; }

// ---- event channels: one port a side, always number 1 ----

static void deliver(int domain) {
    uint64_t one = 1;
    if (write(wake[domain], &one, sizeof one) < 0) abort();
}

static void send_event(int domain) {
    uint32_t before = atomic_fetch_or(&state->event[domain], pending_bit);
    if (before & (pending_bit | masked_bit)) return;
    uint32_t expected = pending_bit;
    if (atomic_compare_exchange_strong(&state->event[domain], &expected, masked_bit))
        deliver(domain);
}

typedef struct xenevtchn_handle { int unused; } xenevtchn_handle;
xenevtchn_handle *xenevtchn_open(void *logger, unsigned flags) { return malloc(sizeof(int)); }
int xenevtchn_close(xenevtchn_handle *h) { free(h); return 0; }
int xenevtchn_fd(xenevtchn_handle *h) { return wake[self]; }
int xenevtchn_bind_unbound_port(xenevtchn_handle *h, uint32_t domain) { return 1; }
int xenevtchn_bind_interdomain(xenevtchn_handle *h, uint32_t domain, uint32_t port) { return 1; }
int xenevtchn_unbind(xenevtchn_handle *h, uint32_t port) { return 0; }

int xenevtchn_notify(xenevtchn_handle *h, uint32_t port) {
    state->events++;
    send_event(3 - self);
    return 0;
}

int xenevtchn_pending(xenevtchn_handle *h) {
    uint64_t count;
    while (read(wake[self], &count, sizeof count) < 0)
        if (errno != EINTR) return -1;
    return 1;
}

int xenevtchn_unmask(xenevtchn_handle *h, uint32_t port) {
    uint32_t before = atomic_fetch_and(&state->event[self], ~masked_bit);
    if (before & pending_bit) {
        uint32_t expected = pending_bit;
        if (atomic_compare_exchange_strong(&state->event[self], &expected, masked_bit))
            deliver(self);
    }
    return 0;
}

// ---- grants: a reference is a page number plus one ----

void *xengntshr_open(void *logger, unsigned flags) { return malloc(1); }
int xengntshr_close(void *h) { free(h); return 0; }
void *xengnttab_open(void *logger, unsigned flags) { return malloc(1); }
int xengnttab_close(void *h) { free(h); return 0; }

void *xengntshr_share_pages(void *h, uint32_t domain, int count, uint32_t *refs, int writable) {
    uint32_t first = atomic_fetch_add(&state->next_page, (uint32_t)count);
    if (first + (uint32_t)count > pages) { errno = ENOSPC; return NULL; }
    for (int i = 0; i < count; i++) refs[i] = first + (uint32_t)i + 1;
    return memory + first * page_size;
}

void *xengntshr_share_page_notify(void *h, uint32_t domain, uint32_t *ref, int writable,
                                  uint32_t offset, uint32_t port) {
    return xengntshr_share_pages(h, domain, 1, ref, writable);
}

int xengntshr_unshare(void *h, void *address, uint32_t count) { return 0; }

// References of one ring are consecutive here, as xengntshr_share_pages gave them.
void *xengnttab_map_domain_grant_refs(void *h, uint32_t count, uint32_t domain, uint32_t *refs,
                                      int protection) {
    return memory + (refs[0] - 1) * page_size;
}

void *xengnttab_map_grant_ref_notify(void *h, uint32_t domain, uint32_t ref, int protection,
                                     uint32_t offset, uint32_t port) {
    return xengnttab_map_domain_grant_refs(h, 1, domain, &ref, protection);
}

int xengnttab_unmap(void *h, void *address, uint32_t count) { return 0; }

// ---- store ----

static const char *last_part(const char *path) { return strrchr(path, '/'); }

void *xs_open(unsigned long flags) { return malloc(1); }
void xs_close(void *h) { free(h); }
uint32_t xs_transaction_start(void *h) { return 1; }
bool xs_transaction_end(void *h, uint32_t transaction, bool abort) { return true; }
bool xs_set_permissions(void *h, uint32_t t, const char *path, void *list, unsigned count) {
    return true;
}
bool xs_rm(void *h, uint32_t t, const char *path) { return true; }

// The two keys are told apart by their last part: there is one channel.
bool xs_write(void *h, uint32_t t, const char *path, const void *data, unsigned length) {
    int slot = strcmp(last_part(path), "/ring-ref") == 0 ? 0 : 1;
    memcpy(state->store[slot].value, data, length);
    strncpy(state->store[slot].path, path, sizeof state->store[slot].path - 1);
    return true;
}

void *xs_read(void *h, uint32_t t, const char *path, unsigned *length) {
    char *value = NULL;
    if (strcmp(path, "domid") == 0) {
        value = strdup(self == 1 ? "1" : "2");
    } else {
        int slot = strcmp(last_part(path), "/ring-ref") == 0 ? 0 : 1;
        if (state->store[slot].path[0]) value = strdup(state->store[slot].value);
    }
    if (!value) { errno = ENOENT; return NULL; }
    if (length) *length = (unsigned)strlen(value);
    return value;
}

// A user-space Xen over the state of the local transport: what libxenvchan needs of libxenstore,
// libxengnttab and libxenevtchn, so that the unmodified library meets the Swift ring, or itself,
// without a hypervisor. README.md of this directory says how the parts correspond.
#ifndef XEN_LOCAL_H
#define XEN_LOCAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    page_size = 4096,
    // References of one channel's pages follow each other: control page, left ring, right ring.
    references_per_channel = 1024,
    largest_domain = 0x7FEF,
    max_ports = 4096,
};

/// The symbols of Xen's libraries, everything else is hidden.
#define EXPORT __attribute__((visibility("default")))

/// One lock for all tables of this process; none of them is held long.
void lock(void);
void unlock(void);

// ---- places.c: who this is, and where domains meet ----

/// The own domain number, -1 with errno.
int own_domain(void);

/// A vchan's name: `server` offers it to `client`.
struct meeting {
    int server, client;
    uint32_t port;
};

/// The socket's path: false with errno where the name is too long or the place cannot be made.
bool socket_path(const struct meeting *meeting, int own, char *path, size_t size);
/// The directory in which a server's sockets for us appear; the same errors.
bool offers_directory(int server, int own, char *path, size_t size);
/// A listening socket at the path, where a dead server may have left one; -1 with errno.
int listen_at(const char *path);

/// What a server hands over: the first page's grant reference, its event channel, its memory.
struct offer {
    uint32_t reference, event;
    int memory;
};
bool send_offer(int connection, const struct offer *offer);
/// 1 received, 0 nothing yet, -1 refused with errno.
int receive_offer(int connection, struct offer *offer);

// ---- grants.c ----

/// Gives the memory whose control page has this reference: a descriptor to be closed, sealed from now
/// on, -1 with errno. For publishing it to `domain`.
int memory_for_offer(uint32_t reference, int own, int domain);

/// The memory a client was offered.
struct joined {
    int own, domain;
    uint32_t reference;  // by which the client knows it
    uint32_t first;      // the server's own number of the control page
    uint32_t pages;
    int memory;
    int link;
    int users;
};
/// The memory that a client's reference means, before it is mapped; NULL with errno. Connects if
/// need be.
struct joined *join_for_grant(int own, int domain, uint32_t reference);
/// The same by the event channel.
struct joined *join_for_event(int own, int domain, uint32_t event);
/// Both have been taken: the caller that frees it.
void joined_release(struct joined *joined);

// ---- events.c ----

/// Shows an unbound port at a path, for the client to whom it was bound; false with errno.
bool publish_port(uint32_t port, const struct meeting *meeting, const struct offer *offer);
/// Ends that, where nobody came.
void withdraw_port(uint32_t port);
/// The control page that belongs to a port, and the offset of the byte that says whether the peer
/// lives: cleared when the peer dies. NULL takes it away.
void port_has_page(uint32_t port, uint8_t *page, uint32_t live_offset);
void forget_page(const uint8_t *page);
/// Wakes the peer of a port.
void send_event(uint32_t port);
/// Accepts clients at all listening ports of this process, and returns after so many milliseconds or
/// when `connection` is readable.
void serve_while_waiting(int connection, int milliseconds);

#endif

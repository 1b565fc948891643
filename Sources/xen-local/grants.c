// Grants: the pages of a server's gntshr handle are one sealed memory file, and page n of it has the
// first one's reference plus n; so they are in the page that libxenvchan fills. A client's handle
// knows the memory it was offered by the control page that it maps first.
#define _GNU_SOURCE
#include "local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xengnttab.h>

enum { max_shares = 1 << 16 };

struct xengntdev_handle {
    // A server's: its memory, the number of its block of references, the pages shared so far.
    int memory;
    uint32_t block, pages;
    int own, domain;
    bool is_sealed;
    // A client's: what it was offered.
    struct joined *joined;
    // The control page, with the own live byte that is cleared at its end and the port to tell.
    uint8_t *control;
    uint32_t live_offset, event;
};

// The servers' handles by block: a block is free again when its handle is closed.
static struct xengntdev_handle **shares;
static uint32_t share_count;

static xengnttab_handle *new_handle(void) {
    struct xengntdev_handle *handle = calloc(1, sizeof *handle);
    if (!handle) return NULL;
    handle->memory = -1;
    handle->own = own_domain();
    if (handle->own >= 0) return handle;
    free(handle);
    return NULL;
}

EXPORT xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned flags) {
    (void)logger, (void)flags;
    return new_handle();
}

EXPORT xengntshr_handle *xengntshr_open(struct xentoollog_logger *logger, unsigned flags) {
    return xengnttab_open(logger, flags);
}

// The control page goes: the peer sees the byte, and is told.
static void end_control_page(struct xengntdev_handle *handle) {
    if (!handle->control) return;
    if (handle->event) handle->control[handle->live_offset] = 0;
    forget_page(handle->control);
    handle->control = NULL;
    if (handle->event) send_event(handle->event);
}

EXPORT int xengnttab_close(xengnttab_handle *handle) {
    if (!handle) return 0;
    lock();
    end_control_page(handle);
    if (handle->memory >= 0) {
        close(handle->memory);
        shares[handle->block] = NULL;
    }
    if (handle->joined) joined_release(handle->joined);
    unlock();
    free(handle);
    return 0;
}

EXPORT int xengntshr_close(xengntshr_handle *handle) { return xengnttab_close(handle); }

// ---- a server's pages ----

static uint32_t first_reference(const struct xengntdev_handle *handle) {
    return 1 + handle->block * references_per_channel;
}

static bool make_memory(struct xengntdev_handle *handle, int domain) {
    uint32_t block = 0;
    while (block < share_count && shares[block]) block++;
    if (block == max_shares) {
        errno = ENOSPC;
        return false;
    }
    if (block == share_count) {
        uint32_t count = share_count ? share_count * 2 : 16;
        void *grown = realloc(shares, count * sizeof *shares);
        if (!grown) return false;
        shares = grown;
        memset(shares + share_count, 0, (count - share_count) * sizeof *shares);
        share_count = count;
    }
    handle->memory = memfd_create("xen-local", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (handle->memory < 0) return false;
    handle->domain = domain;
    handle->block = block;
    shares[block] = handle;
    return true;
}

EXPORT void *xengntshr_share_pages(xengntshr_handle *handle, uint32_t domain, int count,
                                   uint32_t *references, int writable) {
    (void)writable;  // The client's own mapping says how much it can do.
    void *pages = NULL;
    lock();
    if (handle->memory < 0 && !make_memory(handle, (int)domain)) goto done;
    if (count <= 0 || (int)domain != handle->domain || handle->is_sealed
        || handle->pages + (uint32_t)count > references_per_channel) {
        errno = EINVAL;
        goto done;
    }
    off_t start = (off_t)handle->pages * page_size;
    size_t size = (size_t)count * page_size;
    if (ftruncate(handle->memory, start + (off_t)size) < 0) goto done;
    pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, handle->memory, start);
    if (pages == MAP_FAILED) {
        pages = NULL;
        goto done;
    }
    for (int i = 0; i < count; i++)
        references[i] = first_reference(handle) + handle->pages + (uint32_t)i;
    handle->pages += (uint32_t)count;
done:
    unlock();
    return pages;
}

static void note_control(struct xengntdev_handle *handle, uint8_t *page, uint32_t offset,
                         uint32_t event) {
    handle->control = page;
    handle->live_offset = offset;
    handle->event = event;
    // The two live bytes lie side by side, the client's at an even offset.
    port_has_page(event, page, offset ^ 1);
}

EXPORT void *xengntshr_share_page_notify(xengntshr_handle *handle, uint32_t domain,
                                         uint32_t *reference, int writable, uint32_t offset,
                                         evtchn_port_t event) {
    lock();
    void *page = xengntshr_share_pages(handle, domain, 1, reference, writable);
    if (page && offset < page_size) note_control(handle, page, offset, event);
    unlock();
    return page;
}

EXPORT int xengntshr_unshare(xengntshr_handle *handle, void *address, uint32_t count) {
    lock();
    if (address == handle->control) end_control_page(handle);
    unlock();
    return munmap(address, (size_t)count * page_size);
}

int memory_for_offer(uint32_t reference, int own, int domain) {
    uint32_t block = (reference - 1) / references_per_channel;
    struct xengntdev_handle *handle = block < share_count ? shares[block] : NULL;
    if (!handle || reference != first_reference(handle) || handle->own != own
        || handle->domain != domain) {
        errno = EINVAL;
        return -1;
    }
    if (fcntl(handle->memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0
        && !handle->is_sealed)
        return -1;
    handle->is_sealed = true;
    return fcntl(handle->memory, F_DUPFD_CLOEXEC, 3);
}

// ---- a client's pages ----

EXPORT void *xengnttab_map_grant_ref_notify(xengnttab_handle *handle, uint32_t domain,
                                            uint32_t reference, int protection, uint32_t offset,
                                            evtchn_port_t event) {
    void *page = NULL;
    lock();
    if (handle->joined) {
        errno = EBUSY;
    } else {
        handle->joined = join_for_grant(handle->own, (int)domain, reference);
    }
    if (handle->joined && !handle->control) {
        page = mmap(NULL, page_size, protection, MAP_SHARED, handle->joined->memory, 0);
        if (page == MAP_FAILED) page = NULL;
        if (page && offset < page_size) note_control(handle, page, offset, event);
    }
    unlock();
    return page;
}

EXPORT void *xengnttab_map_domain_grant_refs(xengnttab_handle *handle, uint32_t count,
                                             uint32_t domain, uint32_t *references,
                                             int protection) {
    struct joined *joined = handle->joined;
    if (!joined || joined->domain != (int)domain || count == 0 || count > joined->pages) {
        errno = EINVAL;
        return NULL;
    }
    size_t size = (size_t)count * page_size;
    uint8_t *start = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    for (uint32_t i = 0, run; i < count; i += run) {
        for (run = 1; i + run < count && references[i + run] == references[i] + run;) run++;
        uint32_t page = references[i] - joined->first;
        bool exists = page < joined->pages && run <= joined->pages - page;
        if (!exists) errno = EINVAL;
        if (!exists
            || mmap(start + (size_t)i * page_size, (size_t)run * page_size, protection,
                    MAP_SHARED | MAP_FIXED, joined->memory, (off_t)page * page_size)
                == MAP_FAILED) {
            int error = errno;
            munmap(start, size);
            errno = error;
            return NULL;
        }
    }
    return start;
}

EXPORT int xengnttab_unmap(xengnttab_handle *handle, void *address, uint32_t count) {
    return xengntshr_unshare(handle, address, count);
}

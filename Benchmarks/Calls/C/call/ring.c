// The ring in shared memory: as a vchan, messages framed, one notification for many.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call.h"

enum { page_size = 4096, queue_size = 1 << 20 };
_Static_assert(sizeof(struct page) <= page_size, "the page of a ring");

static size_t memory_size(uint32_t size) { return page_size + 2 * (size_t)size; }

int channel_memory(uint32_t size) {
    int memory = memfd_create("call", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    // Whoever maps it must not be shot by a peer that truncates it.
    if (memory < 0 || ftruncate(memory, (off_t)memory_size(size)) < 0
        || fcntl(memory, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) < 0)
        fail("memfd");
    return memory;
}

void channel_map(struct channel *channel, int memory, uint32_t size, bool is_server, int events) {
    uint8_t *bytes = mmap(NULL, memory_size(size), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (bytes == MAP_FAILED) fail("mmap");
    struct page *page = (struct page *)bytes;
    uint8_t *from_server = bytes + page_size, *from_client = from_server + size;
    *channel = (struct channel){
        .memory = bytes,
        .in = is_server ? &page->from_client : &page->from_server,
        .out = is_server ? &page->from_server : &page->from_client,
        .in_bytes = is_server ? from_client : from_server,
        .out_bytes = is_server ? from_server : from_client,
        .size = size,
        .events = events,
    };
    if (size != control_ring) return;
    channel->queue = malloc(queue_size);
    if (!channel->queue) fail("malloc");
}

void channel_unmap(struct channel *channel) {
    munmap(channel->memory, memory_size(channel->size));
}

static void copy_in(struct channel *c, uint32_t at, const void *bytes, uint32_t length) {
    uint32_t begin = at & (c->size - 1);
    uint32_t first = length < c->size - begin ? length : c->size - begin;
    memcpy(c->out_bytes + begin, bytes, first);
    memcpy(c->out_bytes, (const uint8_t *)bytes + first, length - first);
}

static void copy_out(struct channel *c, uint32_t at, void *bytes, uint32_t length) {
    uint32_t begin = at & (c->size - 1);
    uint32_t first = length < c->size - begin ? length : c->size - begin;
    memcpy(bytes, c->in_bytes + begin, first);
    memcpy((uint8_t *)bytes + first, c->in_bytes, length - first);
}

static void notify(struct channel *c) {
    // A full socket means that there are notifications enough; a peer that is gone needs none.
    (void)!send(c->events, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool put(struct channel *c, const struct header *header, const void *body) {
    uint32_t written = atomic_load_explicit(&c->out->written, memory_order_relaxed);
    uint32_t taken = atomic_load_explicit(&c->out->taken, memory_order_acquire);
    uint32_t length = (uint32_t)sizeof *header + header->length;
    if (c->size - (written - taken) < length) return false;
    copy_in(c, written, header, sizeof *header);
    copy_in(c, written + (uint32_t)sizeof *header, body, header->length);
    atomic_store(&c->out->written, written + length);
    c->has_news = true;
    return true;
}

// What waits for space goes as far as there is some.
static void send_queue(struct channel *c) {
    size_t done = 0;
    atomic_store(&c->out->writer_waits, 1);
    while (done < c->queued) {
        struct header header;
        memcpy(&header, c->queue + done, sizeof header);
        if (!put(c, &header, c->queue + done + sizeof header)) break;
        done += sizeof header + header.length;
    }
    memmove(c->queue, c->queue + done, c->queued - done);
    c->queued -= done;
    if (c->queued == 0) atomic_store(&c->out->writer_waits, 0);
}

void channel_send(struct channel *c, uint32_t type, const void *body, size_t length) {
    struct header header = {type, (uint32_t)length};
    if (c->queued == 0 && put(c, &header, body)) return;
    errno = ENOBUFS;
    if (!c->queue || c->queued + sizeof header + length > queue_size) fail("a full ring");
    memcpy(c->queue + c->queued, &header, sizeof header);
    memcpy(c->queue + c->queued + sizeof header, body, length);
    c->queued += sizeof header + length;
    send_queue(c);
}

void channel_wake(struct channel *c) {
    if (!c->has_news) return;
    c->has_news = false;
    if (atomic_load(&c->out->reader_sleeps) && atomic_exchange(&c->out->reader_sleeps, 0))
        notify(c);
}

bool channel_take(struct channel *c, struct header *header, void *body) {
    uint32_t taken = atomic_load_explicit(&c->in->taken, memory_order_relaxed);
    uint32_t written = atomic_load_explicit(&c->in->written, memory_order_acquire);
    if (written == taken) return false;
    errno = EPROTO;
    if (written - taken > c->size || written - taken < sizeof *header) fail("a ring");
    copy_out(c, taken, header, sizeof *header);
    if (header->length > longest || header->length > written - taken - sizeof *header)
        fail("a message");
    copy_out(c, taken + (uint32_t)sizeof *header, body, header->length);
    atomic_store(&c->in->taken, taken + (uint32_t)sizeof *header + header->length);
    if (atomic_load(&c->in->writer_waits) && atomic_exchange(&c->in->writer_waits, 0)) notify(c);
    return true;
}

bool channel_sleep(struct channel *c) {
    atomic_store(&c->in->reader_sleeps, 1);
    return atomic_load(&c->in->written) == atomic_load(&c->in->taken);
}

void channel_turn(struct channel *c, void (*received)(struct header, void *body)) {
    char event;
    if (receive(c->events, &event, 1, NULL) == 0) exit(0);
    if (c->queued > 0) send_queue(c);
    static uint8_t body[longest + 1];
    struct header header;
    do {
        while (channel_take(c, &header, body)) {
            body[header.length] = 0;
            received(header, body);
        }
    } while (!channel_sleep(c));
    channel_wake(c);
}

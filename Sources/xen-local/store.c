// The store: `domid`, and the two entries of each vchan, which are a view of the sockets in the local
// transport's state. A domain writes below its own data/vchan only and reads what is for it.
#define _GNU_SOURCE
#include "local.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <xenstore.h>

struct watch {
    struct watch *next;
    char *path, *token;
    int directory;  // the inotify watch, -1 for none
    bool fired;
};

struct xs_handle {
    int own;
    int epoll, changes, event;
    struct watch *watches;
};

// An own server's entries. Both numbers readable for the client: published.
struct entry {
    struct entry *next;
    struct meeting meeting;
    uint32_t reference, event;
    bool reference_is_shown, event_is_shown, is_published;
};
static struct entry *entries;

// Servers of others that were read: the numbers that a client gets to see are indices of this table,
// and the place that was read the longest ago is used again.
enum { max_prospects = 1024 };
struct prospect {
    struct meeting meeting;
    uint64_t last_read;
    struct joined *joined;
    bool grant_taken, event_taken;
};
static struct prospect prospects[max_prospects];
static uint64_t reads;

// ---- names ----

enum what { nothing, own_number, a_channel, a_reference, an_event };

// What a path names: absolute, or relative to the own domain's home.
static enum what parse(const char *path, int own, struct meeting *meeting) {
    int server = own, used = 0, client;
    unsigned port;
    if (sscanf(path, "/local/domain/%d/%n", &server, &used) != 1) {
        if (*path == '/') return nothing;
        server = own, used = 0;
    }
    path += used;
    if (strcmp(path, "domid") == 0) return server == own ? own_number : nothing;
    used = 0;
    if (sscanf(path, "data/vchan/%d/%u%n", &client, &port, &used) != 2 || client < 0
        || client > largest_domain || server < 0 || server > largest_domain || server == client)
        return nothing;
    *meeting = (struct meeting){server, client, port};
    path += used;
    if (strcmp(path, "") == 0) return a_channel;
    if (strcmp(path, "/ring-ref") == 0) return a_reference;
    if (strcmp(path, "/event-channel") == 0) return an_event;
    return nothing;
}

static bool is_same(const struct meeting *a, const struct meeting *b) {
    return a->server == b->server && a->client == b->client && a->port == b->port;
}

static struct entry **find(const struct meeting *meeting) {
    struct entry **at = &entries;
    while (*at && !is_same(&(*at)->meeting, meeting)) at = &(*at)->next;
    return at;
}

// ---- connections ----

EXPORT struct xs_handle *xs_open(unsigned long flags) {
    (void)flags;
    int own = own_domain();
    if (own < 0) return NULL;
    struct xs_handle *handle = calloc(1, sizeof *handle);
    if (handle) *handle = (struct xs_handle){.own = own, .epoll = -1, .changes = -1, .event = -1};
    return handle;
}

static void free_watch(struct watch *watch) {
    free(watch->path);
    free(watch->token);
    free(watch);
}

EXPORT void xs_close(struct xs_handle *handle) {
    if (!handle) return;
    while (handle->watches) {
        struct watch *watch = handle->watches;
        handle->watches = watch->next;
        free_watch(watch);
    }
    if (handle->epoll >= 0) close(handle->epoll);
    if (handle->changes >= 0) close(handle->changes);
    if (handle->event >= 0) close(handle->event);
    free(handle);
}

EXPORT struct xs_handle *xs_daemon_open(void) { return xs_open(0); }
EXPORT struct xs_handle *xs_domain_open(void) { return xs_open(0); }
EXPORT void xs_daemon_close(struct xs_handle *handle) { xs_close(handle); }

// ---- a server's entries ----

static bool publish(struct entry *entry) {
    if (entry->is_published || !entry->reference_is_shown || !entry->event_is_shown) return true;
    struct offer offer = {.reference = entry->reference, .event = entry->event};
    offer.memory =
        memory_for_offer(entry->reference, entry->meeting.server, entry->meeting.client);
    if (offer.memory < 0) return false;
    entry->is_published = publish_port(entry->event, &entry->meeting, &offer);
    int error = errno;
    close(offer.memory);
    errno = error;
    return entry->is_published;
}

static void remove_entry(struct entry **at) {
    struct entry *entry = *at;
    if (entry->is_published) withdraw_port(entry->event);
    *at = entry->next;
    free(entry);
}

EXPORT bool xs_write(struct xs_handle *handle, xs_transaction_t transaction, const char *path,
                     const void *data, unsigned length) {
    (void)transaction;
    struct meeting meeting;
    enum what what = parse(path, handle->own, &meeting);
    if ((what != a_reference && what != an_event) || meeting.server != handle->own) {
        errno = EACCES;
        return false;
    }
    char text[16] = {0};
    unsigned long value = 0;
    if (length < sizeof text) {
        memcpy(text, data, length);
        value = strtoul(text, NULL, 10);
    }
    lock();
    struct entry **at = find(&meeting), *entry = *at;
    // A published one is another server's on the same port: the last one to write has it.
    if (entry && entry->is_published) {
        remove_entry(at);
        entry = NULL;
    }
    if (!entry && (entry = calloc(1, sizeof *entry))) {
        entry->meeting = meeting;
        entry->next = entries;
        entries = entry;
    }
    if (entry) *(what == a_reference ? &entry->reference : &entry->event) = (uint32_t)value;
    unlock();
    return entry != NULL;
}

EXPORT bool xs_set_permissions(struct xs_handle *handle, xs_transaction_t transaction,
                               const char *path, struct xs_permissions *list, unsigned count) {
    struct meeting meeting;
    enum what what = parse(path, handle->own, &meeting);
    if ((what != a_reference && what != an_event) || meeting.server != handle->own || count < 1
        || list[0].id != (unsigned)handle->own) {
        errno = EACCES;
        return false;
    }
    bool shown = list[0].perms & XS_PERM_READ;
    for (unsigned i = 1; i < count; i++)
        if (list[i].id == (unsigned)meeting.client) shown = list[i].perms & XS_PERM_READ;
    lock();
    struct entry *entry = *find(&meeting);
    bool good = entry != NULL;
    if (entry) {
        *(what == a_reference ? &entry->reference_is_shown : &entry->event_is_shown) = shown;
        if (!transaction) good = publish(entry);
    } else {
        errno = ENOENT;
    }
    unlock();
    return good;
}

// There is one transaction at a time for all that is not published yet, which nobody else can see.
EXPORT xs_transaction_t xs_transaction_start(struct xs_handle *handle) {
    (void)handle;
    return 1;
}

EXPORT bool xs_transaction_end(struct xs_handle *handle, xs_transaction_t transaction,
                               bool abort) {
    (void)transaction;
    bool good = true;
    lock();
    for (struct entry **at = &entries; *at;) {
        struct entry *entry = *at;
        bool mine = entry->meeting.server == handle->own && !entry->is_published;
        if (mine && !abort && publish(entry)) mine = false;
        else if (mine && !abort) good = false;
        int error = errno;
        if (mine) remove_entry(at);
        else at = &entry->next;
        errno = error;
    }
    unlock();
    return good;
}

EXPORT bool xs_rm(struct xs_handle *handle, xs_transaction_t transaction, const char *path) {
    (void)transaction;
    struct meeting meeting;
    enum what what = parse(path, handle->own, &meeting);
    if (what == nothing || what == own_number || meeting.server != handle->own) {
        errno = EACCES;
        return false;
    }
    lock();
    struct entry **at = find(&meeting);
    bool there = *at != NULL;
    if (there) remove_entry(at);
    unlock();
    if (!there) errno = ENOENT;
    return there;
}

// ---- reading ----

static struct prospect *prospect_of(const struct meeting *meeting) {
    struct prospect *oldest = prospects;
    for (int i = 0; i < max_prospects; i++) {
        struct prospect *at = &prospects[i];
        if (at->last_read && is_same(&at->meeting, meeting)) {
            oldest = at;
            break;
        }
        if (at->last_read < oldest->last_read) oldest = at;
    }
    if (!oldest->last_read || !is_same(&oldest->meeting, meeting)) {
        if (oldest->joined) joined_release(oldest->joined);
        *oldest = (struct prospect){.meeting = *meeting};
    }
    oldest->last_read = ++reads;
    return oldest;
}

// The number that an entry holds, 0 for none.
static uint32_t number_at(int own, enum what what, const struct meeting *meeting) {
    if (meeting->server == own) {
        struct entry *entry = *find(meeting);
        if (!entry) return 0;
        return what == a_reference ? entry->reference : entry->event;
    }
    char path[128];
    if (meeting->client != own || !socket_path(meeting, own, path, sizeof path)
        || access(path, F_OK) < 0)
        return 0;
    return (uint32_t)(prospect_of(meeting) - prospects) + 1;
}

EXPORT void *xs_read(struct xs_handle *handle, xs_transaction_t transaction, const char *path,
                     unsigned *length) {
    (void)transaction;
    struct meeting meeting;
    char *text = NULL;
    int size = -1;
    enum what what = parse(path, handle->own, &meeting);
    if (what == own_number) {
        size = asprintf(&text, "%d", handle->own);
    } else if (what == a_reference || what == an_event) {
        lock();
        uint32_t number = number_at(handle->own, what, &meeting);
        unlock();
        if (number) size = asprintf(&text, "%u", number);
    }
    if (size < 0) {
        // Only dom0 can tell what does not exist from what is not for it.
        errno = handle->own == 0 ? ENOENT : EACCES;
        return NULL;
    }
    if (length) *length = (unsigned)size;
    return text;
}

EXPORT bool xs_is_domain_introduced(struct xs_handle *handle, unsigned domain) {
    char path[128];
    return (int)domain == handle->own
        || (domain <= largest_domain && offers_directory((int)domain, handle->own, path, sizeof path)
            && access(path, F_OK) == 0);
}

// ---- joining ----

static int connect_to(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    int error = errno;
    if (fd >= 0) close(fd);
    errno = error;
    return -1;
}

static long now_in_milliseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

// Connects and waits for the server's offer. A server accepts when it gets round to it; one that does
// not within ten seconds is one that is gone.
static struct joined *join(int own, struct prospect *prospect, uint32_t number) {
    char path[128];
    if (!socket_path(&prospect->meeting, own, path, sizeof path)) return NULL;
    int link = connect_to(path), received = 0;
    if (link < 0) {
        errno = EINVAL;
        return NULL;
    }
    struct offer offer;
    long deadline = now_in_milliseconds() + 10000;
    while (received == 0) {
        received = receive_offer(link, &offer);
        long left = deadline - now_in_milliseconds();
        if (received == 0 && left <= 0) {
            received = -1;
            errno = ETIMEDOUT;
        } else if (received == 0) {
            serve_while_waiting(link, (int)left);
        }
    }
    struct joined *joined = received > 0 ? calloc(1, sizeof *joined) : NULL;
    if (!joined) {
        int error = errno;
        close(link);
        errno = error;
        return NULL;
    }
    *joined = (struct joined){
        .own = own, .domain = prospect->meeting.server, .reference = number,
        .first = offer.reference, .memory = offer.memory, .link = link, .users = 1,
        .pages = (uint32_t)(lseek(offer.memory, 0, SEEK_END) / page_size),
    };
    return joined;
}

// Grant and event channel of one connection are taken one after the other, in any order.
static struct joined *take(int own, int domain, uint32_t number, bool is_grant) {
    struct prospect *prospect =
        number >= 1 && number <= max_prospects ? &prospects[number - 1] : NULL;
    if (!prospect || !prospect->last_read || prospect->meeting.client != own
        || prospect->meeting.server != domain) {
        errno = EINVAL;
        return NULL;
    }
    bool *mine = is_grant ? &prospect->grant_taken : &prospect->event_taken;
    bool *other = is_grant ? &prospect->event_taken : &prospect->grant_taken;
    if (prospect->joined && *mine) {
        // Somebody took it and gave up before the other half.
        joined_release(prospect->joined);
        prospect->joined = NULL;
    }
    *mine = false;
    if (!prospect->joined) {
        prospect->joined = join(own, prospect, number);
        *other = false;
        if (!prospect->joined) return NULL;
    }
    struct joined *joined = prospect->joined;
    *mine = true;
    if (*other) {
        // The table's own share goes to the second one who takes it.
        prospect->joined = NULL;
        prospect->grant_taken = prospect->event_taken = false;
    } else {
        joined->users++;
    }
    return joined;
}

void joined_release(struct joined *joined) {
    if (--joined->users > 0) return;
    close(joined->link);
    close(joined->memory);
    free(joined);
}

struct joined *join_for_grant(int own, int domain, uint32_t reference) {
    return take(own, domain, reference, true);
}

struct joined *join_for_event(int own, int domain, uint32_t event) {
    return take(own, domain, event, false);
}

// ---- watches ----

static bool prepare_watches(struct xs_handle *handle) {
    if (handle->epoll >= 0) return true;
    handle->changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    handle->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    if (handle->changes < 0 || handle->event < 0 || epoll < 0
        || epoll_ctl(epoll, EPOLL_CTL_ADD, handle->changes, &event) < 0
        || epoll_ctl(epoll, EPOLL_CTL_ADD, handle->event, &event) < 0)
        return false;
    handle->epoll = epoll;
    return true;
}

EXPORT int xs_fileno(struct xs_handle *handle) {
    return prepare_watches(handle) ? handle->epoll : -1;
}

static void fire(struct xs_handle *handle, struct watch *watch) {
    uint64_t one = 1;
    watch->fired = true;
    (void)!write(handle->event, &one, sizeof one);
}

EXPORT bool xs_watch(struct xs_handle *handle, const char *path, const char *token) {
    struct watch *watch = prepare_watches(handle) ? calloc(1, sizeof *watch) : NULL;
    if (!watch) return false;
    *watch = (struct watch){
        .path = strdup(path), .token = strdup(token), .directory = -1, .next = handle->watches,
    };
    struct meeting meeting;
    enum what what = parse(path, handle->own, &meeting);
    char directory[128];
    if ((what == a_channel || what == a_reference || what == an_event)
        && meeting.client == handle->own
        && offers_directory(meeting.server, handle->own, directory, sizeof directory))
        watch->directory = inotify_add_watch(
            handle->changes, directory,
            IN_CREATE | IN_DELETE | IN_ATTRIB | IN_MOVED_TO | IN_DELETE_SELF | IN_ONLYDIR);
    if (!watch->path || !watch->token) {
        free_watch(watch);
        return false;
    }
    handle->watches = watch;
    // A new watch fires at once.
    fire(handle, watch);
    return true;
}

EXPORT bool xs_unwatch(struct xs_handle *handle, const char *path, const char *token) {
    for (struct watch **at = &handle->watches; *at; at = &(*at)->next) {
        struct watch *watch = *at;
        if (strcmp(watch->path, path) != 0 || strcmp(watch->token, token) != 0) continue;
        *at = watch->next;
        bool is_shared = false;
        for (struct watch *other = handle->watches; other; other = other->next)
            if (other->directory == watch->directory) is_shared = true;
        if (watch->directory >= 0 && !is_shared)
            inotify_rm_watch(handle->changes, watch->directory);
        free_watch(watch);
        return true;
    }
    errno = ENOENT;
    return false;
}

static void take_changes(struct xs_handle *handle) {
    _Alignas(struct inotify_event) char buffer[4096];
    ssize_t got;
    while ((got = read(handle->changes, buffer, sizeof buffer)) > 0) {
        for (char *at = buffer; at < buffer + got;) {
            struct inotify_event *change = (struct inotify_event *)at;
            for (struct watch *watch = handle->watches; watch; watch = watch->next)
                if (watch->directory == change->wd) fire(handle, watch);
            at += sizeof *change + change->len;
        }
    }
}

EXPORT char **xs_check_watch(struct xs_handle *handle) {
    if (!prepare_watches(handle)) return NULL;
    take_changes(handle);
    struct watch *watch = handle->watches;
    while (watch && !watch->fired) watch = watch->next;
    if (!watch) {
        uint64_t count;
        (void)!read(handle->event, &count, sizeof count);
        errno = EAGAIN;
        return NULL;
    }
    watch->fired = false;
    size_t path = strlen(watch->path) + 1, token = strlen(watch->token) + 1;
    char **news = malloc(2 * sizeof *news + path + token);
    if (!news) return NULL;
    news[XS_WATCH_PATH] = memcpy(news + 2, watch->path, path);
    news[XS_WATCH_TOKEN] = memcpy(news[XS_WATCH_PATH] + path, watch->token, token);
    return news;
}

EXPORT char **xs_read_watch(struct xs_handle *handle, unsigned *count) {
    char **news;
    struct epoll_event event;
    while (!(news = xs_check_watch(handle)) && errno == EAGAIN)
        if (epoll_wait(handle->epoll, &event, 1, -1) < 0 && errno != EINTR) return NULL;
    if (news && count) *count = 2;
    return news;
}

// What the ring is measured against: the C libxenvchan, a bare ring as the limit, pipe, unix socket.
//
//   ring-reference WAY WHAT MESSAGE RING COUNT CORE-A CORE-B
//
// WAY: library, polled (the library, its reader and writer busy), bare, pipe, socket, packet
// WHAT: trip (COUNT round trips), stream (COUNT messages one way), pair (COUNT messages in one
// thread), pump (COUNT bytes pipe to WAY to pipe; WAY none: from pipe to pipe, the two copies that
// nobody can do without), event (COUNT events or packets, each sent and taken, in one thread)
// Prints: seconds, seconds had all gone as the median slice, CPU seconds of both sides, events sent.
// CORE -1 leaves a side where it is.
#define _GNU_SOURCE
#include "xen.h"

#include <errno.h>
#include <libxenvchan.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *way;
static size_t message, ring_size;
static long count;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu_of(int who) {
    struct rusage r;
    getrusage(who, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

static void pin(int core) {
    if (core < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) fail("sched_setaffinity");
}

static void pause_core(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// ---- one end of a connection, whatever the way ----

// The limit: one index each on a line of its own, cached copies, no notification, always busy.
struct bare {
    _Alignas(128) _Atomic uint32_t produced;
    _Alignas(128) _Atomic uint32_t consumed;
    _Alignas(4096) char bytes[1 << 20];
};

struct end {
    struct libxenvchan *library;
    struct bare *in, *out;
    uint32_t in_taken, in_known, out_staged, out_known;
    int input, output;
};

static void send_bare(struct end *e, const void *data, size_t n) {
    uint32_t size = (uint32_t)ring_size;
    while (size - (e->out_staged - e->out_known) < n) {
        atomic_store_explicit(&e->out->produced, e->out_staged, memory_order_release);
        e->out_known = atomic_load_explicit(&e->out->consumed, memory_order_acquire);
        if (size - (e->out_staged - e->out_known) < n) pause_core();
    }
    uint32_t at = e->out_staged & (size - 1), first = size - at < n ? size - at : (uint32_t)n;
    memcpy(e->out->bytes + at, data, first);
    if (first < n) memcpy(e->out->bytes, (const char *)data + first, n - first);
    e->out_staged += (uint32_t)n;
    uint32_t shown = atomic_load_explicit(&e->out->produced, memory_order_relaxed);
    if (e->out_staged - shown >= size / 4)
        atomic_store_explicit(&e->out->produced, e->out_staged, memory_order_release);
}

static void flush_bare(struct end *e) {
    atomic_store_explicit(&e->out->produced, e->out_staged, memory_order_release);
}

static void receive_bare(struct end *e, void *data, size_t n) {
    uint32_t size = (uint32_t)ring_size;
    while (e->in_known - e->in_taken < n) {
        atomic_store_explicit(&e->in->consumed, e->in_taken, memory_order_release);
        e->in_known = atomic_load_explicit(&e->in->produced, memory_order_acquire);
        if (e->in_known - e->in_taken < n) pause_core();
    }
    uint32_t at = e->in_taken & (size - 1), first = size - at < n ? size - at : (uint32_t)n;
    memcpy(data, e->in->bytes + at, first);
    if (first < n) memcpy((char *)data + first, e->in->bytes, n - first);
    e->in_taken += (uint32_t)n;
    uint32_t shown = atomic_load_explicit(&e->in->consumed, memory_order_relaxed);
    if (e->in_taken - shown >= size / 4)
        atomic_store_explicit(&e->in->consumed, e->in_taken, memory_order_release);
}

static void send_all(struct end *e, const void *data, size_t n) {
    if (e->out) {
        send_bare(e, data, n);
    } else if (e->library) {
        const char *at = data;
        while (n > 0) {  // more than the ring holds goes as a stream, as its users do it
            int sent = n <= ring_size ? libxenvchan_send(e->library, at, n)
                                      : libxenvchan_write(e->library, at, n);
            if (sent < 0) fail("libxenvchan_send");
            at += sent;
            n -= (size_t)sent;
        }
    } else {
        for (const char *at = data; n > 0;) {
            ssize_t put = write(e->output, at, n);
            if (put < 0) fail("write");
            at += put;
            n -= (size_t)put;
        }
    }
}

static void receive_all(struct end *e, void *data, size_t n) {
    if (e->in) {
        receive_bare(e, data, n);
    } else if (e->library) {
        char *at = data;
        while (n > 0) {
            int got = n <= ring_size ? libxenvchan_recv(e->library, at, n)
                                     : libxenvchan_read(e->library, at, n);
            if (got < 0) fail("libxenvchan_recv");
            at += got;
            n -= (size_t)got;
        }
    } else {
        for (char *at = data; n > 0;) {
            ssize_t got = read(e->input, at, n);
            if (got <= 0) fail("read");
            at += got;
            n -= (size_t)got;
        }
    }
}

static void flush(struct end *e) {
    if (e->out) flush_bare(e);
}

// ---- set-up: everything is made before the fork ----

static struct bare *bare[2];
static int pipes[2][2], sockets[2], offered[2];

static void prepare(void) {
    xen_prepare();
    for (int i = 0; i < 2; i++) {
        bare[i] = mmap(NULL, sizeof(struct bare), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (bare[i] == MAP_FAILED || pipe(pipes[i]) < 0) fail("prepare");
    }
    if (pipe(offered) < 0) fail("prepare");
    int type = strcmp(way, "packet") == 0 ? SOCK_SEQPACKET : SOCK_STREAM;
    if (socketpair(AF_UNIX, type, 0, sockets) < 0) fail("socketpair");
}

static bool is(const char *name) { return strcmp(way, name) == 0; }

// side 0 is the server, side 1 the client.
static struct end join_as(int side) {
    struct end e = {.input = -1, .output = -1};
    if (is("library") || is("polled")) {
        xen_become(side + 1);
        if (side == 0) {
            e.library = libxenvchan_server_init(NULL, 2, "/bench", ring_size, ring_size);
            if (write(offered[1], "", 1) != 1) fail("offer");
        } else {
            // Its error paths free what was never set: it must not come before the offer is whole.
            char byte;
            if (read(offered[0], &byte, 1) != 1) fail("offer");
            e.library = libxenvchan_client_init(NULL, 1, "/bench");
        }
        if (!e.library) fail("libxenvchan");
        e.library->blocking = 1;
        if (side == 0) while (libxenvchan_is_open(e.library) == 2) libxenvchan_wait(e.library);
    } else if (is("bare")) {
        e.in = bare[side];
        e.out = bare[1 - side];
    } else if (is("pipe")) {
        e.input = pipes[side][0];
        e.output = pipes[1 - side][1];
    } else {
        e.input = e.output = sockets[side];
    }
    return e;
}

// A polled library never sleeps: it looks until there is enough.
static void look_for_data(struct end *e, size_t n) {
    if (is("polled")) while (libxenvchan_data_ready(e->library) < (int)n) pause_core();
}

static void look_for_space(struct end *e, size_t n) {
    if (is("polled")) while (libxenvchan_buffer_space(e->library) < (int)n) pause_core();
}

// ---- what is measured ----

static char *buffer;

// Round trips in equal slices, each timed by itself: what else the machine does falls into some.
static long slice_length, slice_left;
enum { slices_kept = 4096 };
static double slice_last, slice_times[slices_kept];
static int slices;

static void slices_begin(long length) {
    slice_length = slice_left = length > 0 && length < count ? length : count;
    slice_last = now();
}

static void slice_step(void) {
    if (--slice_left > 0) return;
    slice_left = slice_length;
    double t = now();
    if (slices < slices_kept) slice_times[slices++] = t - slice_last;
    slice_last = t;
}

static int by_time(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double usual(double whole) {
    if (slices == 0) return whole;
    qsort(slice_times, (size_t)slices, sizeof *slice_times, by_time);
    return slice_times[slices / 2] * (double)count / (double)slice_length;
}

static void trips(struct end *e, int side) {
    slices_begin(is("polled") || is("bare") ? 500 : 16);
    for (long i = 0; i < count; i++) {
        if (side == 1) {
            send_all(e, buffer, message);
            flush(e);
            look_for_data(e, message);
            receive_all(e, buffer, message);
            slice_step();
        } else {
            look_for_data(e, message);
            receive_all(e, buffer, message);
            send_all(e, buffer, message);
            flush(e);
        }
    }
}

static void stream(struct end *e, int side) {
    size_t step = message < ring_size ? message : ring_size;
    for (long i = 0; i < count; i++) {
        if (side == 1) {
            look_for_space(e, step);
            send_all(e, buffer, message);
        } else {
            look_for_data(e, step);
            receive_all(e, buffer, message);
        }
    }
    // The last word of the reader ends the clock of the writer.
    if (side == 1) {
        flush(e);
        receive_all(e, buffer, 1);
    } else {
        send_all(e, buffer, 1);
        flush(e);
    }
}

// The forwarding loops of a program that uses the library: read, write all; read, write all.
static void pump(struct end *e, int side) {
    size_t chunk = 65536;
    for (long left = count; left > 0;) {
        if (side == 1) {
            ssize_t got = read(0, buffer, chunk);
            if (got <= 0) fail("pump read");
            for (ssize_t done = 0; done < got;) {
                int put = libxenvchan_write(e->library, buffer + done, (size_t)(got - done));
                if (put < 0) fail("pump send");
                done += put;
            }
            left -= got;
        } else {
            int got = libxenvchan_read(e->library, buffer, chunk);
            if (got < 0) fail("pump receive");
            for (int done = 0; done < got;) {
                ssize_t put = write(1, buffer + done, (size_t)(got - done));
                if (put < 0) fail("pump write");
                done += (int)put;
            }
            left -= got;
        }
    }
}

static void run(struct end *e, int side, const char *what) {
    if (strcmp(what, "trip") == 0) trips(e, side);
    else if (strcmp(what, "stream") == 0) stream(e, side);
    else pump(e, side);
}

static void report(double seconds, double cpu, uint64_t events) {
    FILE *out = fdopen(3, "w");
    fprintf(out ? out : stdout, "%.9f %.9f %.9f %llu\n", seconds, usual(seconds), cpu,
            (unsigned long long)events);
    fflush(out ? out : stdout);
}

// Both ends in one process: what a message costs, without waiting.
static void pair(void) {
    struct end one, two;
    xen_become(1);
    one.library = libxenvchan_server_init(NULL, 2, "/bench", ring_size, ring_size);
    xen_become(2);
    two.library = libxenvchan_client_init(NULL, 1, "/bench");
    if (!one.library || !two.library) fail("libxenvchan");
    size_t batch = ring_size / message / 2;
    double start = cpu_of(RUSAGE_SELF);
    for (long i = 0; i < count; i += (long)batch) {
        xen_become(2);
        for (size_t k = 0; k < batch; k++) libxenvchan_send(two.library, buffer, message);
        xen_become(1);
        for (size_t k = 0; k < batch; k++) libxenvchan_recv(one.library, buffer, message);
    }
    double cpu = cpu_of(RUSAGE_SELF) - start;
    report(cpu, cpu, xen_events_sent());
}

// The least that a way from pipe to pipe can cost: what the kernel does for read and write.
static void copy_only(void) {
    double start = now(), before = cpu_of(RUSAGE_SELF);
    for (long left = count; left > 0;) {
        ssize_t got = read(0, buffer, 65536);
        if (got <= 0) fail("copy read");
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(1, buffer + done, (size_t)(got - done));
            if (put < 0) fail("copy write");
            done += put;
        }
        left -= got;
    }
    report(now() - start, cpu_of(RUSAGE_SELF) - before, 0);
}

static void events(void) {
    xenevtchn_handle *handle = xenevtchn_open(NULL, 0);
    double start = cpu_of(RUSAGE_SELF);
    for (long i = 0; i < count; i++) {
        if (is("library")) {
            xen_become(1);
            xenevtchn_notify(handle, 1);
            xen_become(2);
            xenevtchn_unmask(handle, (uint32_t)xenevtchn_pending(handle));
        } else if (send(sockets[0], buffer, 1, MSG_DONTWAIT) != 1 ||
                   recv(sockets[1], buffer, 1, MSG_DONTWAIT) != 1) {
            fail("packet");
        }
    }
    double cpu = cpu_of(RUSAGE_SELF) - start;
    report(cpu, cpu, (uint64_t)count);
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: ring-reference WAY WHAT MESSAGE RING COUNT CORE-A CORE-B\n");
        return 2;
    }
    way = argv[1];
    static const char *const ways[] = {"library", "polled", "bare", "pipe", "socket", "packet", "none"};
    bool known = false;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) known |= is(ways[i]);
    if (!known) {
        fprintf(stderr, "ring-reference: there is no way '%s'\n", way);
        return 2;
    }
    message = strtoul(argv[3], NULL, 10);
    ring_size = strtoul(argv[4], NULL, 10);
    count = atol(argv[5]);
    int cores[2] = {atoi(argv[6]), atoi(argv[7])};
    buffer = calloc(1, message < 65536 ? 65536 : message);
    prepare();
    if (strcmp(argv[2], "pair") == 0 || strcmp(argv[2], "event") == 0 || is("none")) {
        pin(cores[0]);
        if (is("none")) copy_only();
        else if (argv[2][0] == 'p') pair();
        else events();
        return 0;
    }
    int go[2];
    if (pipe(go) < 0) fail("pipe");
    pid_t child = fork();
    if (child < 0) fail("fork");
    int side = child == 0 ? 0 : 1;
    pin(cores[side]);
    struct end e = join_as(side);
    char ready = 0;
    if (side == 0) {
        if (write(go[1], &ready, 1) < 0) fail("go");
        run(&e, side, argv[2]);
        _exit(0);
    }
    if (read(go[0], &ready, 1) != 1) fail("go");
    uint64_t events = xen_events_sent();
    double start = now(), before = cpu_of(RUSAGE_SELF);
    run(&e, side, argv[2]);
    double end = now(), cpu = cpu_of(RUSAGE_SELF) - before;
    int status;
    if (waitpid(child, &status, 0) < 0 || status != 0) fail("the other side");
    report(end - start, cpu + cpu_of(RUSAGE_CHILDREN), xen_events_sent() - events);
    return 0;
}

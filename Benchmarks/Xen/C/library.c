// The C libxenvchan between two domains, as its users call it: blocking, one call a message.
//
//   xen-library server|client PEER PORT MESSAGE COUNT TRIPS
//
// The client sends COUNT messages and gets a byte back, the server sends as many and gets a byte back,
// then TRIPS round trips of 64 bytes. Prints: MB/s out, MB/s in, microseconds a round trip.
#include <errno.h>
#include <libxenvchan.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xenstore.h>

static struct libxenvchan *channel;
static char buffer[1 << 20];

static void fail(const char *what) {
    fprintf(stderr, "xen-library: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void send_all(size_t size) {
    for (size_t done = 0; done < size;) {
        int n = libxenvchan_write(channel, buffer + done, size - done);
        if (n <= 0) fail("write");
        done += (size_t)n;
    }
}

static void receive_all(size_t size) {
    for (size_t done = 0; done < size;) {
        int n = libxenvchan_read(channel, buffer + done, size - done);
        if (n <= 0) fail("read");
        done += (size_t)n;
    }
}

static void open_channel(int is_server, int peer, const char *port) {
    char path[128];
    struct xs_handle *store = xs_open(0);
    char *own = store ? xs_read(store, 0, "domid", NULL) : NULL;
    if (!own) fail("domid");
    if (is_server) {
        snprintf(path, sizeof path, "data/vchan/%d/%s", peer, port);
        channel = libxenvchan_server_init(NULL, peer, path, 65536, 65536);
    } else {
        snprintf(path, sizeof path, "/local/domain/%d/data/vchan/%s/%s", peer, own, port);
        for (int i = 0; i < 600 && !channel; i++) {
            channel = libxenvchan_client_init(NULL, peer, path);
            if (!channel) usleep(100000);
        }
    }
    if (!channel) fail("libxenvchan");
    channel->blocking = 1;
    xs_close(store);
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: xen-library server|client PEER PORT MESSAGE COUNT TRIPS\n");
        return 2;
    }
    int is_server = strcmp(argv[1], "server") == 0;
    size_t message = strtoul(argv[4], NULL, 10);
    long count = atol(argv[5]), trips = atol(argv[6]);
    if (message > sizeof buffer) fail("message");
    open_channel(is_server, atoi(argv[2]), argv[3]);
    double start = now(), out, in;
    for (long i = 0; i < count; i++) is_server ? receive_all(message) : send_all(message);
    is_server ? send_all(1) : receive_all(1);
    out = now();
    for (long i = 0; i < count; i++) is_server ? send_all(message) : receive_all(message);
    is_server ? receive_all(1) : send_all(1);
    in = now();
    for (long i = 0; i < trips; i++) {
        if (is_server) receive_all(64);
        send_all(64);
        if (!is_server) receive_all(64);
    }
    double end = now(), bytes = (double)message * (double)count;
    if (!is_server)
        printf("%.1f %.1f %.0f\n", bytes / (out - start) / 1e6, bytes / (in - out) / 1e6,
               trips ? (end - in) / (double)trips * 1e6 : 0);
    libxenvchan_close(channel);
    return 0;
}

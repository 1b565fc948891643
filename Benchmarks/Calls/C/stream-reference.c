// The chain of a call's data in plain C, over the C libxenvchan and the user-space Xen:
//
//   standard input -> client -> 64 KiB ring -> agent -> socket pair -> SERVICE, and back
//
//   stream-reference SERVICE [ARGUMENT…]
//
// Both ends frame what they move as a call does (type, length, at most 64 KiB; an empty message is a
// stream's end; then the exit status), each in one loop over poll. Descriptor 3, where there is one,
// goes to the service. The exit status is the service's.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libxenvchan.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ring_size = 65536, longest = 65536, client_domain = 1, agent_domain = 2 };
enum { message_stdin = 0x190, message_stdout = 0x191, message_exit = 0x193 };
static const char place[] = "data/vchan/2/513";

void xen_local_become(int domain);

struct header {
    uint32_t type, length;
};

struct side {
    struct libxenvchan *channel;
    uint32_t type;      // of what this side sends
    int input, output;  // -1: over
    pid_t service;      // at the agent
    // What was read from the input and is not in the ring yet.
    char out[sizeof(struct header) + longest];
    size_t out_at, out_end;
    // What was taken from the ring and is not at the output yet.
    char in[longest];
    size_t in_at, in_end;
    uint32_t rest;  // of the message that is being taken
    bool input_is_ready, output_is_ready, over;
    int status;
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void stage(struct side *s, uint32_t type, size_t length) {
    struct header header = {type, (uint32_t)length};
    memcpy(s->out, &header, sizeof header);
    s->out_at = 0;
    s->out_end = sizeof header + length;
}

// The service has closed its output: its status follows.
static void end_input(struct side *s) {
    if (s->service == 0) close(s->input);
    s->input = -1;
    stage(s, s->type, 0);
}

static void send_status(struct side *s) {
    int status;
    if (waitpid(s->service, &status, 0) < 0) fail("waitpid");
    uint32_t code = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 255;
    memcpy(s->out + sizeof(struct header), &code, sizeof code);
    stage(s, message_exit, sizeof code);
    s->service = -1;
}

static bool send_some(struct side *s) {
    if (s->out_at == s->out_end) {
        if (s->input < 0) {
            if (s->service > 0) send_status(s);
        } else if (s->input_is_ready) {
            ssize_t got = read(s->input, s->out + sizeof(struct header), longest);
            if (got > 0) stage(s, s->type, (size_t)got);
            else if (got == 0) end_input(s);
            else if (errno == EAGAIN) s->input_is_ready = false;
            else fail("read");
        }
    }
    if (s->out_at == s->out_end) return false;
    int put = libxenvchan_write(s->channel, s->out + s->out_at, s->out_end - s->out_at);
    if (put < 0) fail("libxenvchan_write");
    s->out_at += (size_t)put;
    // The status is the last word.
    if (s->service < 0 && s->out_at == s->out_end) s->over = true;
    return put > 0;
}

static void take_status(struct side *s) {
    uint32_t code;
    if (libxenvchan_recv(s->channel, &code, sizeof code) != sizeof code) fail("exit status");
    s->status = (int)code;
    s->over = true;
}

static bool take_header(struct side *s) {
    struct header header;
    int got = libxenvchan_recv(s->channel, &header, sizeof header);
    if (got < 0) fail("libxenvchan_recv");
    if (got == 0) return false;
    if (header.length > longest) fail("a message that is too long");
    if (header.type == message_exit) {
        take_status(s);
    } else if (header.length == 0) {
        if (s->service != 0) shutdown(s->output, SHUT_WR);
        s->output = -1;
    }
    s->rest = header.type == message_exit ? 0 : header.length;
    return true;
}

static bool receive_some(struct side *s) {
    if (s->in_at == s->in_end) {
        if (s->rest == 0) return take_header(s);
        int got = libxenvchan_read(s->channel, s->in, s->rest);
        if (got < 0) fail("libxenvchan_read");
        s->rest -= (uint32_t)got;
        s->in_at = 0;
        s->in_end = (size_t)got;
    }
    if (s->in_at == s->in_end || !s->output_is_ready) return false;
    ssize_t put = write(s->output, s->in + s->in_at, s->in_end - s->in_at);
    if (put > 0) s->in_at += (size_t)put;
    else if (errno == EAGAIN) s->output_is_ready = false;
    else fail("write");
    return put > 0;
}

static void wait_for_some(struct side *s) {
    struct pollfd set[3] = {
        {.fd = libxenvchan_fd_for_select(s->channel), .events = POLLIN},
        {.fd = s->input_is_ready ? -1 : s->input, .events = POLLIN},
        {.fd = s->output_is_ready ? -1 : s->output, .events = POLLOUT},
    };
    if (poll(set, 3, -1) < 0 && errno != EINTR) fail("poll");
    if (set[0].revents && libxenvchan_wait(s->channel) < 0) fail("libxenvchan_wait");
    if (set[1].revents) s->input_is_ready = true;
    if (set[2].revents) s->output_is_ready = true;
}

static void run(struct side *s) {
    s->channel->blocking = 0;
    s->input_is_ready = s->output_is_ready = true;
    fcntl(s->input, F_SETFL, fcntl(s->input, F_GETFL) | O_NONBLOCK);
    fcntl(s->output, F_SETFL, fcntl(s->output, F_GETFL) | O_NONBLOCK);
    while (!s->over) {
        bool received = receive_some(s), sent = !s->over && send_some(s);
        if (received || sent || s->over) continue;
        // What the peer wrote before it closed has been taken.
        if (libxenvchan_is_open(s->channel) != 1) fail("the other end is gone");
        wait_for_some(s);
    }
}

static void start_service(struct side *s, char **command) {
    int input[2], output[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, input) < 0
        || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, output) < 0)
        fail("socketpair");
    s->service = vfork();
    if (s->service < 0) fail("vfork");
    if (s->service == 0) {
        dup2(input[1], 0);
        dup2(output[1], 1);
        execv(command[0], command);
        _exit(127);
    }
    close(input[1]);
    close(output[1]);
    close(3);
    s->output = input[0];
    s->input = output[0];
}

static void agent(int offered, char **command) {
    // It must not come before the offer is whole: the library's error paths free what was never set.
    char byte;
    if (read(offered, &byte, 1) != 1) fail("offer");
    xen_local_become(agent_domain);
    static struct side s = {.type = message_stdout};
    s.channel = libxenvchan_client_init(NULL, client_domain, "/local/domain/1/data/vchan/2/513");
    if (!s.channel) fail("libxenvchan_client_init");
    start_service(&s, command);
    run(&s);
    // The ring goes when the client has everything.
    while (libxenvchan_is_open(s.channel) == 1) libxenvchan_wait(s.channel);
    libxenvchan_close(s.channel);
    exit(0);
}

static int client(int offered) {
    xen_local_become(client_domain);
    static struct side s = {.type = message_stdin, .input = 0, .output = 1};
    s.channel = libxenvchan_server_init(NULL, agent_domain, place, ring_size, ring_size);
    if (!s.channel) fail("libxenvchan_server_init");
    if (write(offered, "", 1) != 1) fail("offer");
    s.channel->blocking = 1;
    while (libxenvchan_is_open(s.channel) == 2) libxenvchan_wait(s.channel);
    run(&s);
    libxenvchan_close(s.channel);
    return s.status;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: stream-reference SERVICE [ARGUMENT...]\n");
        return 2;
    }
    char state[] = "/tmp/stream-reference-XXXXXX";
    int offered[2];
    if (!mkdtemp(state) || setenv("XEN_LOCAL_STATE", state, 1) < 0) fail("mkdtemp");
    if (pipe2(offered, O_CLOEXEC) < 0) fail("pipe");
    pid_t other = fork();
    if (other < 0) fail("fork");
    if (other == 0) {
        // The client's streams are not the agent's.
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, 0);
        dup2(null, 1);
        agent(offered[0], argv + 1);
    }
    close(3);
    int status = client(offered[1]), ended;
    if (waitpid(other, &ended, 0) < 0 || ended != 0) fail("the agent");
    static const char *const made[] = {"/xen/1/2", "/xen/1", "/xen", ""};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        char path[sizeof state + 16];
        snprintf(path, sizeof path, "%s%s", state, made[i]);
        rmdir(path);
    }
    return status;
}

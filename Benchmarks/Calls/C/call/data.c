// The data process of the qube that is called: starts services, joins callers' rings, and moves what
// both say; and the service on a socket.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "call.h"

enum { tag_agent = 1 << 16, tag_offers };
// What of a call is ready; its tag is its number times `kinds` and this.
enum { kind_channel, kind_output, kind_error, kind_process, kinds };

struct output {
    int descriptor;  // -1: over
    bool is_ready;
    uint32_t type;
};

static struct running {
    bool is_used, is_connected, is_joined, is_greeted, is_input_over, has_said;
    struct place place;
    struct channel channel;
    int events;  // to the caller, before the ring is there
    int input;   // of the service; -1: over
    struct output output, error;
    pid_t process;  // 0: a socket service, or over
    int process_descriptor;
    uint32_t status;
    char service[128];
} calls[port_count];  // by port

static int agent, offers, offer_watch;
static int waiting;  // calls whose callers have not offered yet
static char offer_directory[128], service_path[128];
static const char *program;

static uint64_t tag_of(struct running *r, int kind) {
    return (uint64_t)(r - calls) * kinds + (uint64_t)kind;
}

// MARK: The service

static void connect_service(struct running *r) {
    char text[256];
    int length = 1 + snprintf(text, sizeof text, "%s work", r->service);
    int socket = stream_to(service_path);
    send_all(socket, text, (size_t)length, -1);
    r->input = socket;
    r->output.descriptor = socket;
    r->error.descriptor = -1;
    watch(socket, EPOLLIN | EPOLLET, tag_of(r, kind_output));
}

static _Noreturn void become(const char *service, int input, int output, int error) {
    static char full_name[160];
    static char *arguments[] = {NULL, NULL};
    static char *environment[] = {
        full_name, "QREXEC_REMOTE_DOMAIN=work", "QREXEC_SERVICE_ARGUMENT=", "HOME=/",
        "PATH=/usr/bin:/bin", NULL,
    };
    snprintf(full_name, sizeof full_name, "QREXEC_SERVICE_FULL_NAME=%s", service);
    arguments[0] = (char *)program;
    setsid();
    dup2(input, 0);
    dup2(output, 1);
    dup2(error, 2);
    execve(program, arguments, environment);
    _exit(125);
}

static void start_service(struct running *r) {
    int input[2], output[2], error[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, input) < 0
        || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, output) < 0
        || pipe2(error, O_CLOEXEC | O_NONBLOCK) < 0)
        fail("socketpair");
    r->process = vfork();
    if (r->process < 0) fail("vfork");
    if (r->process == 0) become(r->service, input[1], output[1], error[1]);
    close(input[1]);
    close(output[1]);
    close(error[1]);
    r->input = input[0];
    r->output.descriptor = output[0];
    r->error.descriptor = error[0];
    watch(output[0], EPOLLIN | EPOLLET, tag_of(r, kind_output));
    watch(error[0], EPOLLIN | EPOLLET, tag_of(r, kind_error));
}

// MARK: The end

static void finish(struct running *r) {
    channel_send(&r->channel, message_exit, &r->status, sizeof r->status);
    channel_unmap(&r->channel);
    // The hang-up is the last notification.
    close(r->events);
    if (r->input >= 0) close(r->input);
    if (r->process_descriptor >= 0) close(r->process_descriptor);
    r->is_used = false;
    struct {
        struct header header;
        struct place place;
    } message = {{message_ended, sizeof r->place}, r->place};
    send_all(agent, &message, sizeof message, -1);
    tell("qrexec-agent-data[3]: info: call ended status=%u service=%s started-us=80 "
         "connected-us=100 ended-us=200 domain=%u port=%u", r->status, r->service,
         r->place.domain, r->place.port);
}

// Whether the service is gone; when not, its end is waited for.
static bool has_ended(struct running *r) {
    if (r->process == 0) return true;
    int status;
    pid_t ended = waitpid(r->process, &status, WNOHANG);
    if (ended < 0) fail("waitpid");
    if (ended == 0) {
        if (r->process_descriptor >= 0) return false;
        r->process_descriptor = (int)syscall(SYS_pidfd_open, r->process, 0);
        if (r->process_descriptor < 0) fail("pidfd_open");
        watch(r->process_descriptor, EPOLLIN, tag_of(r, kind_process));
        return false;
    }
    r->process = 0;
    r->status = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 255;
    return true;
}

// MARK: Moving

static void take_input(struct running *r, struct header header, const void *body) {
    if (header.type == message_hello && !r->is_greeted) {
        r->is_greeted = true;
    } else if (header.type == message_stdin && r->is_greeted && r->input >= 0) {
        if (header.length > 0) {
            send_all(r->input, body, header.length, -1);
            return;
        }
        r->is_input_over = true;
        shutdown(r->input, SHUT_WR);
        // A service's own input is a socket of its own; a socket service answers on the same.
        if (r->input != r->output.descriptor) close(r->input);
        r->input = -1;
    }
}

static void take_output(struct running *r, struct output *output) {
    static char bytes[longest];
    while (output->descriptor >= 0 && output->is_ready) {
        ssize_t got = output == &r->output
            ? receive(output->descriptor, bytes, sizeof bytes, NULL)
            : read(output->descriptor, bytes, sizeof bytes);
        r->has_said |= got >= 0;
        if (got < 0) {
            output->is_ready = false;
        } else if (got > 0) {
            channel_send(&r->channel, output->type, bytes, (size_t)got);
        } else {
            channel_send(&r->channel, output->type, bytes, 0);
            if (r->input == output->descriptor) r->input = -1;
            close(output->descriptor);
            output->descriptor = -1;
            // A program that ends closes both: the caller is woken once.
            r->output.is_ready = r->error.is_ready = true;
        }
    }
}

static void move(struct running *r) {
    if (!r->is_joined) return;
    struct header header;
    static char body[longest];
    do {
        while (channel_take(&r->channel, &header, body)) take_input(r, header, body);
        take_output(r, &r->output);
        take_output(r, &r->error);
        take_output(r, &r->output);
        bool is_silent = r->output.descriptor < 0 && r->error.descriptor < 0;
        if (is_silent && r->is_greeted && has_ended(r)) {
            finish(r);
            return;
        }
    } while (!channel_sleep(&r->channel));
    // Our greeting alone is of no use to a caller that has said everything.
    if (r->has_said || !r->is_input_over) channel_wake(&r->channel);
}

// MARK: Joining the caller

static bool reach(struct running *r) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.90s/%u.sock", offer_directory,
             r->place.port);
    if (connect(r->events, (struct sockaddr *)&address, sizeof address) < 0) {
        if (errno != ENOENT && errno != ECONNREFUSED) fail(address.sun_path);
        return false;
    }
    r->is_connected = true;
    watch(r->events, EPOLLIN, tag_of(r, kind_channel));
    return true;
}

static void await_offers(bool is_awaited) {
    uint32_t events = is_awaited ? IN_MOVED_TO : IN_DELETE_SELF;
    offer_watch = inotify_add_watch(offers, offer_directory, events);
    if (offer_watch < 0) fail("inotify_add_watch");
}

static void join(struct running *r) {
    if (reach(r)) return;
    if (waiting++ == 0) await_offers(true);
    // It may have come in between.
    if (reach(r) && --waiting == 0) await_offers(false);
}

static void look_for_offers(void) {
    char events[4096];
    (void)!read(offers, events, sizeof events);
    if (waiting == 0) return;
    for (int i = 0; i < port_count; i++) {
        struct running *r = &calls[i];
        if (r->is_used && !r->is_connected && reach(r)) waiting--;
    }
    if (waiting == 0) await_offers(false);
}

static void take_offer(struct running *r) {
    char text[256];
    int memory;
    ssize_t got = receive(r->events, text, sizeof text, &memory);
    if (got < 0) return;
    int seals = got > 0 && memory >= 0 ? fcntl(memory, F_GET_SEALS) : 0;
    if ((seals & F_SEAL_SHRINK) == 0 || lseek(memory, 0, SEEK_END) != 4096 + 2 * data_ring)
        fail("a caller is gone");
    channel_map(&r->channel, memory, data_ring, false, r->events);
    close(memory);
    r->is_joined = true;
    uint32_t word = version;
    channel_send(&r->channel, message_hello, &word, sizeof word);
}

// MARK: The loop

static void start(void) {
    static struct {
        struct header header;
        struct execution execution;
    } message;
    ssize_t got = receive(agent, &message, sizeof message - 1, NULL);
    if (got == 0) exit(0);
    if (got < 0) return;
    *((char *)&message + got) = 0;
    struct place place = message.execution.place;
    if (place.port - first_port >= port_count) fail("a port");
    struct running *r = &calls[place.port - first_port];
    *r = (struct running){
        .is_used = true, .place = place, .process_descriptor = -1,
        .output = {.type = message_stdout}, .error = {.type = message_stderr},
    };
    if (sscanf(message.execution.command, "%*[^:]:QUBESRPC %127s", r->service) != 1)
        fail("a command");
    r->events = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (r->events < 0) fail("socket");
    // First the service, which takes its time.
    if (strncmp(r->service, "bench.True", strlen("bench.True")) == 0) start_service(r);
    else connect_service(r);
    join(r);
}

static void data_ready(uint64_t tag) {
    if (tag == tag_agent) {
        start();
        return;
    }
    if (tag == tag_offers) {
        look_for_offers();
        return;
    }
    struct running *r = &calls[tag / kinds];
    // Another event of this round may have ended it.
    if (!r->is_used) return;
    switch (tag % kinds) {
    case kind_channel:
        if (r->is_joined) {
            char event;
            errno = ECONNRESET;
            if (receive(r->events, &event, 1, NULL) == 0) fail("a caller");
        } else {
            take_offer(r);
        }
        break;
    case kind_output: r->output.is_ready = true; break;
    case kind_error: r->error.is_ready = true; break;
    default: break;
    }
    move(r);
}

void run_data(int to_agent, const char *directory, const char *path) {
    agent = to_agent;
    program = path;
    snprintf(offer_directory, sizeof offer_directory, "%s/offers", directory);
    snprintf(service_path, sizeof service_path, "%s/bench.socket", directory);
    offers = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (offers < 0) fail("inotify_init1");
    await_offers(false);
    watch(agent, EPOLLIN, tag_agent);
    watch(offers, EPOLLIN, tag_offers);
    run_loop(data_ready);
}

// MARK: The service on a socket

static int listener;

static void serve(int connection) {
    char bytes[1024];
    ssize_t got = receive(connection, bytes, sizeof bytes, NULL);
    if (got < 0) {
        watch(connection, EPOLLIN, (uint64_t)connection);
        return;
    }
    if (got > 0) send_all(connection, "ok\n", 3, -1);
    close(connection);
}

static void service_ready(uint64_t tag) {
    int connection = tag == tag_agent ? accept_at(listener) : (int)tag;
    if (connection >= 0) serve(connection);
}

void run_service(const char *directory) {
    char path[128];
    snprintf(path, sizeof path, "%s/bench.socket", directory);
    listener = listen_at(path, SOCK_STREAM);
    watch(listener, EPOLLIN, tag_agent);
    run_loop(service_ready);
}

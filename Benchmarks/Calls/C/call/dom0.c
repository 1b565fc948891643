// The policy service, which decides and connects to the target's daemon, and the two daemons.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call.h"

enum { tag_policy = tag_control + 1, tag_listener };

static void leave(const char *what) {
    fprintf(stderr, "call-reference: %s\n", what);
    exit(1);
}

// The value of a line KEY=VALUE.
static void take_field(const char *text, const char *key, char *value, size_t size) {
    size_t length = strlen(key);
    for (const char *line = strchr(text, '\n'); line; line = strchr(line, '\n')) {
        line++;
        if (strncmp(line, key, length) != 0 || line[length] != '=') continue;
        line += length + 1;
        size_t end = strcspn(line, "\n");
        if (end >= size) leave("a field is too long");
        memcpy(value, line, end);
        value[end] = 0;
        return;
    }
    leave("a field is missing");
}

// MARK: Policy

static int policy_line;
static char target_path[128];

static void decide(uint64_t tag) {
    (void)tag;
    static char text[longest + 1];
    ssize_t got = receive(policy_line, text, longest, NULL);
    if (got == 0) exit(0);
    if (got < 0) return;
    text[got] = 0;
    char id[16], target[name_size], service[512];
    take_field(text, "id", id, sizeof id);
    take_field(text, "target", target, sizeof target);
    take_field(text, "service", service, sizeof service);
    tell("qrexec-policy-daemon[2]: info: qrexec: %s: work -> %s: allowed to %s "
         "rule=20-bench.policy:1000 call=work-%s", service, target, target, id);
    int daemon = stream_to(target_path);
    struct {
        struct hello hello;
        struct header header;
        struct place place;
        char command[600];
    } message = {{{message_hello, sizeof(uint32_t)}, version}, .place = {source_domain, 0}};
    int length = 1 + snprintf(message.command, sizeof message.command,
                              "DEFAULT:QUBESRPC %s+ work", service);
    message.header = (struct header){message_exec, (uint32_t)(sizeof message.place + length)};
    send_all(daemon, &message, offsetof(typeof(message), command) + (size_t)length, -1);
    char answer[256];
    length = snprintf(answer, sizeof answer, "reached\nid=%s\ntimes=policy=0.02 reach=0.04\n"
                      "target=%s\nrule=/etc/qubes/policy.d/20-bench.policy:1000", id, target);
    send_all(policy_line, answer, (size_t)length, daemon);
    close(daemon);
}

void run_policy(int daemon, const char *directory) {
    policy_line = daemon;
    snprintf(target_path, sizeof target_path, "%s/daemon.2", directory);
    watch(daemon, EPOLLIN, 0);
    run_loop(decide);
}

// MARK: The daemon of the qube that calls

struct answer {
    struct hello hello;
    struct header header;
    struct place place;
};

static struct channel *qube;
// By the number of a request.
static struct asked {
    char ident[ident_size];
    char service[128];
} asked[table_size];
// By descriptor: connections to targets' daemons.
static struct reached {
    uint32_t id;
    size_t length;
    struct answer answer;
} reached[table_size];

static void asks(struct header header, void *body) {
    if (header.type != message_trigger) return;
    const struct request *request = body;
    static uint32_t next;
    if (header.length <= offsetof(struct request, service)) leave("a request is too short");
    uint32_t id = next++ % table_size;
    memcpy(asked[id].ident, request->ident, ident_size);
    snprintf(asked[id].service, sizeof asked[id].service, "%.127s", request->service);
    char text[1024];
    int length = snprintf(text, sizeof text, "call\nclaimed=%.64s\nid=%u\nservice=%.512s\n"
                          "target=%.64s", request->claimed, id, request->service,
                          request->target);
    send_all(policy_line, text, (size_t)length, -1);
}

static void take_answer(int connection) {
    struct reached *r = &reached[connection];
    ssize_t got = receive(connection, (char *)&r->answer + r->length,
                          sizeof r->answer - r->length, NULL);
    if (got == 0) leave("a target's daemon is gone");
    if (got > 0) r->length += (size_t)got;
    if (r->length < sizeof r->answer) return;
    struct accepted accepted = {.place = r->answer.place};
    memcpy(accepted.ident, asked[r->id].ident, ident_size);
    channel_send(qube, message_connect, &accepted, sizeof accepted);
    channel_wake(qube);
    close(connection);
    tell("qrexec-daemon/work[3]: info: call source=work target=personal service=%s outcome=allowed "
         "rule=/etc/qubes/policy.d/20-bench.policy:1000 domain=%u port=%u call=work-%u "
         "policy=0.02 reach=0.04 answer=0.12 total=0.14", asked[r->id].service,
         accepted.place.domain, accepted.place.port, r->id);
}

static void source_daemon_ready(uint64_t tag) {
    if (tag == tag_control) {
        channel_turn(qube, asks);
    } else if (tag == tag_policy) {
        char text[512], id[16];
        int connection;
        ssize_t got = receive(policy_line, text, sizeof text - 1, &connection);
        if (got == 0) exit(0);
        if (got < 0) return;
        text[got] = 0;
        if (connection < 0 || connection >= table_size) leave("no connection");
        take_field(text, "id", id, sizeof id);
        reached[connection] = (struct reached){.id = (uint32_t)atoi(id) % table_size};
        take_answer(connection);
        if (reached[connection].length < sizeof(struct answer))
            watch(connection, EPOLLIN, (uint64_t)connection);
    } else {
        take_answer((int)tag);
    }
}

void run_source_daemon(struct channel *control, int policy) {
    qube = control;
    policy_line = policy;
    run_control(control, policy, tag_policy, source_daemon_ready);
}

// MARK: The daemon of the qube that is called

static int listener;
static bool is_used[port_count];
// By descriptor: who asks.
static struct asking {
    size_t length;
    bool was_greeted, was_answered;
    struct {
        struct hello hello;
        struct header header;
        struct place place;
        char command[600];
    } request;
} asking[table_size];

static void ended(struct header header, void *body) {
    const struct place *place = body;
    if (header.type != message_ended || header.length != sizeof *place) return;
    if (place->port - first_port >= port_count) leave("a port that was not given");
    is_used[place->port - first_port] = false;
    tell("qrexec-daemon/personal[5]: info: call ended call=work:%u domain=%u port=%u",
         place->port, place->domain, place->port);
}

static uint32_t free_port(void) {
    for (uint32_t i = 0; i < port_count; i++) {
        if (is_used[i]) continue;
        is_used[i] = true;
        return first_port + i;
    }
    leave("no port is free");
    return 0;
}

static void answer(int connection, struct asking *a) {
    struct answer answer = {
        .hello = {{message_hello, sizeof(uint32_t)}, version},
        .header = {message_exec, sizeof(struct place)},
        .place = {target_domain, free_port()},
    };
    size_t skip = a->was_greeted ? sizeof answer.hello : 0;
    a->was_answered = true;
    send_all(connection, (char *)&answer + skip, sizeof answer - skip, -1);
    struct execution execution = {.place = {a->request.place.domain, answer.place.port}};
    const char *command = strchr(a->request.command, ':');
    int length = 1 + snprintf(execution.command, sizeof execution.command, "user%s",
                              command ? command : "");
    channel_send(qube, message_exec, &execution, sizeof execution.place + (size_t)length);
    channel_wake(qube);
}

static void hear(int connection) {
    struct asking *a = &asking[connection];
    ssize_t got = receive(connection, (char *)&a->request + a->length,
                          sizeof a->request - 1 - a->length, NULL);
    if (got == 0) {
        close(connection);
        return;
    }
    if (got > 0) a->length += (size_t)got;
    size_t start = offsetof(typeof(a->request), place);
    bool is_whole = a->length >= start && a->length - start >= a->request.header.length;
    if (is_whole && !a->was_answered) {
        answer(connection, a);
    } else if (!is_whole && !a->was_greeted) {
        struct hello hello = {{message_hello, sizeof(uint32_t)}, version};
        a->was_greeted = true;
        send_all(connection, &hello, sizeof hello, -1);
    }
}

static void target_daemon_ready(uint64_t tag) {
    if (tag == tag_control) {
        channel_turn(qube, ended);
    } else if (tag == tag_listener) {
        int connection = accept_at(listener);
        if (connection < 0) return;
        asking[connection] = (struct asking){0};
        hear(connection);
        watch(connection, EPOLLIN, (uint64_t)connection);
    } else {
        hear((int)tag);
    }
}

void run_target_daemon(struct channel *control, const char *directory) {
    char path[128];
    snprintf(path, sizeof path, "%s/daemon.2", directory);
    qube = control;
    listener = listen_at(path, SOCK_STREAM);
    run_control(control, listener, tag_listener, target_daemon_ready);
}

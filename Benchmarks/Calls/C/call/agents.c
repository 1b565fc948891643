// The agents of both qubes: control channel to the daemon on one side, clients or the data process
// on the other.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call.h"

enum { tag_listener = tag_control + 1, tag_data };

static struct channel *dom0;

// MARK: The qube that calls

static int listener;
static struct asker {
    uint32_t number;
    size_t length;
    struct place place;
    struct {
        struct header header;
        struct request request;
    } message;
} askers[table_size];  // by descriptor
static int descriptors[table_size];  // by number

static void placed(struct header header, void *body) {
    const struct accepted *accepted = body;
    if (header.type != message_connect || header.length != sizeof *accepted) return;
    uint32_t number = (uint32_t)strtoul(accepted->ident + strlen("SOCKET"), NULL, 10);
    int client = descriptors[number % table_size];
    struct asker *asker = &askers[client];
    if (asker->number != number) return;
    asker->place = accepted->place;
    send_all(client, &accepted->place, sizeof accepted->place, -1);
    tell("qrexec-agent[2]: info: call placed service=%s target=%s decided-us=140 domain=%u port=%u",
         asker->message.request.service, asker->message.request.target, accepted->place.domain,
         accepted->place.port);
}

static void hear(int client) {
    static uint32_t next;
    struct asker *a = &askers[client];
    ssize_t got = receive(client, (char *)&a->message + a->length,
                          sizeof a->message - 1 - a->length, NULL);
    if (got == 0) {
        if (a->place.port != 0) channel_send(dom0, message_ended, &a->place, sizeof a->place);
        channel_wake(dom0);
        a->number = UINT32_MAX;
        close(client);
        return;
    }
    if (got < 0) return;
    a->length += (size_t)got;
    struct header header = a->message.header;
    if (a->length < sizeof header || a->length - sizeof header < header.length) return;
    a->number = next++;
    descriptors[a->number % table_size] = client;
    snprintf(a->message.request.ident, ident_size, "SOCKET%u", a->number);
    channel_send(dom0, header.type, &a->message.request, header.length);
    channel_wake(dom0);
}

static void source_agent_ready(uint64_t tag) {
    if (tag == tag_control) {
        channel_turn(dom0, placed);
    } else if (tag == tag_listener) {
        int client = accept_at(listener);
        if (client < 0) return;
        askers[client].number = UINT32_MAX;
        askers[client].length = 0;
        askers[client].place = (struct place){0};
        hear(client);
        watch(client, EPOLLIN, (uint64_t)client);
    } else {
        hear((int)tag);
    }
}

void run_source_agent(struct channel *control, const char *directory) {
    char path[128];
    snprintf(path, sizeof path, "%s/agent", directory);
    dom0 = control;
    listener = listen_at(path, SOCK_STREAM);
    run_control(control, listener, tag_listener, source_agent_ready);
}

// MARK: The qube that is called

static int data_process;

static void execute(struct header header, void *body) {
    if (header.type != message_exec) return;
    static struct {
        struct header header;
        struct execution execution;
    } message;
    message.header = header;
    memcpy(&message.execution, body, header.length);
    send_all(data_process, &message, sizeof header + header.length, -1);
    tell("qrexec-agent[2]: info: call command=\"%s\" domain=%u port=%u",
         ((struct execution *)body)->command, message.execution.place.domain,
         message.execution.place.port);
}

static void target_agent_ready(uint64_t tag) {
    if (tag == tag_control) {
        channel_turn(dom0, execute);
        return;
    }
    struct {
        struct header header;
        struct place place;
    } message;
    ssize_t got = receive(data_process, &message, sizeof message, NULL);
    if (got == 0) exit(0);
    if (got < (ssize_t)sizeof message) return;
    channel_send(dom0, message_ended, &message.place, sizeof message.place);
    channel_wake(dom0);
}

void run_target_agent(struct channel *control, int data) {
    dom0 = control;
    data_process = data;
    run_control(control, data, tag_data, target_agent_ready);
}

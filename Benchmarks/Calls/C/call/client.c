// The caller's side of a call: asks the agent, offers a ring, and takes what the service sends.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call.h"

enum { status_refused = 126, status_lost = 255 };

static int ask(const char *path, const char *target, const char *service, struct place *place) {
    static struct {
        struct header header;
        struct request request;
    } message;
    size_t length = strlen(service) + 1;
    errno = ENAMETOOLONG;
    if (length > sizeof message.request.service || strlen(target) >= name_size) fail(service);
    strcpy(message.request.target, target);
    strcpy(message.request.ident, "SOCKET");
    memcpy(message.request.service, service, length);
    length += offsetof(struct request, service);
    message.header = (struct header){message_trigger, (uint32_t)length};
    int agent = stream_to(path);
    send_all(agent, &message, sizeof message.header + length, -1);
    if (recv(agent, place, sizeof *place, MSG_WAITALL) == sizeof *place) return agent;
    close(agent);
    return -1;
}

// The socket at which the other side finds the ring; it appears when it can be connected to.
static int offer(const char *path) {
    char hidden[160];
    snprintf(hidden, sizeof hidden, "%s.%d", path, getpid());
    int listener = listen_at(hidden, SOCK_SEQPACKET);
    if (rename(hidden, path) < 0) fail(path);
    return listener;
}

// Waits for the agent's last word, standard input, or `other`.
static bool wait_for(int *agent, int other, bool *input_is_open, struct channel *channel) {
    while (true) {
        struct pollfd set[3] = {
            {.fd = other, .events = POLLIN},
            {.fd = *agent, .events = POLLIN},
            {.fd = *input_is_open ? 0 : -1, .events = POLLIN},
        };
        if (poll(set, 3, -1) < 0) fail("poll");
        if (set[2].revents) {
            char bytes[longest];
            ssize_t got = read(0, bytes, sizeof bytes);
            *input_is_open = got > 0;
            channel_send(channel, message_stdin, bytes, got > 0 ? (size_t)got : 0);
            channel_wake(channel);
        }
        if (set[0].revents) return true;
        // A word is the call's end; its mere leave is not.
        char word;
        if (set[1].revents) {
            if (recv(*agent, &word, 1, MSG_DONTWAIT) > 0) return false;
            close(*agent);
            *agent = -1;
        }
    }
}

static bool take_all(struct channel *channel, int *status) {
    struct header header;
    static char body[longest];
    while (channel_take(channel, &header, body)) {
        if (header.type == message_exit) {
            memcpy(status, body, sizeof *status);
            return true;
        }
        int output = header.type == message_stdout ? 1 : header.type == message_stderr ? 2 : -1;
        if (output > 0 && header.length > 0 && write(output, body, header.length) < 0)
            fail("write");
    }
    return false;
}

static int exchange(int *agent, const char *path) {
    struct channel channel;
    int listener = offer(path);
    int memory = channel_memory(data_ring);
    channel_map(&channel, memory, data_ring, true, -1);
    uint32_t word = version;
    channel_send(&channel, message_hello, &word, sizeof word);
    bool input_is_open = true;
    if (!wait_for(agent, listener, &input_is_open, &channel)) return status_lost;
    channel.events = accept_at(listener);
    // Gone before the peer can end the call: its port is another call's then.
    unlink(path);
    close(listener);
    static const char keys[] = "ring-ref=1\nevent-channel=1\n";
    send_all(channel.events, keys, sizeof keys - 1, memory);
    close(memory);
    int status = status_lost;
    bool is_over = false;
    while (!is_over && !take_all(&channel, &status)) {
        if (!channel_sleep(&channel)) continue;
        if (!wait_for(agent, channel.events, &input_is_open, &channel)) break;
        if (take_all(&channel, &status)) break;
        // What the peer wrote before it went is there: it is looked at once more.
        char event;
        is_over = receive(channel.events, &event, 1, NULL) == 0;
        if (is_over) take_all(&channel, &status);
    }
    channel_unmap(&channel);
    close(channel.events);
    return status;
}

int call(const char *path, const char *target, const char *service) {
    struct place place;
    int agent = ask(path, target, service, &place);
    if (agent < 0) {
        fprintf(stderr, "Request refused\n");
        return status_refused;
    }
    char offered[128];
    const char *end = strrchr(path, '/');
    snprintf(offered, sizeof offered, "%.*s/offers/%u.sock", (int)(end ? end - path : 0), path,
             place.port);
    int status = exchange(&agent, offered);
    if (agent >= 0) close(agent);
    return status;
}

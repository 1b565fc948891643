// A whole call in plain C: what its programs share. main.c tells what they are.
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Messages as the protocol has them, and their sizes.
enum {
    message_stdin = 0x190,
    message_stdout = 0x191,
    message_stderr = 0x192,
    message_exit = 0x193,
    message_exec = 0x200,
    message_connect = 0x202,
    message_ended = 0x211,
    message_trigger = 0x213,
    message_hello = 0x300,
};
enum {
    version = 3,
    control_ring = 4096,
    data_ring = 65536,
    longest = 4096,  // body of a message here
    ident_size = 32,
    name_size = 64,  // of the claimed source and the target in a request
    source_domain = 1,
    target_domain = 2,
    first_port = 513,
    port_count = 256,
    table_size = 1024,  // descriptors and calls under way of a program
};

struct header {
    uint32_t type, length;
};

struct hello {
    struct header header;
    uint32_t version;
};

struct place {
    uint32_t domain, port;
};

struct accepted {
    struct place place;
    char ident[ident_size];
};

struct request {
    char claimed[name_size], target[name_size], ident[ident_size];
    char service[longest - 2 * name_size - ident_size];
};

struct execution {
    struct place place;
    char command[longest - sizeof(struct place)];
};

// MARK: The ring: a page, then the bytes from the server, then those from the client.

struct way {
    _Alignas(64) _Atomic uint32_t written;
    _Alignas(64) _Atomic uint32_t taken;
    // Who must be told of what is written, or of what is taken.
    _Atomic uint32_t reader_sleeps, writer_waits;
};

struct page {
    struct way from_server, from_client;
};

struct channel {
    void *memory;
    struct way *in, *out;
    uint8_t *in_bytes, *out_bytes;
    uint32_t size;
    int events;  // one packet a notification; its hang-up is the peer's end
    bool has_news;  // written, and the peer was not woken since
    // Where messages wait for space; only a control channel has it.
    uint8_t *queue;
    size_t queued;
};

int channel_memory(uint32_t size);
void channel_map(struct channel *channel, int memory, uint32_t size, bool is_server, int events);
void channel_unmap(struct channel *channel);
// Wakes nobody: channel_wake does, once for all that was sent.
void channel_send(struct channel *channel, uint32_t type, const void *body, size_t length);
void channel_wake(struct channel *channel);
// The next message, at most `longest` bytes; false when there is none.
bool channel_take(struct channel *channel, struct header *header, void *body);
// Before waiting; false when something has come.
bool channel_sleep(struct channel *channel);
// Of a control channel: takes a notification and all messages, and answers.
void channel_turn(struct channel *channel, void (*received)(struct header, void *body));

// MARK: The system

void fail(const char *what);
int stream_to(const char *path);
int listen_at(const char *path, int type);
int accept_at(int listener);
void send_all(int socket, const void *bytes, size_t length, int descriptor);
// Bytes, 0 at the end, -1 when there is nothing yet.
ssize_t receive(int socket, void *bytes, size_t length, int *descriptor);

// An epoll set of this program; `tag` comes back.
void watch(int descriptor, uint32_t events, uint64_t tag);
void run_loop(void (*ready)(uint64_t tag));
// The loop of a program with a control channel, which has that tag, and one more descriptor.
enum { tag_control = table_size };
void run_control(struct channel *control, int other, uint64_t tag, void (*ready)(uint64_t tag));

// A line of the log, where there is one.
extern int log_file;
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

// MARK: The programs

int call(const char *agent, const char *target, const char *service);

void run_policy(int daemon, const char *directory);
void run_source_daemon(struct channel *control, int policy);
void run_target_daemon(struct channel *control, const char *directory);

void run_source_agent(struct channel *control, const char *directory);
void run_target_agent(struct channel *control, int data);

void run_data(int agent, const char *directory, const char *program);
void run_service(const char *directory);

// The floor of a whole call, in plain C: the steps that the protocol forces on the programs of a
// call, with the same processes, hops, kinds of kernel objects and sizes of messages.
//
//   call-reference serve DIRECTORY PROGRAM [LOG]       all long-lived programs; a line "ready"
//   call-reference --agent-socket=PATH TARGET SERVICE  one call (DIRECTORY/agent)
//   call-reference worker 1 COUNT TARGET SERVICE STATUS
//                                                      calls one after the other by the agent of
//                                                      CALLS_AGENT; a line of nanoseconds for each
//                                                      to descriptor 3, negative if another status
//   call-reference --version                           nothing but a start
//
// The service bench.True is PROGRAM, every other one a long-lived program on a socket. With LOG each
// program writes a line a call there. `serve` ends with its standard input.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "call.h"

// MARK: Calls

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int work(int count, const char *target, const char *service, int expected) {
    static char text[4096];
    size_t length = 0;
    const char *agent = getenv("CALLS_AGENT");
    if (!agent) fail("CALLS_AGENT");
    for (int i = 0; i < count; i++) {
        uint64_t begin = now();
        int status = call(agent, target, service);
        uint64_t time = now() - begin;
        length += (size_t)sprintf(text + length, "%s%llu\n", status == expected ? "" : "-",
                                  (unsigned long long)time);
        // Short enough to reach a pipe in one piece.
        if (length < 3000 && i + 1 < count) continue;
        if (write(3, text, length) != (ssize_t)length) fail("descriptor 3");
        length = 0;
    }
    return 0;
}

// MARK: The long-lived programs

enum { program_count = 7 };
static pid_t programs[program_count];
static int started;

// The child keeps what it was given as 3 and 4, and its log.
static bool begin(const char *name, int *first, int *second) {
    pid_t parent = getpid(), child = fork();
    if (child < 0) fail("fork");
    if (child > 0) {
        programs[started++] = child;
        return false;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    prctl(PR_SET_NAME, name);
    int kept[3] = {first ? *first : 2, second ? *second : 2, log_file >= 0 ? log_file : 2};
    for (int i = 0; i < 3; i++) kept[i] = fcntl(kept[i], F_DUPFD_CLOEXEC, 100);
    for (int i = 0; i < 3; i++) dup3(kept[i], 3 + i, O_CLOEXEC);
    if (first) *first = 3;
    if (second) *second = 4;
    if (log_file >= 0) log_file = 5;
    close_range(6, ~0u, 0);
    return true;
}

static void pair(int type, int sockets[2]) {
    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) < 0)
        fail("socketpair");
}

// A daemon and an agent, with a control channel between them. `other` leads from the daemon to the
// policy service, or from the agent to its data process.
static void start_qube(bool calls, const char *directory, int other) {
    int events[2], memory = channel_memory(control_ring);
    pair(SOCK_SEQPACKET, events);
    struct channel daemon, agent;
    channel_map(&daemon, memory, control_ring, false, -1);
    channel_map(&agent, memory, control_ring, true, -1);
    if (begin(calls ? "source-daemon" : "target-daemon", &events[0], calls ? &other : NULL)) {
        daemon.events = events[0];
        if (calls) run_source_daemon(&daemon, other);
        else run_target_daemon(&daemon, directory);
    }
    if (begin(calls ? "source-agent" : "target-agent", &events[1], calls ? NULL : &other)) {
        agent.events = events[1];
        if (calls) run_source_agent(&agent, directory);
        else run_target_agent(&agent, other);
    }
    close(events[0]);
    close(events[1]);
    close(memory);
}

static bool is_there(const char *directory, const char *name) {
    char path[128];
    struct stat status;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return stat(path, &status) == 0;
}

static int serve(const char *directory, const char *program, const char *log) {
    char offers[128];
    snprintf(offers, sizeof offers, "%s/offers", directory);
    if (mkdir(offers, 0700) < 0) fail(offers);
    if (log) {
        log_file = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log_file < 0) fail(log);
    }
    int policy[2], data[2];
    pair(SOCK_SEQPACKET, policy);
    pair(SOCK_SEQPACKET, data);
    if (begin("policy", &policy[0], NULL)) run_policy(policy[0], directory);
    if (begin("agent-data", &data[0], NULL)) run_data(data[0], directory, program);
    if (begin("service", NULL, NULL)) run_service(directory);
    start_qube(true, directory, policy[1]);
    start_qube(false, directory, data[1]);
    close(policy[0]);
    close(policy[1]);
    close(data[0]);
    close(data[1]);
    while (!is_there(directory, "agent") || !is_there(directory, "daemon.2")
           || !is_there(directory, "bench.socket")) {
        if (waitpid(-1, NULL, WNOHANG) > 0) return 1;
        usleep(1000);
    }
    if (write(1, "ready\n", 6) < 0) fail("write");
    char byte;
    while (read(0, &byte, 1) > 0) {}
    int bad = 0;
    for (int i = 0; i < program_count; i++) kill(programs[i], SIGTERM);
    for (int i = 0; i < program_count; i++) {
        int status;
        // One that lost its peer before its signal came has ended with 0.
        bool is_mine = waitpid(programs[i], &status, 0) == programs[i];
        if (!is_mine || (WIFEXITED(status) && WEXITSTATUS(status) != 0)) bad = 1;
    }
    return bad;
}

int main(int argc, char **argv) {
    static const char option[] = "--agent-socket=";
    if (argc == 4 && strncmp(argv[1], option, strlen(option)) == 0)
        return call(argv[1] + strlen(option), argv[2], argv[3]);
    if (argc == 7 && strcmp(argv[1], "worker") == 0)
        return work(atoi(argv[3]), argv[4], argv[5], atoi(argv[6]));
    if ((argc == 4 || argc == 5) && strcmp(argv[1], "serve") == 0)
        return serve(argv[2], argv[3], argc == 5 ? argv[4] : NULL);
    if (argc == 2 && strcmp(argv[1], "--version") == 0) return 0;
    fprintf(stderr, "call-reference: started by calls-bench\n");
    return 2;
}

// qrexec-pam-session AGENT_VARIABLE USER program PATH ARGV0 [ARGUMENTS...]
// qrexec-pam-session AGENT_VARIABLE USER command COMMAND
//
// Opens a PAM session of the service "qrexec" for a user, runs one program or shell command in it
// (specification, section 8), closes the session, and passes the exit status on. Started by
// qrexec-agent-data for each call when that runs as root; descriptor 3 takes its messages.
//
// This is C, and a program of its own, because it stays for as long as its call: one is a tenth of
// the smallest dynamically linked Swift program. The agent itself links neither PAM nor the modules
// and user directories that the shared C library loads.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// The part of libpam's stable binary interface that is used here; its headers are a package that
// nothing else of ours needs.
typedef struct pam_handle pam_handle_t;
struct pam_message {
    int style;
    const char *text;
};
struct pam_response {
    char *text;
    int code;
};
struct pam_conv {
    int (*converse)(int count, const struct pam_message **messages,
                    struct pam_response **responses, void *data);
    void *data;
};
enum {
    pam_success = 0,
    pam_conversation_error = 19,
    pam_item_tty = 3,
    pam_item_requesting_user = 8,
    pam_item_fail_delay = 10,
    pam_establish_credentials = 2,
    pam_delete_credentials = 4,
};
int pam_start(const char *service, const char *user, const struct pam_conv *conversation,
              pam_handle_t **handle);
int pam_end(pam_handle_t *handle, int status);
int pam_set_item(pam_handle_t *handle, int item, const void *value);
int pam_authenticate(pam_handle_t *handle, int flags);
int pam_setcred(pam_handle_t *handle, int flags);
int pam_open_session(pam_handle_t *handle, int flags);
int pam_close_session(pam_handle_t *handle, int flags);
char **pam_getenvlist(pam_handle_t *handle);
const char *pam_strerror(pam_handle_t *handle, int status);

enum { problem = 125, not_found = 127, log_number = 3 };

static volatile pid_t child;
// The last signal, for a program that is about to start.
static volatile sig_atomic_t early;

__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...) {
    char line[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    for (char *c = line; *c; c++)
        if (*c < 0x20 || *c > 0x7E) *c = '_';
    dprintf(log_number, "qrexec-pam-session[%d]: error: %s\n", (int)getpid(), line);
}

// Nobody is there to answer.
static int refuse_to_talk(int count, const struct pam_message **messages,
                          struct pam_response **responses, void *data) {
    (void)count, (void)messages, (void)responses, (void)data;
    return pam_conversation_error;
}

// There is no one who guesses passwords, so a refusal need not be slow.
static void no_delay(int status, unsigned microseconds, void *data) {
    (void)status, (void)microseconds, (void)data;
}

static const int forwarded[] = {SIGHUP, SIGTERM, SIGINT};

// The agent speaks to this process's group; the program leads one of its own, soon after its start.
static void forward(int number) {
    early = number;
    if (child > 0 && kill(-child, number) < 0) kill(child, number);
}

static int failed(pam_handle_t *pam, const char *step, const char *user, int status) {
    complain("PAM service \"qrexec\", user '%s': %s: %s", user, step,
             pam ? pam_strerror(pam, status) : "cannot be used");
    if (pam) pam_end(pam, status);
    return problem;
}

static char *variable(const char *name, const char *value) {
    char *text;
    if (asprintf(&text, "%s=%s", name, value) < 0) _exit(problem);
    return text;
}

// PAM's variables, then those of a login; nothing of this process's own.
static char **environment(pam_handle_t *pam, const struct passwd *user, const char *agent,
                          const char *shell) {
    char **given = pam_getenvlist(pam);
    size_t count = 0;
    while (given && given[count]) count++;
    char **result = calloc(count + 6, sizeof *result);
    if (!result) _exit(problem);
    if (count > 0) memcpy(result, given, count * sizeof *result);
    result[count++] = variable("HOME", user->pw_dir);
    result[count++] = variable("SHELL", shell);
    result[count++] = variable("USER", user->pw_name);
    result[count++] = variable("LOGNAME", user->pw_name);
    result[count] = strdup(agent);
    return result;
}

static _Noreturn void run(pam_handle_t *pam, const struct passwd *user, char **arguments,
                          pid_t parent) {
    const char *shell = user->pw_shell && *user->pw_shell ? user->pw_shell : "/bin/sh";
    char **variables = environment(pam, user, arguments[1], shell);
    if (setgid(user->pw_gid) < 0 || setuid(user->pw_uid) < 0) {
        complain("cannot become user '%s': %s", user->pw_name, strerror(errno));
        _exit(problem);
    }
    setsid();
    // The program does not outlive a helper that is killed.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(problem);
    if (chdir(user->pw_dir) < 0)
        complain("user '%s': home directory %s: %s", user->pw_name, user->pw_dir, strerror(errno));
    // In this order: a signal that came since the fork ends the program now.
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    const char *path;
    if (strcmp(arguments[3], "program") == 0) {
        path = arguments[4];
        execve(path, arguments + 5, variables);
    } else {
        path = shell;
        const char *slash = strrchr(shell, '/');
        char *name;
        if (asprintf(&name, "-%s", slash ? slash + 1 : shell) < 0) _exit(problem);
        char *command[] = {name, "-c", arguments[4], NULL};
        execve(path, command, variables);
    }
    complain("user '%s': %s: %s", user->pw_name, path, strerror(errno));
    _exit(errno == ENOENT ? not_found : problem);
}

static int wait_for_program(void) {
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return problem;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Between its first and last line nothing is held that the end of this process does not free.
static int keep_session(const char *user_name, char **arguments) {
    const struct pam_conv conversation = {.converse = refuse_to_talk};
    pam_handle_t *pam = NULL;
    int status = pam_start("qrexec", user_name, &conversation, &pam);
    if (status != pam_success) return failed(NULL, "start", user_name, status);
    pam_set_item(pam, pam_item_fail_delay, (const void *)no_delay);
    pam_set_item(pam, pam_item_requesting_user, "root");
    pam_set_item(pam, pam_item_tty, "qrexec");

    // After pam_start, because a module may make the user known.
    const struct passwd *user = getpwnam(user_name);
    if (!user) {
        complain("no user '%s' in this qube", user_name);
        pam_end(pam, pam_success);
        return problem;
    }
    status = pam_authenticate(pam, 0);
    if (status != pam_success) return failed(pam, "authenticate", user_name, status);
    if (initgroups(user->pw_name, user->pw_gid) < 0) {
        complain("user '%s': groups: %s", user_name, strerror(errno));
        pam_end(pam, pam_success);
        return problem;
    }
    status = pam_setcred(pam, pam_establish_credentials);
    if (status != pam_success) return failed(pam, "credentials", user_name, status);
    status = pam_open_session(pam, 0);
    if (status != pam_success) {
        pam_setcred(pam, pam_delete_credentials);
        return failed(pam, "open session", user_name, status);
    }
    // A module may have used the static entry.
    user = getpwnam(user_name);
    pid_t parent = getpid();
    // What comes until the program is known waits.
    sigset_t signals, before;
    sigemptyset(&signals);
    for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
        sigaddset(&signals, forwarded[i]);
    sigprocmask(SIG_BLOCK, &signals, &before);
    pid_t started = user ? fork() : -1;
    if (started == 0) run(pam, user, arguments, parent);
    if (started > 0) child = started;
    if (started > 0 && early) kill(started, early);
    sigprocmask(SIG_SETMASK, &before, NULL);
    int result = problem;
    if (started > 0) {
        // So that the streams' other ends see when the program closes them.
        for (int number = 0; number < log_number; number++) close(number);
        result = wait_for_program();
    } else {
        complain("user '%s': cannot start a process: %s", user_name, strerror(errno));
    }
    pam_close_session(pam, 0);
    pam_setcred(pam, pam_delete_credentials);
    pam_end(pam, pam_success);
    return result;
}

int main(int count, char **arguments) {
    if (count < 5 || (strcmp(arguments[3], "program") == 0 && count < 6) || geteuid() != 0 ||
        fcntl(log_number, F_SETFD, FD_CLOEXEC) < 0) {
        fprintf(stderr, "qrexec-pam-session: is started by qrexec-agent-data, as root\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = forward, .sa_flags = SA_RESTART};
    for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
        sigaction(forwarded[i], &action, NULL);
    return keep_session(arguments[2], arguments);
}

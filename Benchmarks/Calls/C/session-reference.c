// What a call's service costs by itself where the agent is root, in plain C: a PAM session of the
// service "qrexec" for a user, and in it a login shell that becomes the program.
//
//   session-reference USER PROGRAM
//
// Started by root in a qube. The exit status is the program's.
#define _GNU_SOURCE
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

// Of libpam's stable binary interface; its headers are a package that nothing else needs.
typedef struct pam_handle pam_handle_t;
struct pam_message;
struct pam_response;
struct pam_conv {
    int (*converse)(int count, const struct pam_message **messages,
                    struct pam_response **responses, void *data);
    void *data;
};
enum { pam_conversation_error = 19, pam_item_tty = 3, pam_item_requesting_user = 8 };
enum { pam_establish_credentials = 2, pam_delete_credentials = 4 };
int pam_start(const char *service, const char *user, const struct pam_conv *conversation,
              pam_handle_t **handle);
int pam_end(pam_handle_t *handle, int status);
int pam_set_item(pam_handle_t *handle, int item, const void *value);
int pam_authenticate(pam_handle_t *handle, int flags);
int pam_setcred(pam_handle_t *handle, int flags);
int pam_open_session(pam_handle_t *handle, int flags);
int pam_close_session(pam_handle_t *handle, int flags);

static int refuse(int count, const struct pam_message **messages, struct pam_response **responses,
                  void *data) {
    (void)count, (void)messages, (void)responses, (void)data;
    return pam_conversation_error;
}

static void require(int is_right, const char *what) {
    if (is_right) return;
    perror(what);
    _exit(125);
}

static void run(const struct passwd *user, char *program) {
    char home[256], name[256], logname[256];
    snprintf(home, sizeof home, "HOME=%s", user->pw_dir);
    snprintf(name, sizeof name, "USER=%s", user->pw_name);
    snprintf(logname, sizeof logname, "LOGNAME=%s", user->pw_name);
    char *environment[] = {home, name, logname, "SHELL=/bin/sh", NULL};
    char *arguments[] = {"sh", "-lc", "exec \"$@\"", "sh", program, NULL};
    require(setgid(user->pw_gid) == 0 && setuid(user->pw_uid) == 0, "user");
    setsid();
    require(chdir(user->pw_dir) == 0, "home");
    execve("/bin/sh", arguments, environment);
    require(0, "sh");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: session-reference USER PROGRAM\n");
        return 2;
    }
    const struct pam_conv conversation = {.converse = refuse};
    pam_handle_t *pam = NULL;
    require(pam_start("qrexec", argv[1], &conversation, &pam) == 0, "pam_start");
    pam_set_item(pam, pam_item_requesting_user, "root");
    pam_set_item(pam, pam_item_tty, "qrexec");
    require(pam_authenticate(pam, 0) == 0, "pam_authenticate");
    const struct passwd *user = getpwnam(argv[1]);
    require(user && initgroups(user->pw_name, user->pw_gid) == 0, "groups");
    require(pam_setcred(pam, pam_establish_credentials) == 0, "pam_setcred");
    require(pam_open_session(pam, 0) == 0, "pam_open_session");
    user = getpwnam(argv[1]);
    pid_t child = fork();
    require(child >= 0, "fork");
    if (child == 0) run(user, argv[2]);
    int status;
    require(waitpid(child, &status, 0) == child, "waitpid");
    pam_close_session(pam, 0);
    pam_setcred(pam, pam_delete_credentials);
    pam_end(pam, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

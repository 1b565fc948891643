// Namespaces, terminals and children: what the lab needs beside CLinuxSystem.h, by the same rules.
#ifndef NAMESPACES_H
#define NAMESPACES_H

#include <sys/types.h>

// Namespaces of a lab's qube (namespace.c). The caller has one thread.

/// A mount namespace of our own that still sees what is mounted later outside.
int cs_private_mounts(void);
int cs_mount_tmpfs(const char *target, const char *options);
/// Binds what an open descriptor (O_PATH will do) leads to, mounts below it included.
int cs_bind(int source, const char *target, int read_only);
/// Becomes root of a new user namespace in which ids 0… are the `count` ids from `base` on; needs
/// CAP_SETUID and CAP_SETGID outside.
int cs_enter_user_namespace(unsigned base, unsigned count);
/// For an ordinary user: new user and mount namespaces in which the user has the id `id`.
int cs_enter_own_namespaces(unsigned id);
/// SIGKILL when the parent's thread ends.
int cs_die_with_parent(void);
/// Whether that is so. The kernel forgets it when the user changes. Never fails.
int cs_dies_with_parent(void);
int cs_execute(const char *path, char *const *argv, char *const *envp);

// Terminals and children (terminal.c).

/// A new pair; the slave belongs to `owner` when we are root.
int cs_open_terminal(int *master, int *slave, uid_t owner);
/// Raw mode for one terminal, and back; restoring twice is harmless.
int cs_terminal_raw(int terminal);
void cs_terminal_restore(void);
/// Reaps one ended child, if any: its pid and its status as a shell counts it; 0 when none ended.
pid_t cs_reap_any(int *status);
/// Whether any child exists, ended or not: 1 or 0.
int cs_has_children(void);
/// Takes the advisory lock of an open file without waiting: EWOULDBLOCK when another has it.
int cs_lock_exclusive(int fd);

#endif

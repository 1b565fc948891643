// Taking everything from a daemon of dom0 but what it holds open (design: blast radius).
#ifndef CSYSTEM_DAEMON_CONFINEMENT_H
#define CSYSTEM_DAEMON_CONFINEMENT_H

/// Gives up every capability for good, also those of programs executed later.
int cs_drop_capabilities(void);

/// No file can be opened, made, changed or removed any more, no TCP port be used, no process
/// outside be signalled; only `program` (-1: nothing) can be executed. ENOSYS or EOPNOTSUPP where
/// the kernel has no Landlock.
int cs_landlock_nothing(int program);

/// From now on only system calls that work on open descriptors and this process's own memory
/// succeed; the others are EPERM. Memory cannot become executable. The only request that drivers
/// still answer is IOCTL_EVTCHN_NOTIFY.
///
/// @param can_execute whether a program may still be executed, and filters be added.
int cs_filter_system_calls(int can_execute);

/// Makes `fds[i]` descriptor `i` (-1 leaves it closed), and closes all others.
int cs_arrange_descriptors(const int *fds, int count);

/// Whether other processes of this user may look into this one.
int cs_set_dumpable(int on);

#endif

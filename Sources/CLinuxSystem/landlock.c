// What a process may still reach of the file system and the network (Landlock).
#define _GNU_SOURCE
#include "DaemonConfinement.h"
#include "FileTree.h"

#include <errno.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

// Later additions to the kernel's interface, spelled out because the build machine's headers may
// be older than the kernel the program runs on.
enum {
    right_refer = 1 << 13,
    right_truncate = 1 << 14,
    right_ioctl = 1 << 15,
    network_bind_and_connect = 3,
    scope_abstract_sockets_and_signals = 3,
};

struct ruleset {
    uint64_t files;
    uint64_t network;
    uint64_t scoped;
};

// Takes everything that this kernel can take, but `rights` beneath `place` (-1: there is none).
static int restrict_to(int place, uint64_t rights) {
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0) return -1;
    struct ruleset ruleset = {.files = (1 << 13) - 1};
    size_t size = sizeof ruleset.files;
    if (version >= 2) ruleset.files |= right_refer;
    if (version >= 3) ruleset.files |= right_truncate;
    if (version >= 4) {
        ruleset.network = network_bind_and_connect;
        size += sizeof ruleset.network;
    }
    if (version >= 5) ruleset.files |= right_ioctl;
    if (version >= 6) {
        ruleset.scoped = scope_abstract_sockets_and_signals;
        size += sizeof ruleset.scoped;
    }
    int rules = (int)syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
    if (rules < 0) return -1;
    struct landlock_path_beneath_attr beneath = {
        .allowed_access = ruleset.files & rights,
        .parent_fd = place,
    };
    int failed = (place >= 0
                  && syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0)
                      < 0)
        || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
        || syscall(SYS_landlock_restrict_self, rules, 0) < 0;
    int error = errno;
    close(rules);
    errno = error;
    return failed ? -1 : 0;
}

int cs_landlock_only(int directory) {
    return restrict_to(directory,
                       LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_DIR
                           | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR
                           | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SYM
                           | right_truncate);
}

int cs_landlock_nothing(int program) {
    return restrict_to(program, LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE);
}

#include "CLinuxSystem.h"

// Swift's own way to the arguments opens files of /proc: slower, and closed to a confined daemon.
static char **arguments;

__attribute__((constructor)) static void keep(int count, char **list) {
    (void)count;
    arguments = list;
}

char **cs_arguments(void) { return arguments; }

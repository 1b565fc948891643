// What the runtimes of Swift and C do at each start of a static program, and is of no use to it. The
// linker puts these functions in the place of those that they call, for programs that are linked with
// --wrap.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

FILE *__wrap_fopen(const char *path, const char *mode);

// The runtime reads /proc/self/maps before main to find the arguments on the stack: a sixth of a
// start's time. Our programs have them from the C library (see arguments.c); CommandLine.arguments
// is empty in a program that is linked so.
FILE *__wrap_fopen(const char *path, const char *mode) {
    if (strcmp(path, "/proc/self/maps") == 0) return NULL;
    return fopen64(path, mode);
}

const char *__wrap__dl_get_origin(void);

// The C library asks /proc where the program lies, for libraries that it might load later from beside
// it; a static program loads none. This is its answer for "unknown".
const char *__wrap__dl_get_origin(void) { return (const char *)-1; }

const char *__wrap_swift_copyAuxiliaryExecutablePath(const char *name);

// The runtime looks for its backtrace program in ten places before main, whether backtraces are on or
// not. A qube has no such program.
const char *__wrap_swift_copyAuxiliaryExecutablePath(const char *name) {
    (void)name;
    return 0;
}

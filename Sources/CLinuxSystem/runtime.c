// What the Swift runtime does at each start of a static program, and is of no use to it.

const char *__wrap_swift_copyAuxiliaryExecutablePath(const char *name);

// The runtime looks for its backtrace program in ten places before main, whether backtraces are on or
// not. A qube has no such program. (The linker puts this function in the place of the runtime's, for
// programs that are linked with --wrap.)
const char *__wrap_swift_copyAuxiliaryExecutablePath(const char *name) {
    (void)name;
    return 0;
}

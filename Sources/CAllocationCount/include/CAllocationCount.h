// Counts the calls of malloc, calloc and realloc of the whole program, for benchmarks only.
#ifndef CALLOCATION_COUNT_H
#define CALLOCATION_COUNT_H

#include <stdint.h>

/// Allocations since the program started.
uint64_t allocation_count(void);

#endif

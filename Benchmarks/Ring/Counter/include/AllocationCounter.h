#ifndef ALLOCATION_COUNTER_H
#define ALLOCATION_COUNTER_H

/// Allocations of this process so far, as counted by the preloaded library; -1 without it.
long allocations_so_far(void);
/// Allocates and frees something, to show that it is counted.
void allocate_deliberately(void);

#endif

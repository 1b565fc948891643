// The least of a user-space Xen that libxenvchan needs between two processes of one parent.
#ifndef BENCH_XEN_H
#define BENCH_XEN_H

#include <stdint.h>

/// Makes the state that both processes share; before the fork.
void xen_prepare(void);
/// Which domain this process is: 1 (server) or 2 (client).
void xen_become(int domain);
/// Events sent by both so far.
uint64_t xen_events_sent(void);

#endif

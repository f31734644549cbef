/* The lock of a results file: DIR/lock in its journal folder, held by the one process that writes.
 *
 * It is held in two ways. flock() keeps out whoever shares the kernel or a file system with working locks,
 * and goes with the process. The file's line names the holder, by a number of its own, and counts up every
 * few seconds: its heartbeat. A lock whose holder is on another machine that was lost stays locked on the
 * file server; it is watched, and taken over when its heartbeat stands still (no clocks are compared). The
 * old holder may come back: before it replaces anything it looks whether the lock still names it. */
#ifndef KVS_HDF5IO_LOCK_H
#define KVS_HDF5IO_LOCK_H

#include "base/poll.h"

#include <stdbool.h>

struct lock;
/* Makes the folder and takes its lock. ERR_AGAIN with the holder's name if another run is alive, ERR_INPUT if
 * the lock is no regular file. s_wait: seconds that the heartbeat of a holder on another machine must stand
 * still before its lock is taken over; 0: such a lock is never taken over. `poll` is called while it waits
 * (may be NULL).
 */
int lock_take(struct lock **l, const char *dir, double s_wait, const struct poll *poll);
/* For one that works beside the holder (`kvsweep pack`): lock_check then tells whether the lock is still as
 * it was. */
void lock_follow(struct lock **l, const char *dir);
/* Whether the lock still names this process (or that which is followed): ERR_AGAIN with who has it now, if
 * not. */
int lock_check(const struct lock *l);
void lock_drop(struct lock *l); /* gives it back; accepts NULL */
/* Whether a living process seems to hold the lock of a folder: by flock(), without waiting. */
bool lock_is_held(const char *dir);

#endif

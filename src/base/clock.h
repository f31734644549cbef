/* Seconds from a monotonic clock, for durations. */
#ifndef KVS_BASE_CLOCK_H
#define KVS_BASE_CLOCK_H

double clock_now(void);

#endif

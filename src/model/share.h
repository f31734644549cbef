/* A block of bytes that is built once per node and mapped read-only by every process that wants it: a file in
 * /dev/shm named by user and key. Users hold a shared lock (F_OFD_SETLK, which the kernel drops whatever ends
 * the process), the builder an exclusive one; who finds a segment that nobody locks may remove it. */
#ifndef KVS_MODEL_SHARE_H
#define KVS_MODEL_SHARE_H

#include "base/poll.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct share;
uint64_t share_key(const void *text, size_t n);
/* Finds or makes the segment. *creator: this process has to fill share_data and call share_publish; the
 * others wait for that inside of this call, which calls `poll` meanwhile (may be NULL). *s is NULL, with a
 * line in the log, when there is no shared memory of that size. Segments of this user that nobody uses any
 * more are removed. */
int share_open(struct share **s, uint64_t key, size_t bytes, const struct poll *poll, bool *creator);
void *share_data(struct share *s); /* `bytes` bytes at a page boundary; writable until published */
const char *share_path(const struct share *s);
/* The bytes are complete: makes them read-only here and lets the others in. */
int share_publish(struct share *s);
/* The last one out removes the segment; one that was never published goes at once. Accepts NULL. */
void share_close(struct share *s);
/* Removes segments of this user that nobody locks; returns how many. */
int share_clean(void);

#endif

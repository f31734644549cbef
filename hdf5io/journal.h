/* The journal of a run: FILE.h5.journal/ beside FILE.h5, the truth while a sweep runs.
 *   lock                 held by the one process that writes (lock.h)
 *   RUN.ATTEMPT          RUN 16 hex digits, ATTEMPT counts up: entries, append-only
 *   RUN.ATTEMPT.big      logits of the entries' records, append-only
 *   base.N.h5            a results file that was there before and is being extended
 * Entry: struct journal_head, then n_small payload bytes. `sum` is XXH3-64 of the head (with sum = 0) and the
 * payload; big_sum is that of the n_big bytes at big_at in RUN.ATTEMPT.big. The first two entries are the
 * plan (book_pack), twice: without it nothing else can be read. An entry that does not check is left out,
 * reading goes on at the next one that does. */
#ifndef KVS_HDF5IO_JOURNAL_H
#define KVS_HDF5IO_JOURNAL_H

#include "hdf5io/book.h"

/* WEIGHTS: "model hash, blank, weights_xxh3", as text. */
enum journal_kind { JOURNAL_PLAN = 1, JOURNAL_RECORDS, JOURNAL_TIMING, JOURNAL_WEIGHTS };

struct journal_head {
    uint32_t magic, kind;
    uint64_t n_small, big_at, n_big, big_sum, sum;
};

/* Writer of one attempt. */
struct journal {
    char *path; /* RUN.ATTEMPT */
    int fd, fd_big;
    uint64_t at, at_big;
    uint64_t run;
    int attempt;
    struct str buf; /* entries not yet written */
};

char *journal_dir(const char *path); /* PATH.journal, beside what a link leads to; owned */
/* Starts the next attempt with the plan at its head; safe on disk when it returns. */
int journal_open(struct journal *j, const char *dir, const struct book *plan);
void journal_close(struct journal *j);
/* Queues an entry; its big part is written at once. *head tells where it will be: payload_at in the file. */
int journal_add(struct journal *j, enum journal_kind kind, const void *small, size_t n_small, const void *big,
                size_t n_big, struct journal_head *head, uint64_t *payload_at);
/* Writes and syncs everything queued: big parts first. After an error the journal must not be used again. */
int journal_commit(struct journal *j);
/* Removes the folder: first out of the way by one rename, then file by file. */
int journal_remove(const char *dir);
/* In place of removing a folder in which something was damaged: renames it to DIR.damaged (.2, .3, …) and
 * says so in one line. */
int journal_keep(const char *dir);
/* Removes what an interrupted journal_remove left behind. */
void journal_clean(const char *dir);

/* RUN.ATTEMPT names in a folder, ordered by attempt, then name; none if the folder is not there. Owned
 * (file_list_free). */
int journal_list(const char *dir, char ***names, int *n);
/* What a scan could not read: where the first such byte is and how many there are. A kill leaves at most the
 * beginning of an entry at the end; anything else is damage. */
struct journal_rest {
    uint64_t at, bytes;
    bool damaged;
};
/* Calls `each` for every good entry in order, and stops early with what it returned if that is not 0.
 * `payload` is borrowed; `path` is for messages. */
int journal_scan(int fd, const char *path,
                 int (*each)(void *ctx, const struct journal_head *h, const void *payload,
                             uint64_t payload_at),
                 void *ctx, struct journal_rest *rest);

/* Whole-range file access with errors that name the file. */
int journal_pread(int fd, void *dst, size_t n, uint64_t at, const char *path);
int journal_pwrite(int fd, const void *data, size_t n, uint64_t at, const char *path);

#endif

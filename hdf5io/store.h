/* All results behind one path: the attempts of its journal, the files it extends, FILE.h5 itself, seen as one
 * list of units without duplicates (of equal ones that with more logits, of others the first; the journal
 * before files). Rows of /settings and
 * /tasks are those of the newest plan first. Records are read from their source when asked for; only an index
 * is held in memory. */
#ifndef KVS_HDF5IO_STORE_H
#define KVS_HDF5IO_STORE_H

#include "base/poll.h"
#include "hdf5io/h5file.h"
#include "hdf5io/journal.h"

/* Where one unit is. */
struct entry {
    uint64_t hi, lo;
    uint64_t small_at, big_at; /* bytes in the source; big_at: row for a file */
    uint32_t small_bytes;
    int32_t source, bundle; /* bundle: of the source's list, -1 none */
    int32_t setting, task;  /* rows of the store's book */
    int32_t example, n_new, n_first, n_vocab, n_top;
};
/* Logits of one journal entry, checked when they are first read. */
struct store_bundle {
    uint64_t at, bytes, sum;
    int state; /* 0 not checked, 1 good, -1 damaged */
};
struct source {
    char *path;
    int fd, fd_big; /* journal */
    uint64_t size_big;
    struct h5file *h5; /* or file */
    struct book book;  /* of a journal */
    int32_t *setting_map, *task_map;
    struct store_bundle *bundle;
    int n_bundle, cap_bundle;
    bool
        check_big; /* its logits are read when it is indexed: what is damaged there is to be computed again */
    int64_t n_lost;  /* units whose logits are gone */
    int64_t n_taken; /* units that come, or came, from here */
    bool credited;   /* the book lists what computed it */
};
struct store {
    struct poll poll; /* called with every entry that is read and every record that is written */
    struct book book;
    bool old_journal;            /* an attempt of an earlier schema was left out */
    bool has_origin;             /* the book says what computed the units: some were found */
    int base_setting, base_task; /* rows of the newest plan; further ones come from older runs */
    int32_t *base_example;       /* [base_task] its examples */
    uint64_t (*plan_id)[2];      /* [n_plan_id] its units, of a run; NULL: told by rows */
    int64_t n_plan_id;
    bool damaged; /* something in a journal or its logits: it is kept */
    struct source *source;
    int n_source, cap_source;
    struct entry *entry;
    int64_t n, cap;
    int64_t *order; /* by unit id, valid after store_sort */
    int64_t n_order;
    int64_t *slot; /* hash table: entry + 1, 0 empty */
    int64_t n_slot;
    struct sink_timing *timing;
    int n_timing, cap_timing;
    struct store_conflict {
        int64_t n; /* units of which there are two different records; the first was kept */
        int32_t setting, task, example; /* of the first such unit */
    } conflict;
    /* sizes of the tables, for their chunks */
    int64_t n_text, n_token, n_metric, n_budget, n_ledger, n_fidelity;
};

/* Starts empty, or with the rows of a plan in front. */
void store_init(struct store *s, const struct book *plan);
/* The units of that plan, high and low: what is done of it is counted by them. */
void store_plan_units(struct store *s, const uint64_t (*id)[2], int64_t n);
void store_close(struct store *s);
struct store_found {
    bool journal;  /* a journal folder is there */
    bool file;     /* FILE.h5 is there … */
    bool adds;     /* … and holds units that the journal has not: it is one of the sources */
    bool current;  /* … and holds every unit with its logits and nothing must be renumbered */
    bool bad_file; /* FILE.h5 is damaged and left out: a journal that holds all of it is there */
};
/* Adds what is behind `path`. With `must`, for a run, every plan found has to be equal to it, and units whose
 * logits are gone are not there: they will be computed again. FILE.h5 becomes a source only if it holds units
 * that the journal has not. It is no error to find nothing. Damage in a journal costs the entries that it
 * hits, with a warning. */
int store_load(struct store *s, const char *path, const struct sink_run *must, struct store_found *found);
/* Adds an attempt that is being written; returns its source number. */
int store_add_attempt(struct store *s, const struct journal *j, const struct book *plan);
/* Indexes the records of one entry of a source. ERR_INPUT if they are damaged. */
int store_index(struct store *s, int source, const struct journal_head *h, const void *payload,
                uint64_t payload_at);
/* The book lists what computed units and timings, not what only tried to: something of this source is used.
 */
void store_credit(struct store *s, int source);
/* Timing entries of the journal are such rows as they are. */
void store_add_timing(struct store *s, const struct sink_timing *t, bool replace);

bool store_has(const struct store *s, uint64_t hi, uint64_t lo);
/* Units of the whole grid: those of the newest plan and those that only older runs have. */
int64_t store_units(const struct store *s);
/* How many units of the newest plan are there. */
int64_t store_done(const struct store *s);
void store_sort(struct store *s);
/* Record at place k of the sorted list, without logits; setting and task are rows of the store's book;
 * n_first, n_vocab, n_top say which logits there are. Owned. */
int store_read(struct store *s, int64_t k, struct record *r);
int store_read_entry(const struct store *s, const struct entry *e,
                     struct record *r); /* the same of an entry */
/* Whether the logits of a bundle are what was written; reads them when they were not read yet. */
bool store_check_bundle(const struct source *c, struct store_bundle *b);
/* Whether the logits of place k are undamaged (reads them once per bundle). */
bool store_check(struct store *s, int64_t k);
/* n rows of a part of place k from row `at` on. */
int store_part(struct store *s, int64_t k, const struct record *r, enum part p, int64_t at, int64_t n,
               void *dst);

#endif

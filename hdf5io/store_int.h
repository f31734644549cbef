/* Shared by the files of the store. */
#ifndef KVS_HDF5IO_STORE_INT_H
#define KVS_HDF5IO_STORE_INT_H

#include "hdf5io/store.h"

static inline const struct book *source_book(const struct source *c)
{
    return c->h5 ? &c->h5->book : &c->book;
}

/* The slot of a unit in the hash table, or the free one where it belongs; the table must be there. */
int64_t *store_slot(const struct store *s, uint64_t hi, uint64_t lo);
/* Adds one record if it is new or better than the one that is there. ERR_INPUT if it points outside its own
 * plan. */
int store_index_record(struct store *s, int source, const struct record *r, struct entry *e);
/* Adds a timing of a source, in the store's rows. */
void store_map_timing(struct store *s, const struct source *c, struct sink_timing t, bool replace);
/* The rows there are now are those of the newest plan, which had so many examples. */
void store_set_base(struct store *s, const struct book *plan);
void store_close_source(struct source *c);

#endif

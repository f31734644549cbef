/* Shared by the files of the book: its rows by member, so that copying, packing and comparing are loops. */
#ifndef KVS_HDF5IO_BOOK_INT_H
#define KVS_HDF5IO_BOOK_INT_H

#include "hdf5io/book.h"

#include <stddef.h>
#include <string.h>

/* The columns of a row (columns.def). */
enum field_type { FIELD_TEXT, FIELD_I32, FIELD_I64, FIELD_U64, FIELD_F64 };
enum field_role { FIELD_NAME, FIELD_ID, FIELD_TEMPLATE, FIELD_NOTE };
struct field {
    size_t offset, bytes;
    enum field_type type;
    enum field_role role;
};
struct fields {
    const struct field *f;
    int n;
};
extern const struct fields book_setting_fields, book_task_fields;

/* Text members of the other rows. */
struct texts {
    const size_t *at;
    int n;
};
extern const struct texts book_run_text, book_example_text;

static inline const char *text_get(const void *row, size_t offset)
{
    const char *p;
    memcpy(&p, (const char *)row + offset, sizeof p);
    return p ? p : "";
}

static inline void text_set(void *row, size_t offset, const char *p)
{
    memcpy((char *)row + offset, &p, sizeof p);
}

#endif

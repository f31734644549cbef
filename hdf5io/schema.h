/* The layout of a results file: every table, column, type and unit. Names, types and units do not change
 * without a new SCHEMA_VERSION.
 *
 * /settings /tasks /examples /records /metrics /budgets /ledger /timing /fidelity  compound tables, one row
 * per item, columns below. Attributes of each table: `units` and `long_name`, arrays of strings with one
 *      entry per column, in the order of the columns (members of a compound cannot have attributes of their
 *      own). Text is variable-length UTF-8; named values are enums of 32 bits.
 * /text u8, /tokens i32                                  plain arrays; `units` and `long_name` are one string
 * /logits/MODEL/first [row, vocab] f16, topk_id [row, K] i32, topk_logit [row, K] f16, logsumexp [row] f32
 *      MODEL is the model id with every character outside [A-Za-z0-9._-] replaced by `_`, and `_2`, `_3`, …
 *      behind it when another model of the file has that name already. Attributes `model`, `model_hash`.
 * /    attributes as in struct book, and `packed`: 1 when the logits that were asked for are inside. */
#ifndef KVS_HDF5IO_SCHEMA_H
#define KVS_HDF5IO_SCHEMA_H

#include "hdf5io/book.h"

#include <hdf5.h>
#include <stddef.h>
#include <stdint.h>

enum table_id {
    T_SETTINGS,
    T_TASKS,
    T_EXAMPLES,
    T_RECORDS,
    T_METRICS,
    T_BUDGETS,
    T_LEDGER,
    T_TIMING,
    T_FIDELITY,
    T_N
};

enum column_type {
    COL_I32, /* names as in record.def and columns.def */
    COL_I64,
    COL_U64,
    COL_F32,
    COL_F64,
    COL_TEXT, /* char *, variable length, UTF-8 */
    COL_STATUS,
    COL_STOP,
    COL_METRIC,
    COL_BUDGET,
    COL_KIND,
    COL_PLACE,
    COL_N
};

struct column {
    const char *name;
    enum column_type type;
    size_t offset; /* in the row struct */
    int since;     /* schema version */
    const char *units, *long_name;
};
struct table {
    const char *name, *long_name;
    size_t row_bytes;
    const struct column *column;
    int n_column;
};
const struct table *schema_table(enum table_id id);

/* Rows in memory. Those of /settings, /tasks and /timing are the structs of sink.h. */
struct __attribute__((packed)) row_example {
    int32_t task, example;
    char *id;
    int32_t n_words;
    double length, depth;
    int32_t iteration;
    int64_t gold_at, gold_len;
};
struct __attribute__((packed)) row_record {
#define RECORD(type, name, role, since, units, what) RECORD_C_##type name;
#define PLACE(name, units, what)              int64_t name;
#include "run/record.def"
};
struct __attribute__((packed)) row_value { /* /metrics, /budgets */
    int64_t record;
    int32_t name;
    double value;
};
struct __attribute__((packed)) row_ledger {
    int64_t record;
    int32_t kind, place;
    uint64_t bytes;
};
struct __attribute__((packed)) row_fidelity {
    int64_t record;
    int32_t step;
    float kl, top1, gold_logprob;
};

/* HDF5 types; the caller closes them. A compound has the layout of the row struct in memory, H5Tpack gives
 * the one in the file; it has the columns of that schema version. Negative on failure. */
hid_t schema_compound(enum table_id id, int version);
hid_t schema_f16(void);  /* IEEE half as HDF5 describes it; filled with our own bytes, never converted */
hid_t schema_text(void); /* variable-length UTF-8 */

/* Writes the attributes of a table. Negative on failure. */
int schema_describe(hid_t dataset, enum table_id id);
/* Scalar string and integer attributes of any object. Negative on failure. */
int schema_put_text(hid_t object, const char *name, const char *value);
int schema_put_int(hid_t object, const char *name, int64_t value, hid_t file_type);

#endif

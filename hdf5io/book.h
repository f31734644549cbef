/* What describes a run: root attributes and the rows of /settings, /tasks and /examples, with text of its
 * own. Books of several runs are joined by content. No HDF5 in here. */
#ifndef KVS_HDF5IO_BOOK_H
#define KVS_HDF5IO_BOOK_H

#include "hdf5io/sink.h"

/* Of results files and journals: names, types and units do not change without a new one. */
#define SCHEMA_VERSION 2

struct book {
    int32_t version; /* of the schema it was written with */
    /* Programs, hosts, devices, instruction sets, drivers and libraries: those that computed the units, each
     * once, in the order of their bytes with "; " between them. */
    struct sink_run run;
    const char *created; /* ISO 8601, UTC */
    struct sink_setting *setting;
    int n_setting, cap_setting;
    struct sink_task *task;
    int n_task, cap_task;
    struct sink_example *example; /* ordered by task, then example */
    int64_t n_example, cap_example;
    int64_t n_unit;
    char **text; /* owned strings behind all the pointers */
    size_t n_text, cap_text;
};

void book_free(struct book *b);                                    /* accepts a zeroed one */
const char *book_keep(struct book *b, const char *text, size_t n); /* a copy that lives as long as the book */
/* Appends rows, with copies of their texts. */
void book_add_setting(struct book *b, const struct sink_setting *s);
void book_add_task(struct book *b, const struct sink_task *t);
void book_from_plan(struct book *b, const struct sink_plan *plan); /* created: now */
/* Flat form for the journal. */
void book_pack(const struct book *b, struct str *out);
bool book_is_older(const void *bytes, size_t n); /* a flat form of an earlier schema version */
int book_unpack(struct book *b, const void *bytes,
                size_t n); /* ERR_INPUT on damage or another schema version */

/* Whether two rows are of one setting, whatever their names have behind them. */
bool book_same_setting(const struct sink_setting *a, const struct sink_setting *b);
/* Whether two rows may be compared unit by unit: they differ at most in what is done to the cache and
 * prompts. */
bool book_same_base(const struct sink_setting *a, const struct sink_setting *b);
/* Whether two rows have the same units on a task: they may differ in rules that touch other tasks. */
bool book_same_units(const struct sink_setting *a, const struct sink_setting *b, const struct sink_task *t);
/* [n_task * n_setting], by task: the first row that has the same units there. Owned. */
int *book_alike(const struct sink_setting *s, int n_setting, const struct sink_task *t, int n_task);
/* The texts of a setting's chat template, without its name. */
const char *book_template_texts(const struct sink_setting *s);
/* Length of a setting's id without what book_name added. */
size_t book_plain_id(const struct sink_setting *s);
/* Makes the ids of /settings unique; the same rows get the same ids in any order. */
void book_name(struct book *b);

/* Adds the rows of src that dst has not, and names settings (book_name). setting_map and task_map (owned by
 * the caller, free) say which row of dst each row of src is. An empty dst also takes the attributes and the
 * number of units. ERR_INPUT if two examples disagree, if one model hash stands for two different weights, or
 * if the books are of different schema versions. */
int book_join(struct book *dst, const struct book *src, int32_t **setting_map, int32_t **task_map);
/* The weights behind a model hash, for all of its rows. ERR_INPUT if others are recorded. */
int book_weights(struct book *b, const char *model_hash, const char *xxh3);
/* What computed the units: `from` alone, or together with what is listed already. */
void book_origin(struct book *b, const struct sink_run *from, bool together);
/* Sorts /examples; call after the rows are complete. */
void book_sort(struct book *b);
const struct sink_example *book_example(const struct book *b, int32_t task, int32_t example);
/* ERR_INPUT with the first differing line when the plan texts differ; `where` names the file. */
int book_same_plan(const struct book *old, const struct sink_run *now, const char *where);

#endif

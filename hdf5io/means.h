/* The one definition of the figures: what the score of a task, of a category of tasks and of a whole
 * collection of tasks is. The report, status, diff, export and the progress line all print what this file
 * says.
 *
 * Task: mean over the examples that ended well. Category: mean over its tasks' scores. Whole: mean over the
 * scores of its tasks, not over its categories. LongBench is one whole (15 datasets; passage_count is run but
 * not averaged); every other category, the needle above all, is a whole by itself and never averaged with it.
 * A task that stands in the file with several parameters (max_new=8, max_new=4) is in as many experiments,
 * which share their questions: its second variant belongs to a group of its own, "needle (variant 2)",
 * counted in the order of /tasks. Tasks without a score are left out. In paper mode scores of LongBench
 * datasets are rounded to two decimals (of 100) before they are averaged, and so are the averages, as the
 * reference's scripts do. */
#ifndef KVS_HDF5IO_MEANS_H
#define KVS_HDF5IO_MEANS_H

#include "run/record.h"

#include <stdbool.h>
#include <stdint.h>

struct means_group {
    const char *name; /* a category's, or "longbench" */
    char *own;        /* the name, where it is made here */
    int variant;      /* 0: the first */
    int *task;        /* [n_task], in the order of /tasks */
    int n_task;
};
struct means {
    bool paper;
    bool *longbench; /* [n_task] */
    int n_task;
    struct means_group *category, *whole; /* those that have tasks to average; LongBench is the first whole */
    int n_category, n_whole;
};
/* id[t], category[t]: of task t; the texts are borrowed. id NULL: no two tasks have one id. */
void means_init(struct means *m, const char *const *id, const char *const *category, int n_task, bool paper);
void means_free(struct means *m);

/* The scores of a task so far, in the order of its examples: a sum's last bit, which rounding can show, is
 * then that of the reference. */
struct means_sum {
    double sum;
    int64_t n;
};
/* Whether the unit has a score: it ended well. */
bool means_counts(const struct record *r);
void means_add(struct means_sum *s, double score);

/* All in 0 … 1; NaN without any score. task_sum[n_task] are the sums of one setting. */
double means_of_task(const struct means *m, int task, const struct means_sum *sum);
double means_of_group(const struct means *m, const struct means_group *g, const struct means_sum *task_sum);

#endif

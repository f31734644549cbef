/* What the kinds of tasks share inside this folder. */
#ifndef KVS_TASK_TASK_IMPL_H
#define KVS_TASK_TASK_IMPL_H

#include "task/task.h"

struct task {
    const struct task_type *type;
    struct task_traits traits;
    struct example *examples; /* [n] */
    int n, cap;
    void **owned; /* [n_owned] blocks that the examples point into */
    int n_owned, cap_owned;
    char sha256[65];
};

/* Hands a block over to the task; returns it. */
void *task_own(struct task *t, void *block);

struct longbench_params {
    char *data;    /* path of the jsonl file */
    int64_t limit; /* first rows only; 0: all */
    int64_t max_new;
};

extern const struct param longbench_param_table[], passkey_param_table[], recite_param_table[];

/* Fill an empty task; on error the caller closes it. */
int longbench_open(struct task *t, const struct longbench_params *p);
int passkey_open(struct task *t, const void *params, const struct token_counter *counter);
int recite_open(struct task *t, const void *params, const struct token_counter *counter);

#endif

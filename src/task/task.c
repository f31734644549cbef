#include "base/err.h"
#include "base/mem.h"
#include "task/score.h"
#include "task/task_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LONGBENCH(name_, n_, metric_, category_, max_new_, chat_, newline_, first_line_, template_)          \
    {"longbench/" name_,                                                                                     \
     "LongBench (arXiv 2308.14508), dataset " name_ " of THUDM/LongBench",                                   \
     longbench_param_table,                                                                                  \
     {TASK_LONGBENCH, chat_, newline_, first_line_, max_new_, metric_, category_},                           \
     n_},
static const struct task_type types[] = {
    {"passkey",
     "needle of arXiv 2407.01527, github.com/henryzhongsc/longctx_bench",
     passkey_param_table,
     {TASK_PASSKEY, false, false, false, 256, "exact_match", "needle"},
     0},
    {"recite",
     "a list of pass keys to be recited in full: the needle of arXiv 2407.01527 with a long answer",
     recite_param_table,
     {TASK_PASSKEY, false, false, false, 256, "recited_lines", "long_generation"},
     0},
#include "task/longbench.def"
};
#undef LONGBENCH
enum { N_TYPES = sizeof types / sizeof *types };

const struct task_type *task_type_at(int i)
{
    return i >= 0 && i < N_TYPES ? &types[i] : NULL;
}

const struct task_type *task_type_find(const char *name)
{
    for (int i = 0; i < N_TYPES; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

void *task_own(struct task *t, void *block)
{
    void **slot = MEM_PUSH(t->owned, t->n_owned, t->cap_owned);
    return *slot = block;
}

int task_open(struct task **out, const struct task_type *type, const void *params,
              const struct token_counter *counter)
{
    struct task *t = mem_alloc(1, sizeof *t);
    t->type = type;
    t->traits = type->traits;
    int rc = type->params == passkey_param_table  ? passkey_open(t, params, counter)
             : type->params == recite_param_table ? recite_open(t, params, counter)
                                                  : longbench_open(t, params);
    if (rc < 0) {
        task_close(t);
        t = NULL;
    }
    *out = t;
    return rc;
}

void task_close(struct task *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->n_owned; i++)
        free(t->owned[i]);
    free(t->owned);
    free(t->examples);
    free(t);
}

int task_count(const struct task *t)
{
    return t->n;
}

const struct example *task_example(const struct task *t, int i)
{
    return &t->examples[i];
}

const struct task_traits *task_traits(const struct task *t)
{
    return &t->traits;
}

const char *task_source_sha256(const struct task *t)
{
    return t->sha256;
}

int task_score(const struct task *t, int example, const char *answer, size_t n_bytes, double *score,
               struct score_extra extra[4])
{
    const struct example *e = &t->examples[example];
    struct score_truth truth;
    score_truth_init(&truth, e->gold, e->n_gold, e->classes, e->n_classes);
    struct utext pred;
    utext_init(&pred, answer, n_bytes);
    int n = score_answer(&t->traits, utext_span(&pred), &truth, score, extra);
    utext_free(&pred);
    score_truth_free(&truth);
    return n;
}

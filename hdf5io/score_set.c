#include "hdf5io/score_set.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

void score_set_init(struct score_set *s, int n_task)
{
    *s = (struct score_set){.n_task = n_task,
                            .sample = mem_alloc((size_t)n_task + 1, sizeof *s->sample),
                            .sum = mem_alloc((size_t)n_task + 1, sizeof *s->sum)};
}

void score_set_free(struct score_set *s)
{
    for (int t = 0; t < s->n_task; t++)
        sample_free(&s->sample[t]);
    free(s->sample);
    free(s->sum);
    free(s->value);
    *s = (struct score_set){0};
}

void score_set_add(struct score_set *s, int task, double value)
{
    *MEM_PUSH(s->value, s->n, s->cap) = value;
    means_add(&s->sum[task], value);
}

void score_set_ready(struct score_set *s, enum sample_kind kind)
{
    int64_t at = 0;
    for (int t = 0; t < s->n_task; t++) {
        sample_init(&s->sample[t], kind, s->value ? s->value + at : NULL, s->sum[t].n);
        at += s->sum[t].n;
    }
}

/* The samples of the listed tasks that have values. */
static int pick(struct score_set *s, const int *task, int n, struct sample **part)
{
    int m = 0;
    for (int i = 0; i < n; i++)
        if (s->sample[task[i]].n)
            part[m++] = &s->sample[task[i]];
    return m;
}

static struct interval of_tasks(struct score_set *s, const int *task, int n, struct resampler *r)
{
    struct sample **part = mem_alloc((size_t)n + 1, sizeof *part);
    const struct interval i = sample_interval(part, pick(s, task, n, part), r);
    free(part);
    return i;
}

struct interval score_set_task(struct score_set *s, const struct means *m, int task, struct resampler *r)
{
    struct interval i = of_tasks(s, &task, 1, r);
    i.mean = means_of_task(m, task, &s->sum[task]);
    return i;
}

struct interval score_set_group(struct score_set *s, const struct means *m, const struct means_group *g,
                                struct resampler *r)
{
    struct interval i = of_tasks(s, g->task, g->n_task, r);
    i.mean = means_of_group(m, g, s->sum);
    return i;
}

struct comparison score_set_compare(struct score_set *s, const int *task, int n, struct resampler *r)
{
    struct sample **part = mem_alloc((size_t)n + 1, sizeof *part);
    const struct comparison c = sample_compare(part, pick(s, task, n, part), r);
    free(part);
    return c;
}

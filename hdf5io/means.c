#include "hdf5io/means.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char not_averaged[] = "not_averaged", whole_longbench[] = "longbench";

static bool is_longbench(const char *category)
{
    static const char *const known[] = {
#define LONGBENCH(name_, n_, metric_, category_, ...) category_,
#include "task/longbench.def"
#undef LONGBENCH
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i], category))
            return true;
    return false;
}

/* How many tasks before it have its id. */
static int variant_of(const char *const *id, int task)
{
    int n = 0;
    for (int t = 0; id && t < task; t++)
        n += !strcmp(id[t], id[task]);
    return n;
}

static bool is_named(const struct means_group *g, const char *name)
{
    const size_t n = strlen(name);
    return !strncmp(g->name, name, n) && (!g->name[n] || (g->own && g->name[n] == ' '));
}

/* Puts a task into the group of that name and its variant, made when first named. */
static void put(struct means_group *group, int *n, const char *name, int variant, int task, int n_task)
{
    int i = 0;
    while (i < *n && (group[i].variant != variant || !is_named(&group[i], name)))
        i++;
    if (i == *n) {
        char *own = variant ? mem_printf("%s (variant %d)", name, variant + 1) : NULL;
        group[(*n)++] = (struct means_group){.name = own ? own : name,
                                             .own = own,
                                             .variant = variant,
                                             .task = mem_alloc((size_t)n_task, sizeof(int))};
    }
    group[i].task[group[i].n_task++] = task;
}

void means_init(struct means *m, const char *const *id, const char *const *category, int n_task, bool paper)
{
    const size_t n = (size_t)n_task + 1;
    *m = (struct means){.paper = paper,
                        .n_task = n_task,
                        .longbench = mem_alloc(n, sizeof *m->longbench),
                        .category = mem_alloc(n, sizeof *m->category),
                        .whole = mem_alloc(n, sizeof *m->whole)};
    for (int t = 0; t < n_task; t++)
        m->longbench[t] = is_longbench(category[t]);
    for (int pass = 0; pass < 2; pass++) /* LongBench first */
        for (int t = 0; t < n_task; t++)
            if (strcmp(category[t], not_averaged) != 0 && m->longbench[t] == !pass)
                put(m->whole, &m->n_whole, pass ? category[t] : whole_longbench, variant_of(id, t), t,
                    n_task);
    for (int t = 0; t < n_task; t++)
        if (strcmp(category[t], not_averaged) != 0)
            put(m->category, &m->n_category, category[t], variant_of(id, t), t, n_task);
}

static void free_groups(struct means_group *g, int n)
{
    for (int i = 0; i < n; i++) {
        free(g[i].task);
        free(g[i].own);
    }
    free(g);
}

void means_free(struct means *m)
{
    free(m->longbench);
    free_groups(m->category, m->n_category);
    free_groups(m->whole, m->n_whole);
    *m = (struct means){0};
}

bool means_counts(const struct record *r)
{
    return r && r->status == ST_OK && isfinite(r->score);
}

void means_add(struct means_sum *s, double score)
{
    s->sum += score;
    s->n++;
}

/* Two decimals as Python's round gives them: of the exact decimal value. */
static double python_round(double v)
{
    char text[64];
    snprintf(text, sizeof text, "%.2f", v);
    return strtod(text, NULL);
}

/* Two decimals as NumPy's round gives them. */
static double numpy_round(double v)
{
    return rint(v * 100) / 100;
}

/* In percent, as the reference averages. */
static double percent_of_task(const struct means *m, int task, const struct means_sum *s)
{
    const double v = 100 * s->sum / (double)s->n;
    return m->paper && m->longbench[task] ? python_round(v) : v;
}

double means_of_task(const struct means *m, int task, const struct means_sum *sum)
{
    return sum->n ? percent_of_task(m, task, sum) / 100 : NAN;
}

double means_of_group(const struct means *m, const struct means_group *g, const struct means_sum *task_sum)
{
    double sum = 0;
    int n = 0;
    for (int i = 0; i < g->n_task; i++) {
        const struct means_sum *s = &task_sum[g->task[i]];
        if (s->n) {
            sum += percent_of_task(m, g->task[i], s);
            n++;
        }
    }
    if (!n)
        return NAN;
    return (m->paper && m->longbench[g->task[0]] ? numpy_round(sum / n) : sum / n) / 100;
}

#include "sweep/progress.h"
#include "base/clock.h"

#include "base/log.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

void progress_duration(char out[32], double seconds)
{
    long s = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : lround(seconds);
    if (s >= 3600)
        snprintf(out, 32, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(out, 32, "%ldm%02lds", s / 60, s % 60);
    else
        snprintf(out, 32, "%lds", s);
}

static void open_scores(struct progress *g)
{
    const struct plan *p = g->plan;
    const char **category = mem_alloc((size_t)p->n_task, sizeof *category);
    g->first = mem_alloc((size_t)p->n_task + 1, sizeof *g->first);
    for (int t = 0; t < p->n_task; t++) {
        category[t] = task_traits(p->model[0].task[t])->category;
        g->first[t + 1] = g->first[t] + p->task[t].n_example;
    }
    means_init(&g->means, NULL, category, p->n_task, p->config->mode == MODE_PAPER);
    free(category);
    const size_t n = (size_t)p->n_setting * (size_t)g->first[p->n_task];
    g->score = mem_alloc(n, sizeof *g->score);
    for (size_t i = 0; i < n; i++)
        g->score[i] = NAN;
}

void progress_open(struct progress *g, const struct plan *plan, bool quiet)
{
    *g = (struct progress){.plan = plan, .quiet = quiet};
    open_scores(g);
    g->s_start = g->s_said = clock_now();
    g->terminal = isatty(STDERR_FILENO);
}

void progress_close(struct progress *g)
{
    if (g->terminal && g->n_said)
        fputc('\n', stderr);
    free(g->score);
    free(g->first);
    means_free(&g->means);
    *g = (struct progress){0};
}

void progress_unit(struct progress *g, const struct record *r, bool before)
{
    (void)before;
    g->n_done++;
    g->n_bad += r->status != ST_OK;
    const struct plan *p = g->plan;
    if (r->setting < 0 || r->setting >= p->n_setting || r->task < 0 || r->task >= p->n_task ||
        r->example < 0 || r->example >= p->task[r->task].n_example)
        return;
    double *score = g->score + (int64_t)r->setting * g->first[p->n_task] + g->first[r->task] + r->example;
    *score = means_counts(r) ? r->score : NAN;
}

/* Sums of a setting's scores by task, in the order of the examples. */
static struct means_sum *sums(const struct progress *g, int setting)
{
    const struct plan *p = g->plan;
    struct means_sum *sum = mem_alloc((size_t)p->n_task, sizeof *sum);
    const double *score = g->score + (int64_t)setting * g->first[p->n_task];
    for (int t = 0; t < p->n_task; t++)
        for (int i = g->first[t]; i < g->first[t + 1]; i++)
            if (!isnan(score[i]))
                means_add(&sum[t], score[i]);
    return sum;
}

void progress_ahead(struct progress *g, double cost)
{
    g->cost_all += cost;
}

void progress_cost(struct progress *g, double cost)
{
    g->cost_done += cost;
    g->s_last = clock_now();
}

/* In percent, as everywhere. Setting names without the model when there is only one, names of wholes where
 * there are several. */
static void add_scores(const struct progress *g, struct str *line)
{
    const struct means *m = &g->means;
    for (int i = 0; i < g->plan->n_setting; i++) {
        const struct plan_setting *s = &g->plan->setting[i];
        struct means_sum *sum = sums(g, i);
        for (int w = 0; w < m->n_whole; w++) {
            const double score = means_of_group(m, &m->whole[w], sum);
            if (isnan(score))
                continue;
            str_printf(line, "  %s", g->plan->n_model > 1 ? s->id : s->spec->label);
            str_printf(line, m->n_whole > 1 ? " %s %.2f" : "%s %.2f", m->n_whole > 1 ? m->whole[w].name : "",
                       100 * score);
        }
        free(sum);
    }
}

static void add_left(const struct progress *g, struct str *line)
{
    if (g->cost_done <= 0 || g->n_done >= g->plan->n_unit)
        return;
    char left[32];
    double rate = g->cost_done / (g->s_last - g->s_start), since = clock_now() - g->s_last;
    progress_duration(left, (g->cost_all - g->cost_done) / rate - since);
    str_printf(line, "  %s left", left);
}

static void say_terminal(const struct progress *g)
{
    struct winsize w = {0};
    int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
    struct str line = {0};
    enum { BAR = 20 };
    int full = g->plan->n_unit ? (int)(BAR * g->n_done / g->plan->n_unit) : BAR;
    str_addc(&line, '[');
    for (int i = 0; i < BAR; i++)
        str_addc(&line, i < full ? '#' : '.');
    str_printf(&line, "] %lld/%lld", (long long)g->n_done, (long long)g->plan->n_unit);
    add_left(g, &line);
    if (g->n_bad)
        str_printf(&line, "  %lld not ok", (long long)g->n_bad);
    add_scores(g, &line);
    int n = line.n < (size_t)width ? (int)line.n : width - 1;
    fprintf(stderr, "\r%.*s\033[K", n, str_c(&line));
    fflush(stderr);
    str_free(&line);
}

static void say_line(const struct progress *g)
{
    struct str line = {0};
    str_printf(&line, "%lld/%lld units", (long long)g->n_done, (long long)g->plan->n_unit);
    add_left(g, &line);
    if (g->n_bad)
        str_printf(&line, "  %lld not ok", (long long)g->n_bad);
    add_scores(g, &line);
    log_info("%s", str_c(&line));
    str_free(&line);
}

void progress_tick(struct progress *g, bool now)
{
    double t = clock_now(), every = g->terminal ? 0.5 : 10;
    if (g->quiet || (!now && t - g->s_said < every))
        return;
    g->s_said = t;
    g->n_said++;
    if (g->terminal)
        say_terminal(g);
    else
        say_line(g);
}

#include "sweep/group.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/comm.h"
#include "sweep/stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What every rank knows of every other. */
struct seat {
    int32_t ok, n_local;
    char backend[16], device[96], gpu[48];
};
/* What rank 0 says to each. */
struct start {
    int32_t model; /* of its first job; -1: there is none for it */
    int32_t pad;
    uint64_t crash_id;
};

static void fill_seat(struct seat *s, const struct link *l, const struct worker *w, bool ok)
{
    *s = (struct seat){.ok = ok, .n_local = l->n_local};
    if (!ok)
        return;
    const struct ops *o = runner_ops(w->runner);
    snprintf(s->backend, sizeof s->backend, "%s", o->name);
    snprintf(s->device, sizeof s->device, "%s", o->device);
    snprintf(s->gpu, sizeof s->gpu, "%s", o->gpu);
}

/* The first two ranks on one GPU; ordinals say nothing, since every rank may see other GPUs. */
static bool shared_gpu(const struct seat *s, int n, int *a, int *b)
{
    for (*a = 0; *a < n; ++*a)
        for (*b = *a + 1; s[*a].gpu[0] && *b < n; ++*b)
            if (!strcmp(s[*a].gpu, s[*b].gpu))
                return true;
    return false;
}

/* The longest bundles go out first: the i-th rank would begin with the i-th. */
static void first_jobs(const struct jobs *jobs, struct start *start, int n)
{
    for (int i = 0; i < n; i++)
        start[i] = jobs && i < jobs->n ? (struct start){jobs->job[i].model, 0, jobs->job[i].crash_id}
                                       : (struct start){.model = -1};
}

/* How many load this model, or 0 if they should do so by themselves. */
static int group_size(const struct seat *s, const struct start *start, int n, int model)
{
    int size = 0;
    bool good = model >= 0;
    const char *backend = NULL;
    for (int i = 0; i < n; i++) {
        if (start[i].model != model)
            continue;
        size++;
        backend = backend ? backend : s[i].backend;
        good = good && s[i].ok && !strcmp(s[i].backend, backend) && (s[i].gpu[0] || s[i].n_local == 1);
    }
    return good && size > 1 ? size : 0;
}

/* The others are waiting in places where no message reaches them. */
static int lose(struct link *l, int rc)
{
    l->lost = true;
    return err_prefix(rc == ERR_INPUT ? rc : ERR_AGAIN, "rank %d", l->rank);
}

static int load_in_group(struct link *l, struct worker *w, const struct start *start, int size, bool gpus,
                         const struct farm_options *opt)
{
    struct comm *c = NULL;
    watch_task(l->watch, "begins to load weights together", 0, 0);
    link_barrier(l); /* tells who is missing, which the next call cannot */
    int before = watch_wait(l->watch, WATCH_OTHERS);
    int rc = comm_open(&c, w->runner ? runner_ops(w->runner) : NULL, size ? start->model : -1, gpus,
                       opt->s_wait, w->poll);
    watch_wait(l->watch, before);
    if (c && c->lost)
        return lose(l, rc);
    if (!c) {
        if (rc < 0)
            log_info("%s: every rank reads the weights itself", err_text());
        return 0;
    }
    double begin = clock_now();
    watch_task(l->watch, "loads weights together", 0, 0);
    crash_arm(start->crash_id);
    rc = worker_load(w, start->model, c);
    crash_disarm();
    if (c->lost)
        return lose(l, rc);
    if (rc < 0)
        log_debug("%s", err_text()); /* the first job will say it again, to rank 0 */
    else if (c->rank == 0 && !opt->quiet)
        log_info("weights of %s: read once and handed to %d other rank%s (%s), %.1f s",
                 w->plan->model[start->model].run.id, size - 1, size == 2 ? "" : "s", c->way,
                 clock_now() - begin);
    comm_close(c);
    return 0;
}

int group_start(struct link *l, struct worker *w, bool ok, const struct jobs *jobs,
                const struct farm_options *opt)
{
    if (l->n_rank == 1)
        return 0;
    size_t n = (size_t)l->n_rank;
    struct seat mine, *seat = mem_alloc(n, sizeof *seat);
    struct start *start = mem_alloc(n, sizeof *start);
    int a, b, rc = 0;
    fill_seat(&mine, l, w, ok);
    link_exchange(l, &mine, seat, sizeof mine);
    first_jobs(jobs, start, l->n_rank);
    link_spread(l, start, n * sizeof *start);
    bool shared = shared_gpu(seat, l->n_rank, &a, &b);
    if (shared && !opt->share_gpu) {
        rc = err_set(
            ERR_INPUT,
            "ranks %d and %d would share one GPU (%s, %s): start one rank per GPU (srun --gpus-per-task=1, "
            "or mpirun with as many ranks as a node has GPUs), or allow it with --share-gpu",
            a, b, seat[a].device, seat[a].gpu);
    } else {
        const struct start *own = &start[l->rank];
        bool gpus = seat[l->rank].gpu[0] && !shared; /* NCCL refuses GPUs that have two ranks */
        rc = load_in_group(l, w, own, group_size(seat, start, l->n_rank, own->model), gpus, opt);
    }
    free(seat);
    free(start);
    return rc;
}

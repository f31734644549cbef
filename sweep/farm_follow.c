/* The side of every rank but 0: asks for work, computes, sends records. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "sweep/farm_int.h"
#include "sweep/group.h"

#include <stdlib.h>
#include <string.h>

struct follower {
    struct link *link;
    struct worker worker;
    struct str in;
    bool stop;
};

/* Between decode steps: a stop from the leader or a signal of its own ends the bundle. */
static int poll_leader(void *ctx)
{
    struct follower *f = ctx;
    while (!f->stop && link_take(f->link, &f->in) >= 0) {
        struct farm_msg m;
        memcpy(&m, f->in.data, sizeof m);
        f->stop = f->stop || m.kind == MSG_STOP;
    }
    return f->stop || stop_wished() == STOP_NOW;
}

static void tell(struct follower *f, enum msg_kind kind, int job, int rc, const char *text)
{
    struct farm_msg m = {.kind = (int32_t)kind,
                         .job = job,
                         .loaded = f->worker.loaded,
                         .weights = {f->worker.weights[0], f->worker.weights[1]},
                         .wish = (int32_t)stop_wished(),
                         .rc = rc};
    struct str out = {0};
    str_addn(&out, &m, sizeof m);
    str_add(&out, text);
    link_send(f->link, 0, out.data, out.n);
    str_free(&out);
}

static void send_result(struct follower *f, int job, const struct record *r, int n)
{
    struct str small = {0}, big = {0}, out = {0};
    record_pack(r, n, &small, &big);
    struct farm_msg m = {.kind = MSG_RESULT,
                         .job = job,
                         .loaded = f->worker.loaded,
                         .weights = {f->worker.weights[0], f->worker.weights[1]},
                         .wish = (int32_t)stop_wished(),
                         .n_small = small.n};
    str_addn(&out, &m, sizeof m);
    str_addn(&out, str_c(&small), small.n);
    str_addn(&out, str_c(&big), big.n);
    str_free(&small);
    str_free(&big);
    link_send(f->link, 0, out.data, out.n);
    str_free(&out);
}

static void run_job(struct follower *f, const struct farm_msg *m)
{
    struct job job;
    struct record r[PLAN_BATCH] = {0};
    memcpy(&job, f->in.data + sizeof *m, sizeof job);
    int rc = worker_run(&f->worker, &job, r);
    if (rc == 0)
        send_result(f, m->job, r, job.n);
    else if (poll_leader(f))
        tell(f, MSG_GAVE_UP, m->job, 0, "");
    else
        tell(f, MSG_ERROR, m->job, rc, err_text());
    for (int i = 0; rc == 0 && i < job.n; i++)
        record_free(&r[i]);
}

/* Waits for the leader's word and follows it until the end. */
static int follow(struct follower *f)
{
    bool wished = false;
    for (;;) {
        struct farm_msg m;
        if (stop_wished() && !wished) {
            wished = true;
            tell(f, MSG_WISH, 0, 0, "");
        }
        if (link_take(f->link, &f->in) < 0) {
            link_sleep();
            continue;
        }
        memcpy(&m, f->in.data, sizeof m);
        if (m.kind == MSG_END)
            return m.rc;
        if (m.kind == MSG_WORK)
            run_job(f, &m);
    }
}

int farm_follow(struct link *l, const struct plan *plan, const struct farm_options *opt)
{
    struct follower f = {.link = l};
    char *dir = mem_printf("%s.crash", opt->output);
    crash_install(dir, 0);
    int rc = worker_open(&f.worker, l, plan, poll_leader, &f);
    char *why = rc < 0 ? mem_strdup(err_text()) : NULL;
    (void)group_start(l, &f.worker, rc == 0, NULL, opt); /* if that is refused, rank 0 ends the run */
    if (rc < 0)
        tell(&f, MSG_ERROR, 0, rc, why);
    else
        tell(&f, MSG_READY, 0, 0, "");
    rc = follow(&f);
    worker_close(&f.worker);
    str_free(&f.in);
    free(why);
    free(dir);
    return rc;
}

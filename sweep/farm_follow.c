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
    const struct farm_options *opt;
    struct worker worker;
    struct str in;
    struct beat beat;
    struct wire wire; /* the last message */
    double heard;     /* life of this process when rank 0 gave its last sign of life */
    double s_step;    /* of what rank 0 computes */
    uint64_t bundle;
    bool stop;
    int lost; /* ERR_* once rank 0 is lost, or says what no rank 0 says */
    char *why;
};

static struct watch *watch_of(const struct follower *f)
{
    return f->link->watch;
}

static void tell_bytes(struct follower *f, struct wire_msg *m, const void *small, const void *big)
{
    m->loaded = f->worker.loaded;
    memcpy(m->weights, f->worker.weights, sizeof m->weights);
    farm_send(f->link, 0, m, small, big);
    f->beat.said = watch_life(watch_of(f));
}

static void tell(struct follower *f, enum msg_kind kind, int job, int rc, const char *text)
{
    struct wire_msg m = farm_msg(kind, watch_of(f));
    m.job = job;
    m.rc = rc;
    m.n_small = kind == MSG_ERROR ? strlen(text) : 0;
    tell_bytes(f, &m, text, NULL);
}

static void lose(struct follower *f, int rc)
{
    f->lost = rc;
    f->why = mem_strdup(err_text());
    f->link->lost = f->stop = true;
}

/* Takes a message of rank 0, if there is one; then looks whether rank 0 has been silent for too long. */
static bool take(struct follower *f)
{
    bool there = !f->lost && link_take(f->link, &f->in) >= 0;
    double life = watch_life(watch_of(f));
    if (there) {
        int rc = wire_get(&f->wire, f->in.data, f->in.n);
        f->heard = life;
        f->bundle = f->wire.m.bundle;
        f->s_step = f->wire.m.s_step;
        if (rc < 0)
            lose(f, rc);
    } else if (!f->lost && life - f->heard > watch_limit(watch_of(f), 0, f->s_step)) {
        lose(f, watch_lost(watch_of(f), 0, life - f->heard, "", f->bundle));
    }
    return there && !f->lost;
}

/* Between decode steps: a stop from the leader or a signal of its own ends the bundle. */
static int poll_leader(void *ctx)
{
    struct follower *f = ctx;
    watch_step(watch_of(f));
    while (!f->stop && take(f))
        f->stop = f->stop || f->wire.m.kind == MSG_STOP;
    if (!f->lost && farm_beat_due(&f->beat, watch_of(f), f->opt->s_wait))
        tell(f, MSG_ALIVE, -1, 0, "");
    return f->stop || stop_wished() == STOP_NOW;
}

static void send_result(struct follower *f, int job, const struct record *r, int n)
{
    struct str small = {0}, big = {0};
    record_pack(r, n, &small, &big);
    struct wire_msg m = farm_msg(MSG_RESULT, watch_of(f));
    m.job = job;
    m.n_small = small.n;
    m.n_big = big.n;
    tell_bytes(f, &m, small.data, big.data);
    str_free(&small);
    str_free(&big);
}

/* Equal builds make equal plans, so a job that does not fit is a fault of the program. */
static bool fits(const struct plan *p, const struct job *job)
{
    bool good = job->model < p->n_model && job->task < p->n_task;
    for (int i = 0; i < job->n && good; i++)
        good = job->unit[i] < p->n_unit;
    return good;
}

static void run_job(struct follower *f, int number, const struct job *job)
{
    struct record r[PLAN_BATCH] = {0};
    int rc = ERR_INTERNAL;
    watch_task(watch_of(f), "computes", job->id, job->s_step);
    if (fits(f->worker.plan, job))
        rc = worker_run(&f->worker, job, r);
    else
        err_set(rc, "job %d is not of this rank's plan", number);
    if (rc == 0)
        send_result(f, number, r, job->n);
    else if (poll_leader(f))
        tell(f, MSG_GAVE_UP, number, 0, "");
    else
        tell(f, MSG_ERROR, number, rc, err_text());
    watch_task(watch_of(f), "", 0, 0);
    for (int i = 0; rc == 0 && i < job->n; i++)
        record_free(&r[i]);
}

/* The next message of the leader that is more than a sign of life; false once the leader is lost. */
static bool await(struct follower *f)
{
    bool wished = stop_wished() != STOP_NO;
    if (wished)
        tell(f, MSG_WISH, -1, 0, "");
    while (!f->lost) {
        watch_step(watch_of(f));
        if (take(f)) {
            if (f->wire.m.kind != MSG_ALIVE)
                return true;
            continue;
        }
        bool now = stop_wished() != STOP_NO;
        if (now != wished || farm_beat_due(&f->beat, watch_of(f), f->opt->s_wait))
            tell(f, now != wished ? MSG_WISH : MSG_ALIVE, -1, 0, "");
        wished = now;
        link_sleep();
    }
    return false;
}

/* Waits for the leader's word and follows it until the end. The engine goes once there is no more work: rank
 * 0 may still time some units alone. */
static int follow(struct follower *f)
{
    while (await(f)) {
        const struct wire_msg m = f->wire.m;
        if (m.kind == MSG_BYE)
            return m.rc;
        if (m.kind == MSG_END)
            worker_close(&f->worker);
        if (m.kind == MSG_WORK)
            run_job(f, m.job, &m.work);
    }
    return err_set(f->lost, "%s", f->why);
}

/* Everything until the first message to the leader that asks for work. */
static void begin(struct follower *f, const struct plan *plan)
{
    struct link *l = f->link;
    int rc = worker_open(&f->worker, l, plan, poll_leader, f);
    char *why = rc < 0 ? mem_strdup(err_text()) : NULL;
    while (await(f) && f->wire.m.kind != MSG_START)
        ;
    if (f->lost) {
        free(why);
        return;
    }
    int group =
        group_start(l, &f->worker, rc == 0, NULL, f->opt); /* if that is refused, rank 0 ends the run */
    if (group < 0 && l->lost && !f->lost)
        lose(f, group);
    watch_task(watch_of(f), "", 0, 0);
    if (rc < 0)
        tell(f, MSG_ERROR, -1, rc, why);
    else
        tell(f, MSG_READY, -1, 0, "");
    free(why);
}

int farm_follow(struct link *l, const struct plan *plan, const struct farm_options *opt)
{
    struct follower f = {.link = l, .opt = opt, .heard = watch_life(l->watch)};
    char *dir = mem_printf("%s.crash", opt->output);
    crash_install(dir, 0);
    begin(&f, plan);
    int rc = follow(&f);
    worker_close(&f.worker);
    str_free(&f.in);
    free(f.why);
    free(dir);
    return rc;
}

/* The leader's side of the messages: takes results, hands out work, and looks who still lives. */
#include "base/err.h"
#include "base/mem.h"
#include "sweep/farm_int.h"

#include <stdlib.h>

bool farm_beat_due(struct beat *b, const struct watch *w, double s_wait)
{
    double every = s_wait / 20 < 5 ? s_wait / 20 : 5, life = watch_life(w);
    if (life - b->said < every)
        return false;
    b->said = life;
    return true;
}

struct wire_msg farm_msg(enum msg_kind kind, const struct watch *w)
{
    return (struct wire_msg){.kind = (int32_t)kind,
                             .job = -1,
                             .loaded = -1,
                             .wish = (int32_t)stop_wished(),
                             .bundle = watch_bundle(w),
                             .s_step = watch_step_s(w)};
}

void farm_send(struct link *l, int to, const struct wire_msg *m, const void *small, const void *big)
{
    struct str out = {0};
    wire_put(&out, m, small, big);
    link_send(l, to, out.data, out.n);
    str_free(&out);
}

void farm_tell_all(struct farm *f, enum msg_kind kind, int rc)
{
    struct wire_msg m = farm_msg(kind, f->link->watch);
    m.rc = rc;
    for (int i = 1; i < f->link->n_rank; i++)
        farm_send(f->link, i, &m, NULL, NULL);
}

int farm_alive(void *ctx)
{
    struct farm *f = ctx;
    watch_step(f->link->watch);
    if (f->link->n_rank > 1 && farm_beat_due(&f->beat, f->link->watch, f->opt->s_wait))
        farm_tell_all(f, MSG_ALIVE, 0);
    return 0;
}

/* What arrived in one round of taking messages, or was computed here: packed bundles, and their records
 * without logits. */
struct arrived {
    struct sink_bundle *bundle;
    struct str *text; /* [n_bundle] behind the bundles */
    struct record *r;
    int n_bundle, cap_bundle, cap_text, n, cap;
};

/* Bundles of one or more jobs, safe on disk when this returns; frees them. */
static void commit(struct farm *f, struct arrived *a)
{
    if (a->n_bundle && !f->fail) {
        watch_task(f->link->watch, "writes results", 0, 0);
        int rc = f->type->put(f->sink, a->bundle, a->n_bundle);
        if (rc < 0)
            farm_fail(f, rc, 0);
    }
    for (int i = 0; i < a->n; i++) {
        if (!f->fail)
            progress_unit(&f->progress, &a->r[i], false);
        record_free(&a->r[i]);
    }
    f->n_new += f->fail ? 0 : a->n;
    for (int i = 0; i < a->n_bundle; i++)
        str_free(&a->text[i]);
    free(a->bundle);
    free(a->text);
    free(a->r);
    *a = (struct arrived){0};
}

/* Takes over `text`, which holds a bundle from byte `at` on: n_small bytes of records, then their logits. */
static int add_bundle(struct arrived *a, struct str *text, size_t at, size_t n_small)
{
    struct record *r = NULL;
    int n_r = 0;
    if (at > text->n || n_small > text->n - at)
        return err_set(ERR_INTERNAL, "packed records are cut short");
    TRY(record_unpack(text->data + at, n_small, NULL, 0, &r, &n_r));
    for (int i = 0; i < n_r; i++)
        *MEM_PUSH(a->r, a->n, a->cap) = r[i];
    free(r);
    *MEM_PUSH(a->bundle, a->n_bundle, a->cap_bundle) =
        (struct sink_bundle){text->data + at, text->data + at + n_small, n_small, text->n - at - n_small};
    int n_text = a->n_bundle - 1;
    *MEM_PUSH(a->text, n_text, a->cap_text) = *text;
    *text = (struct str){0};
    return 0;
}

void farm_commit_own(struct farm *f, const struct record *r, int n)
{
    struct arrived a = {0};
    struct str text = {0}, big = {0};
    record_pack(r, n, &text, &big);
    size_t n_small = text.n;
    str_addn(&text, str_c(&big), big.n);
    str_free(&big);
    int rc = add_bundle(&a, &text, 0, n_small);
    if (rc < 0)
        farm_fail(f, rc, 0);
    str_free(&text);
    commit(f, &a);
}

static void take_result(struct farm *f, const struct wire *w, int from, struct arrived *a)
{
    int rc = w->m.job < f->jobs.n
                 ? add_bundle(a, &f->in, (size_t)(w->small - f->in.data), w->m.n_small)
                 : err_set(ERR_INTERNAL, "a message names job %d of %d", w->m.job, f->jobs.n);
    if (rc < 0)
        farm_fail(f, rc, from);
    else
        progress_cost(&f->progress, f->jobs.job[w->m.job].s_cost);
}

/* Seconds that a rank has to give up its bundle after a wish to stop at once. */
#define S_GIVE_UP 5.0

static void take_message(struct farm *f, int from, struct arrived *a)
{
    struct wire w;
    struct farm_peer *peer = &f->peer[from];
    int rc = wire_get(&w, f->in.data, f->in.n);
    peer->heard = watch_life(f->link->watch);
    if (rc < 0) {
        farm_fail(f, rc, from);
        return;
    }
    peer->bundle = w.m.bundle;
    peer->s_step = w.m.s_step;
    if (w.m.wish > (int)f->wish)
        f->wish = (enum stop_wish)w.m.wish;
    if (w.m.kind == MSG_WISH || w.m.kind == MSG_ALIVE)
        return;
    farm_weights(f, w.m.loaded, w.m.weights, from);
    if (w.m.kind == MSG_RESULT) {
        take_result(f, &w, from, a);
    } else if (w.m.kind == MSG_ERROR) {
        err_set(w.m.rc, "%.*s", (int)w.m.n_small, w.small);
        farm_fail(f, w.m.rc, from);
    }
    peer->busy = -1;
    peer->waiting = true;
    peer->loaded = w.m.loaded;
}

static int end_code(const struct farm *f)
{
    return f->fail ? f->fail : f->wish != STOP_NO ? ERR_AGAIN : 0;
}

static void send_end(struct farm *f, int to)
{
    struct wire_msg m = farm_msg(MSG_END, f->link->watch);
    m.rc = end_code(f);
    farm_send(f->link, to, &m, NULL, NULL);
    f->peer[to].waiting = false;
    f->peer[to].ended = true;
}

static void send_work(struct farm *f, int to, int job)
{
    struct farm_peer *p = &f->peer[to];
    struct wire_msg m = farm_msg(MSG_WORK, f->link->watch);
    m.job = job;
    m.work = f->jobs.job[job];
    farm_send(f->link, to, &m, NULL, NULL);
    p->busy = job;
    p->waiting = false;
    p->bundle = m.work.id;
    p->s_step = m.work.s_step;
}

/* Gives every waiting rank a job or lets it go; tells busy ones to give up when that is wished. */
static void answer(struct farm *f)
{
    for (int i = 1; i < f->link->n_rank; i++) {
        struct farm_peer *p = &f->peer[i];
        if (p->busy >= 0 && !p->told && (f->fail || f->wish == STOP_NOW)) {
            struct wire_msg m = farm_msg(MSG_STOP, f->link->watch);
            farm_send(f->link, i, &m, NULL, NULL);
            p->told = true;
        }
        if (!p->waiting)
            continue;
        int job = farm_stopping(f) ? -1 : jobs_take(&f->jobs, p->loaded);
        if (job < 0)
            send_end(f, i);
        else
            send_work(f, i, job);
    }
}

/* Looked at right after all messages were taken, so that a long step of this rank is held against nobody. A
 * rank that does not give up its bundle in time after a stop is left behind: nothing of it counts. */
static void check_peers(struct farm *f)
{
    const double life = watch_life(f->link->watch), stopped = f->s_stop > 0 ? life - f->s_stop : 0;
    for (int i = 1; i < f->link->n_rank && !f->link->lost; i++) {
        const struct farm_peer *p = &f->peer[i];
        double silent = life - p->heard;
        if (silent > watch_limit(f->link->watch, i, p->s_step)) {
            watch_lost(f->link->watch, i, silent, p->busy >= 0 ? "computes" : "", p->bundle);
            f->link->lost = true;
            if (f->wish == STOP_NO)
                farm_fail(f, ERR_AGAIN, -1);
        } else if (stopped > S_GIVE_UP && !p->ended) {
            f->link->lost = true;
        }
    }
}

int farm_serve(void *ctx)
{
    struct farm *f = ctx;
    struct arrived a = {0};
    enum stop_wish own = stop_wished();
    if (own > f->wish)
        f->wish = own;
    farm_alive(f);
    for (int from; (from = link_take(f->link, &f->in)) >= 0;)
        take_message(f, from, &a);
    if (f->wish == STOP_NOW && f->s_stop <= 0)
        f->s_stop = watch_life(f->link->watch);
    check_peers(f);
    bool any = a.n > 0;
    uint64_t bundle = watch_bundle(f->link->watch);
    double s_step = watch_step_s(f->link->watch);
    commit(f, &a);
    answer(f);
    progress_tick(&f->progress, false);
    if (any)
        farm_refresh(f);
    if (any)
        watch_task(f->link->watch, bundle ? "computes" : "", bundle, s_step);
    return f->fail || f->wish == STOP_NOW || f->link->lost;
}

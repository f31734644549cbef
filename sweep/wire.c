#include "sweep/wire.h"

#include "base/err.h"
#include "sweep/stop.h"

#include <math.h>
#include <string.h>

#define WIRE_MAGIC 0x4d53564bu /* "KVSM" */

/* As it travels between equal builds, which link_open sees to. */
struct wire_head {
    uint32_t magic, version;
    int32_t kind, job, loaded, wish, rc, n_work; /* n_work: bytes of a struct job that follow */
    uint64_t bundle, n_small, n_big, weights[2];
    double s_step;
};

void wire_put(struct str *out, const struct wire_msg *m, const void *small, const void *big)
{
    struct wire_head h = {.magic = WIRE_MAGIC,
                          .version = WIRE_VERSION,
                          .kind = m->kind,
                          .job = m->job,
                          .loaded = m->loaded,
                          .wish = m->wish,
                          .rc = m->rc,
                          .n_work = m->kind == MSG_WORK ? (int32_t)sizeof m->work : 0,
                          .bundle = m->bundle,
                          .n_small = m->n_small,
                          .n_big = m->n_big,
                          .weights = {m->weights[0], m->weights[1]},
                          .s_step = m->s_step};
    str_addn(out, &h, sizeof h);
    if (h.n_work)
        str_addn(out, &m->work, sizeof m->work);
    if (m->n_small)
        str_addn(out, small, m->n_small);
    if (m->n_big)
        str_addn(out, big, m->n_big);
}

static bool is_sane(const struct wire_head *h)
{
    bool body = h->kind == MSG_RESULT || h->kind == MSG_ERROR;
    return h->kind >= 0 && h->kind < MSG_N && h->job >= -1 && h->loaded >= -1 && h->wish >= STOP_NO &&
           h->wish <= STOP_NOW && h->rc <= 0 && isfinite(h->s_step) && h->s_step >= 0 &&
           h->n_work == (h->kind == MSG_WORK ? (int32_t)sizeof(struct job) : 0) &&
           (body || (!h->n_small && !h->n_big)) && (h->kind == MSG_RESULT || !h->n_big) &&
           (h->kind != MSG_RESULT || h->job >= 0) && (h->kind != MSG_ERROR || h->rc < 0);
}

static bool is_job(const struct job *j)
{
    bool good = j->n >= 1 && j->n <= PLAN_BATCH && j->model >= 0 && j->task >= 0 && j->attempt >= 0 &&
                isfinite(j->s_cost) && isfinite(j->s_step) && j->s_step >= 0;
    for (int i = 0; good && i < j->n; i++)
        good = j->unit[i] >= 0;
    return good;
}

int wire_get(struct wire *w, const void *bytes, size_t n)
{
    struct wire_head h;
    const char *p = bytes;
    *w = (struct wire){0};
    if (n < sizeof h)
        return err_set(ERR_INPUT, "a message of %zu bytes is shorter than its head", n);
    memcpy(&h, p, sizeof h);
    if (h.magic != WIRE_MAGIC || h.version != WIRE_VERSION)
        return err_set(ERR_INPUT,
                       "a message of another program or version (magic %08x, version %u; here %08x, %d)",
                       (unsigned)h.magic, (unsigned)h.version, (unsigned)WIRE_MAGIC, WIRE_VERSION);
    if (!is_sane(&h))
        return err_set(ERR_INPUT, "a message of kind %d holds values that no rank sends", (int)h.kind);
    size_t left = n - sizeof h, work = (size_t)h.n_work;
    if (left < work || h.n_small > left - work || h.n_big != left - work - h.n_small)
        return err_set(ERR_INPUT,
                       "a message of kind %d has %zu bytes behind its head, which says %zu + %llu + %llu",
                       (int)h.kind, left, work, (unsigned long long)h.n_small, (unsigned long long)h.n_big);
    w->m = (struct wire_msg){.kind = h.kind,
                             .job = h.job,
                             .loaded = h.loaded,
                             .wish = h.wish,
                             .rc = h.rc,
                             .bundle = h.bundle,
                             .s_step = h.s_step,
                             .weights = {h.weights[0], h.weights[1]},
                             .n_small = h.n_small,
                             .n_big = h.n_big};
    p += sizeof h;
    if (work)
        memcpy(&w->m.work, p, sizeof w->m.work);
    if (work && !is_job(&w->m.work))
        return err_set(ERR_INPUT, "a message holds a job that no plan has");
    w->small = p + work;
    w->big = w->small + h.n_small;
    return 0;
}

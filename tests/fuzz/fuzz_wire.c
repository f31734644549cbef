/* Messages between ranks. What is taken is a message that a rank can send, its parts lie in the bytes, and it
 * is written as the same bytes again; every message that a rank can send is taken. Three ways to the bytes:
 * the input; the input behind a right magic and version; messages made from the input, as they are and with a
 * few numbers changed, also two of them so that their sum stays: lengths must add up. */
#include "fuzz.h"

#include "base/str.h"
#include "sweep/stop.h"
#include "sweep/wire.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

enum { MOST_BODY = 64 };

static void need(int holds)
{
    if (!holds)
        abort();
}

/* What wire.h and worker.h say of the fields. */
static bool job_can_be(const struct job *j)
{
    for (int i = 0; i < j->n && i < PLAN_BATCH; i++)
        if (j->unit[i] < 0)
            return false;
    return j->n > 0 && j->n <= PLAN_BATCH && j->model >= 0 && j->task >= 0 && j->attempt >= 0 &&
           isfinite(j->s_cost) && isfinite(j->s_step) && !(j->s_step < 0);
}
static bool can_be(const struct wire_msg *m)
{
    const bool result = m->kind == MSG_RESULT, error = m->kind == MSG_ERROR;
    if (m->kind < 0 || m->kind >= MSG_N || m->job < -1 || m->loaded < -1 || m->rc > 0)
        return false;
    if (m->wish != STOP_NO && m->wish != STOP_SOON && m->wish != STOP_NOW)
        return false;
    if ((result && m->job < 0) || (error && m->rc == 0) || !isfinite(m->s_step) || m->s_step < 0)
        return false;
    return (result || !m->n_big) && (result || error || !m->n_small) &&
           (m->kind != MSG_WORK || job_can_be(&m->work));
}

/* Reads a copy whose end is watched. Returns whether it is taken. */
static bool check(const void *bytes, size_t n)
{
    char *own = malloc(n ? n : 1);
    struct wire w;
    memcpy(own, bytes, n);
    const bool taken = wire_get(&w, own, n) == 0;
    if (taken) {
        need(can_be(&w.m));
        need(w.small >= own && w.m.n_small <= n && w.m.n_big <= n);
        need(w.big == w.small + w.m.n_small && w.big + w.m.n_big == own + n);
        fuzz_touch(w.small, w.m.n_small);
        fuzz_touch(w.big, w.m.n_big);
        struct str again = {0};
        wire_put(&again, &w.m, w.small, w.big);
        need(again.n == n && memcmp(again.data, own, n) == 0);
        str_free(&again);
    }
    free(own);
    return taken;
}

/* The input as a supply of numbers; behind its end they come from its hash. */
struct supply {
    const uint8_t *at;
    size_t left;
    uint64_t state;
};
static uint64_t next(struct supply *s)
{
    uint64_t v = s->state += 0x9e3779b97f4a7c15U;
    if (s->left < 8)
        return XXH3_64bits(&v, sizeof v);
    memcpy(&v, s->at, 8);
    s->at += 8, s->left -= 8;
    return v;
}
static uint64_t below(struct supply *s, uint64_t n)
{
    const uint64_t v = next(s);
    return XXH3_64bits(&v, sizeof v) % n;
}
/* Numbers at which checks go wrong. */
static uint64_t odd(struct supply *s, uint64_t n)
{
    const uint64_t infinite = 0x7ff0000000000000U, nan = 0x7ff8000000000000U, minus_1 = 0xbff0000000000000U;
    const uint64_t v[] = {0,     1,         8,         n,         n - 1,    n + 1, PLAN_BATCH, PLAN_BATCH + 1,
                          MSG_N, MSG_N - 1, INT32_MAX, INT64_MAX, infinite, nan,   next(s)};
    const uint64_t x = v[below(s, sizeof v / sizeof *v)];
    return below(s, 4) ? x : below(s, 2) ? (uint64_t)-x : minus_1;
}
static int64_t from(struct supply *s, int64_t least, int64_t most)
{
    switch (below(s, 4)) {
    case 0:
        return least;
    case 1:
        return most;
    default:
        return least + (int64_t)below(s, (uint64_t)most - (uint64_t)least + 1);
    }
}

static struct job job_of(struct supply *s)
{
    struct job j = {.n = (int32_t)from(s, 1, PLAN_BATCH), .id = next(s), .crash_id = next(s)};
    for (int i = 0; i < j.n; i++)
        j.unit[i] = from(s, 0, INT64_MAX - 1);
    j.model = (int32_t)from(s, 0, INT32_MAX);
    j.task = (int32_t)from(s, 0, INT32_MAX);
    j.attempt = (int32_t)from(s, 0, INT32_MAX);
    j.s_cost = (double)from(s, 0, 1000) / 8;
    j.s_step = (double)from(s, 0, 1000) / 8;
    return j;
}
/* A message that a rank can send. */
static struct wire_msg message(struct supply *s)
{
    struct wire_msg m = {.kind = (int32_t)below(s, MSG_N), .bundle = next(s), .weights = {next(s), next(s)}};
    const bool result = m.kind == MSG_RESULT, error = m.kind == MSG_ERROR;
    m.job = (int32_t)from(s, result ? 0 : -1, INT32_MAX);
    m.loaded = (int32_t)from(s, -1, INT32_MAX);
    m.wish = (int32_t)from(s, STOP_NO, STOP_NOW);
    m.rc = (int32_t)from(s, INT32_MIN, error ? -1 : 0);
    m.s_step = (double)from(s, 0, 1000) / 8;
    m.n_small = result || error ? (uint64_t)from(s, 0, MOST_BODY) : 0;
    m.n_big = result ? (uint64_t)from(s, 0, MOST_BODY) : 0;
    if (m.kind == MSG_WORK)
        m.work = job_of(s);
    return m;
}
static void add(char *at, size_t bytes, uint64_t v)
{
    uint64_t old = 0;
    memcpy(&old, at, bytes);
    old += v;
    memcpy(at, &old, bytes);
}
/* A number of 4 or 8 bytes is set or moved, a part goes from one of the 8 bytes to another, or the end moves.
 */
static void disturb(struct supply *s, struct str *b)
{
    const size_t head = b->n < 128 ? b->n : 128, reach = below(s, 4) ? head : b->n,
                 bytes = below(s, 2) ? 8 : 4;
    const uint64_t v = odd(s, b->n);
    char *at = b->data + bytes * below(s, reach / bytes);
    switch (below(s, 4)) {
    case 0:
        memcpy(at, &v, bytes);
        break;
    case 1:
        add(at, bytes, v);
        break;
    case 2:
        add(b->data + 8 * below(s, head / 8), 8, v);
        add(b->data + 8 * below(s, head / 8), 8, (uint64_t)-v);
        break;
    default:
        b->n -= below(s, b->n < 16 ? b->n : 16);
        str_addn(b, "0123456789abcdef", below(s, 17));
    }
}
static void check_made(struct supply *s)
{
    char body[2 * MOST_BODY];
    for (size_t i = 0; i < sizeof body; i++)
        body[i] = (char)i;
    struct str b = {0};
    const struct wire_msg m = message(s);
    wire_put(&b, &m, body, body + MOST_BODY);
    need(check(b.data, b.n));
    for (uint64_t k = below(s, 3) + 1; k > 0 && b.n >= 16; k--)
        disturb(s, &b);
    check(b.data, b.n);
    str_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    enum { MARK = 8 }; /* magic and version */
    const struct wire_msg alive = {.kind = MSG_ALIVE, .job = -1, .loaded = -1};
    struct supply s = {data, n, XXH3_64bits(data, n)};
    struct str b = {0};
    check(data, n);
    wire_put(&b, &alive, NULL, NULL);
    b.n = MARK;
    str_addn(&b, (const char *)data + (n < MARK ? n : MARK), n < MARK ? 0 : n - MARK);
    check(b.data, b.n);
    for (int i = 0; i < 16; i++)
        check_made(&s);
    str_free(&b);
    return 0;
}

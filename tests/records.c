#include "records.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

uint64_t rng_next(struct rng *g)
{
    uint64_t z = g->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t rng_below(struct rng *g, uint64_t n)
{
    return n ? rng_next(g) % n : 0;
}

static double unit_real(struct rng *g)
{
    return (double)(rng_next(g) >> 11) * 0x1p-53;
}

/* With NULs if the length is asked for. */
static char *random_text(struct rng *g, uint64_t max, size_t *n_bytes)
{
    static const char *const piece[] = {"a", "Ω", "😀", "\n", "\"", "needle ", "12345", "ß", "<b>", "\\", ""};
    struct str s = {0};
    str_add(&s, "");
    for (uint64_t n = rng_below(g, max); n; n--) {
        const char *p = piece[rng_below(g, n_bytes ? 11 : 10)];
        str_addn(&s, p, *p ? strlen(p) : 1);
    }
    if (n_bytes)
        *n_bytes = s.n;
    return s.data;
}

static uint16_t random_half(struct rng *g)
{
    return half_from_float((float)(unit_real(g) * 60 - 30));
}

static void random_logits(struct record *r, struct rng *g)
{
    if (r->n_new > 0 && rng_below(g, 5)) {
        r->n_top = 8;
        size_t cells = (size_t)r->n_new * 8;
        r->topk_id = mem_alloc(cells, sizeof *r->topk_id);
        r->topk_logit = mem_alloc(cells, sizeof *r->topk_logit);
        r->logsumexp = mem_alloc((size_t)r->n_new, sizeof *r->logsumexp);
        for (size_t i = 0; i < cells; i++) {
            r->topk_id[i] = (int32_t)rng_below(g, 96);
            r->topk_logit[i] = random_half(g);
        }
        for (int i = 0; i < r->n_new; i++)
            r->logsumexp[i] = (float)unit_real(g);
    }
    if (r->n_new > 0 && rng_below(g, 5)) {
        r->n_vocab = 96;
        r->n_first = rng_below(g, 4) ? 1 : r->n_new;
        size_t cells = 96 * (size_t)r->n_first;
        r->first = mem_alloc(cells, sizeof *r->first);
        for (size_t i = 0; i < cells; i++)
            r->first[i] = random_half(g);
    }
}

static void random_extras(struct record *r, struct rng *g)
{
    r->n_metric = (int32_t)rng_below(g, 3);
    r->metric = r->n_metric ? mem_alloc((size_t)r->n_metric, sizeof *r->metric) : NULL;
    for (int i = 0; i < r->n_metric; i++)
        r->metric[i] = (struct record_metric){i, unit_real(g)};
    r->n_budget = (int32_t)rng_below(g, KV_BUDGET_N + 1);
    r->budget = r->n_budget ? mem_alloc((size_t)r->n_budget, sizeof *r->budget) : NULL;
    for (int i = 0; i < r->n_budget; i++)
        r->budget[i] = (struct record_budget){i, unit_real(g) * 100};
    r->n_ledger = (int32_t)rng_below(g, MEM_KIND_N);
    r->ledger = r->n_ledger ? mem_alloc((size_t)r->n_ledger, sizeof *r->ledger) : NULL;
    for (int i = 0; i < r->n_ledger; i++)
        r->ledger[i] = (struct record_ledger){i, (int32_t)rng_below(g, 2), rng_next(g) >> 20};
    r->n_fidelity = rng_below(g, 4) ? 0 : r->n_new;
    r->fidelity = r->n_fidelity ? mem_alloc((size_t)r->n_fidelity, sizeof *r->fidelity) : NULL;
    for (int i = 0; i < r->n_fidelity; i++)
        r->fidelity[i] = (struct record_fidelity){i, (float)unit_real(g), (float)rng_below(g, 2), -1.5f};
}

void records_random(struct record *r, struct rng *g, uint64_t unit)
{
    struct rng id = {unit * 77 + 5};
    bool ok = rng_below(g, 8) != 0;
    *r = (struct record){
        .unit_hi = rng_next(&id),
        .unit_lo = rng_next(&id),
        .bundle = unit / 3,
        .setting = (int32_t)rng_below(g, 3),
        .task = (int32_t)rng_below(g, 2),
        .example = (int32_t)rng_below(g, 4),
        .status = ok ? ST_OK : 1 + (int32_t)rng_below(g, ST_N - 1),
        .stop = (int32_t)rng_below(g, STOP_N),
        .score = ok ? unit_real(g) : (double)NAN,
        .n_prompt = (int32_t)rng_below(g, 4000),
        .n_context = (int32_t)rng_below(g, 4000),
        .n_question = (int32_t)rng_below(g, 100),
        .n_new = ok ? (int32_t)rng_below(g, 20) : 0,
        .truncated = (int32_t)rng_below(g, 2),
        .prompt_hash = rng_next(g),
        .kv_bytes = rng_next(g) >> 20,
        .kv_bytes_alone = rng_next(g) >> 20,
        .kv_bytes_full = rng_next(g) >> 20,
        .context_bytes = rng_next(g) >> 20,
        .context_bytes_full = rng_next(g) >> 20,
        .peak_bytes = rng_next(g) >> 20,
        .want_bytes = rng_next(g) >> 20,
        .kept_min = (int32_t)rng_below(g, 100) - 1,
        .kept_max = (int32_t)rng_below(g, 4000),
        .rank = (int32_t)rng_below(g, 4),
        .attempt = (int32_t)rng_below(g, 4),
    };
    if (ok)
        r->text = random_text(g, 40, &r->n_text);
    else
        r->error = random_text(g, 10, NULL);
    if (r->n_new) {
        r->token = mem_alloc((size_t)r->n_new, sizeof *r->token);
        for (int i = 0; i < r->n_new; i++)
            r->token[i] = (int32_t)rng_below(g, 96);
    }
    random_logits(r, g);
    random_extras(r, g);
}

static bool same_bytes(const void *a, const void *b, size_t n)
{
    return n == 0 || (a && b && memcmp(a, b, n) == 0) || (!a && !b);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_real(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

#define SAME(member)                                                                                         \
    if (a->member != b->member)                                                                              \
    return #member

static const char *scalars_difference(const struct record *a, const struct record *b)
{
    for (int i = 0; record_column(i); i++)
        if (!record_same_column(record_column(i), a, b))
            return record_column(i)->name;
    SAME(n_text);
    SAME(n_metric);
    SAME(n_budget);
    SAME(n_ledger);
    SAME(n_fidelity);
    return "";
}

const char *records_difference(const struct record *a, const struct record *b, bool logits)
{
    const char *d = scalars_difference(a, b);
    if (*d)
        return d;
    if (!same_bytes(a->text, b->text, a->n_text))
        return "text";
    if (!same_text(a->error, b->error))
        return "error";
    if (!same_bytes(a->token, b->token, (size_t)a->n_new * 4))
        return "token";
    for (int i = 0; i < a->n_metric; i++)
        if (a->metric[i].name != b->metric[i].name || !same_real(a->metric[i].value, b->metric[i].value))
            return "metric";
    for (int i = 0; i < a->n_budget; i++)
        if (a->budget[i].name != b->budget[i].name || !same_real(a->budget[i].value, b->budget[i].value))
            return "budget";
    if (!same_bytes(a->ledger, b->ledger, (size_t)a->n_ledger * sizeof *a->ledger))
        return "ledger";
    if (!same_bytes(a->fidelity, b->fidelity, (size_t)a->n_fidelity * sizeof *a->fidelity))
        return "fidelity";
    if (!logits)
        return "";
    SAME(n_vocab);
    SAME(n_first);
    SAME(n_top);
    size_t cells = (size_t)a->n_new * (size_t)a->n_top;
    if (!same_bytes(a->first, b->first, (size_t)a->n_first * (size_t)a->n_vocab * 2))
        return "first";
    if (!same_bytes(a->topk_id, b->topk_id, cells * 4) ||
        !same_bytes(a->topk_logit, b->topk_logit, cells * 2))
        return "topk";
    if (!same_bytes(a->logsumexp, b->logsumexp, a->logsumexp || b->logsumexp ? (size_t)a->n_new * 4 : 0))
        return "logsumexp";
    return "";
}

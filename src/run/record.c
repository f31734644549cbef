#include "run/record.h"

#include "base/err.h"
#include "base/mem.h"
#include "kernels/half.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the flat form is written in host order");

const char *record_status_name(int s)
{
    static const char *const names[ST_N] = {"ok", "oom", "too_long", "nan", "error"};
    return s >= 0 && s < ST_N ? names[s] : "unknown";
}

const char *record_stop_name(int s)
{
    static const char *const names[STOP_N] = {"eos", "max_new", "newline"};
    return s >= 0 && s < STOP_N ? names[s] : "unknown";
}

#define RECORD(type, name, role, since, units, what)                                                                \
    {#name, RECORD_##type, RECORD_##role, offsetof(struct record, name), sizeof(RECORD_C_##type)},
static const struct record_column columns[] = {
#include "run/record.def"
};

const struct record_column *record_column(int i)
{
    return i >= 0 && i < (int)(sizeof columns / sizeof *columns) ? &columns[i] : NULL;
}

bool record_same_column(const struct record_column *c, const struct record *x, const struct record *y)
{
    const char *a = (const char *)x + c->offset, *b = (const char *)y + c->offset;
    double u, v;
    if (memcmp(a, b, c->bytes) == 0)
        return true;
    if (c->type != RECORD_F64)
        return false;
    memcpy(&u, a, sizeof u);
    memcpy(&v, b, sizeof v);
    return isnan(u) && isnan(v);
}

bool record_same_text(const struct record *x, const struct record *y)
{
    size_t n = x->text ? x->n_text : 0;
    return n == (y->text ? y->n_text : 0) && (n == 0 || memcmp(x->text, y->text, n) == 0);
}

void record_free(struct record *r)
{
    free(r->text);
    free(r->error);
    free(r->token);
    free(r->metric);
    free(r->budget);
    free(r->ledger);
    free(r->first);
    free(r->topk_id);
    free(r->topk_logit);
    free(r->logsumexp);
    free(r->fidelity);
    *r = (struct record){0};
}

/* ---- flat form ----
 * small: per record {magic, bytes of what follows}, its scalars in the order of record.def, struct parts, text, error,
 * tokens, metrics, budgets, ledger, fidelity. big: per record topk_id, logsumexp, topk_logit, first, in the
 * sizes that the small part states. Nothing is padded. */
#define RECORD_MAGIC 0x3252564bu /* "KVR2" */

enum { HAS_TEXT = 1, HAS_ERROR = 2, HAS_TOKEN = 4, HAS_ALL = 7 };

/* What of the variable parts is there. */
struct parts {
    uint64_t text_len, error_len;
    int32_t n_metric, n_budget, n_ledger, n_fidelity, n_vocab, n_first, n_top;
    uint32_t flags;
};
_Static_assert(sizeof(struct parts) == 2 * 8 + 8 * 4, "no padding in the flat form");

struct head {
    uint32_t magic, bytes;
};

static bool has_topk(const struct record *r)
{
    return r->topk_id && r->topk_logit && r->logsumexp && r->n_top > 0 && r->n_new > 0;
}

static bool has_first(const struct record *r)
{
    return r->first && r->n_first > 0 && r->n_vocab > 0;
}

static struct parts parts_of(const struct record *r)
{
    bool first = has_first(r);
    return (struct parts){
        .text_len = r->text ? r->n_text : 0,
        .error_len = r->error ? strlen(r->error) : 0,
        .n_metric = r->metric ? r->n_metric : 0,
        .n_budget = r->budget ? r->n_budget : 0,
        .n_ledger = r->ledger ? r->n_ledger : 0,
        .n_fidelity = r->fidelity ? r->n_fidelity : 0,
        .n_vocab = first ? r->n_vocab : 0,
        .n_first = first ? r->n_first : 0,
        .n_top = has_topk(r) ? r->n_top : 0,
        .flags = (r->text ? HAS_TEXT : 0u) | (r->error ? HAS_ERROR : 0u) |
                 (r->token && r->n_new > 0 ? HAS_TOKEN : 0u),
    };
}

static void add_scalars(struct str *s, const struct record *r)
{
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        str_addn(s, (const char *)r + columns[i].offset, columns[i].bytes);
}

/* Pairs of a 32-bit name and a 64-bit value go as 12 bytes, without the hole the structs have. */
static void add_pair(struct str *s, int32_t name, const void *value8)
{
    str_addn(s, &name, 4);
    str_addn(s, value8, 8);
}

static void pack_small(const struct record *r, struct str *s)
{
    const struct parts f = parts_of(r);
    size_t at = s->n;
    struct head h = {RECORD_MAGIC, 0};
    str_addn(s, &h, sizeof h);
    add_scalars(s, r);
    str_addn(s, &f, sizeof f);
    str_addn(s, r->text, f.text_len);
    str_addn(s, r->error, f.error_len);
    if (f.flags & HAS_TOKEN)
        str_addn(s, r->token, (size_t)r->n_new * 4);
    for (int i = 0; i < f.n_metric; i++)
        add_pair(s, r->metric[i].name, &r->metric[i].value);
    for (int i = 0; i < f.n_budget; i++)
        add_pair(s, r->budget[i].name, &r->budget[i].value);
    for (int i = 0; i < f.n_ledger; i++) {
        str_addn(s, &r->ledger[i].kind, 4);
        str_addn(s, &r->ledger[i].place, 4);
        str_addn(s, &r->ledger[i].bytes, 8);
    }
    str_addn(s, r->fidelity, (size_t)f.n_fidelity * sizeof *r->fidelity);
    h.bytes = (uint32_t)(s->n - at - sizeof h);
    memcpy(s->data + at, &h, sizeof h);
}

void record_pack(const struct record *r, int n, struct str *small, struct str *big)
{
    for (int i = 0; i < n; i++) {
        pack_small(&r[i], small);
        if (has_topk(&r[i])) {
            size_t rows = (size_t)r[i].n_new, cells = rows * (size_t)r[i].n_top;
            str_addn(big, r[i].topk_id, cells * 4);
            str_addn(big, r[i].logsumexp, rows * 4);
            str_addn(big, r[i].topk_logit, cells * 2);
        }
        if (has_first(&r[i]))
            str_addn(big, r[i].first, (size_t)r[i].n_first * (size_t)r[i].n_vocab * 2);
    }
}

size_t record_big_bytes(const struct record *r, struct record_big *at)
{
    size_t rows = r->n_top > 0 && r->n_new > 0 ? (size_t)r->n_new : 0, cells = rows * (size_t)r->n_top;
    size_t full = r->n_first > 0 && r->n_vocab > 0 ? (size_t)r->n_first * (size_t)r->n_vocab : 0;
    struct record_big b = {0, cells * 4, cells * 4 + rows * 4, cells * 6 + rows * 4};
    if (at)
        *at = b;
    return b.first + full * 2;
}

/* ---- reading ---- */
struct reader {
    const char *p;
    size_t left;
};

static bool take(struct reader *in, void *dst, size_t n)
{
    if (in->left < n)
        return false;
    if (n)
        memcpy(dst, in->p, n);
    in->p += n;
    in->left -= n;
    return true;
}

/* A fresh copy of count * size bytes; NULL for none. False when the bytes are not there: counts are checked
 * against them before anything is allocated. */
static bool take_array(struct reader *in, void *dst_pointer, uint64_t count, size_t size)
{
    void *copy = NULL;
    if (count > in->left / size)
        return false;
    if (count) {
        copy = mem_grow(NULL, (size_t)count, size);
        take(in, copy, (size_t)count * size);
    }
    memcpy(dst_pointer, &copy, sizeof copy);
    return true;
}

static bool take_text(struct reader *in, char **dst, uint64_t len, bool present)
{
    if (len > in->left || (len && !present))
        return false;
    if (present) {
        *dst = mem_strndup(in->p, (size_t)len);
        in->p += len;
        in->left -= (size_t)len;
    }
    return true;
}

static bool take_pairs(struct reader *in, struct record *r)
{
    if ((uint64_t)r->n_metric + (uint64_t)r->n_budget > in->left / 12)
        return false;
    r->metric = r->n_metric ? mem_alloc((size_t)r->n_metric, sizeof *r->metric) : NULL;
    r->budget = r->n_budget ? mem_alloc((size_t)r->n_budget, sizeof *r->budget) : NULL;
    for (int i = 0; i < r->n_metric; i++)
        if (!take(in, &r->metric[i].name, 4) || !take(in, &r->metric[i].value, 8))
            return false;
    for (int i = 0; i < r->n_budget; i++)
        if (!take(in, &r->budget[i].name, 4) || !take(in, &r->budget[i].value, 8))
            return false;
    return true;
}

size_t record_small_bytes(const void *small, size_t n_small)
{
    struct head h;
    if (n_small < sizeof h)
        return 0;
    memcpy(&h, small, sizeof h);
    return h.magic == RECORD_MAGIC && h.bytes <= n_small - sizeof h ? sizeof h + h.bytes : 0;
}

static bool take_scalars(struct reader *in, struct record *r)
{
    bool ok = true;
    for (size_t i = 0; i < sizeof columns / sizeof *columns && ok; i++)
        ok = take(in, (char *)r + columns[i].offset, columns[i].bytes);
    return ok;
}

static bool take_parts(struct reader *in, struct record *r, struct parts *f)
{
    if (!take(in, f, sizeof *f))
        return false;
    r->n_text = (size_t)f->text_len;
    r->n_metric = f->n_metric;
    r->n_budget = f->n_budget;
    r->n_ledger = f->n_ledger;
    r->n_fidelity = f->n_fidelity;
    r->n_vocab = f->n_vocab;
    r->n_first = f->n_first;
    r->n_top = f->n_top;
    return (f->flags & ~(uint32_t)HAS_ALL) == 0;
}

static bool is_sane(const struct record *r)
{
    int64_t cells;
    return r->status >= 0 && r->status < ST_N && r->stop >= 0 && r->stop < STOP_N && r->n_new >= 0 &&
           r->n_metric >= 0 && r->n_budget >= 0 && r->n_ledger >= 0 && r->n_fidelity >= 0 &&
           r->n_vocab >= 0 && r->n_first >= 0 && r->n_top >= 0 &&
           !__builtin_mul_overflow((int64_t)r->n_vocab * r->n_first, INT64_C(2), &cells) &&
           !__builtin_mul_overflow((int64_t)r->n_new * r->n_top, INT64_C(8), &cells);
}

static bool unpack_small(struct reader *all, struct record *r)
{
    struct head h;
    struct parts f;
    if (!take(all, &h, sizeof h) || h.magic != RECORD_MAGIC || h.bytes > all->left)
        return false;
    struct reader in = {all->p, h.bytes};
    all->p += h.bytes;
    all->left -= h.bytes;
    if (!take_scalars(&in, r) || !take_parts(&in, r, &f) || !is_sane(r))
        return false;
    _Static_assert(sizeof *r->ledger == 16 && sizeof *r->fidelity == 16, "flat form without holes");
    return take_text(&in, &r->text, f.text_len, f.flags & HAS_TEXT) &&
           take_text(&in, &r->error, f.error_len, f.flags & HAS_ERROR) &&
           take_array(&in, &r->token, f.flags & HAS_TOKEN ? (uint64_t)r->n_new : 0, 4) &&
           take_pairs(&in, r) &&
           take_array(&in, &r->ledger, (uint64_t)f.n_ledger, sizeof *r->ledger) &&
           take_array(&in, &r->fidelity, (uint64_t)f.n_fidelity, sizeof *r->fidelity) && in.left == 0;
}

static bool unpack_big(struct reader *in, struct record *r)
{
    uint64_t rows = r->n_top > 0 ? (uint64_t)r->n_new : 0, cells = rows * (uint64_t)r->n_top;
    return take_array(in, &r->topk_id, cells, 4) && take_array(in, &r->logsumexp, rows, 4) &&
           take_array(in, &r->topk_logit, cells, 2) &&
           take_array(in, &r->first, (uint64_t)r->n_first * (uint64_t)r->n_vocab, 2);
}

int record_unpack(const void *small, size_t n_small, const void *big, size_t n_big, struct record **r, int *n)
{
    struct reader in = {small, n_small}, in_big = {big, n_big};
    struct record *list = NULL;
    int count = 0, cap = 0;
    bool ok = true;
    while (ok && in.left) {
        struct record *one = MEM_PUSH(list, count, cap);
        *one = (struct record){0};
        ok = unpack_small(&in, one) && (!big || unpack_big(&in_big, one));
    }
    if (!ok || (big && in_big.left)) {
        for (int i = 0; i < count; i++)
            record_free(&list[i]);
        free(list);
        return err_set(ERR_INPUT, "packed records are damaged near record %d", count);
    }
    *r = list;
    *n = count;
    return 0;
}

/* ---- f16 ---- */
uint16_t half_from_float(float x)
{
    return f16_from_f32(x);
}

float half_to_float(uint16_t h)
{
    return f16_to_f32(h);
}

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "check_rig.h"

int n_passed, n_failed;
const char *backend;

void check(bool ok, const char *what, const char *detail)
{
    if (ok) {
        n_passed++;
        return;
    }
    n_failed++;
    printf("FAILED %s: %s %s\n", backend, what, detail);
}

uint64_t rng_state;

uint64_t rng(void)
{
    uint64_t z = (rng_state += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}
int64_t rng_int(int64_t lo, int64_t hi)
{
    return lo + (int64_t)(rng() % (uint64_t)(hi - lo + 1));
}
float rng_float(void)
{
    double s = 0;
    for (int i = 0; i < 4; i++)
        s += (double)(rng() >> 11) * 0x1p-53 - 0.5;
    return (float)(s * 1.7320508);
}

struct ops *rig_pinned;
bool rig_half;

void rig_wait(void)
{
    if (rig_pinned)
        check(rig_pinned->sync(rig_pinned) == 0, "sync", err_text());
}

#define GUARD 128
void *buf_data(const struct buf *b)
{
    return b->base + GUARD;
}
struct buf buf_new(struct ops *o, size_t bytes)
{
    o = rig_pinned ? rig_pinned : o;
    struct buf b = {o, o->alloc(o, bytes + 2 * GUARD, MEM_WORKSPACE, rig_pinned ? PLACE_HOST : PLACE_DEVICE),
                    bytes};
    if (!b.base)
        abort();
    memset(b.base, 0xa5, bytes + 2 * GUARD);
    return b;
}
void buf_free(struct buf *b)
{
    rig_wait();
    for (size_t i = 0; i < GUARD; i++) {
        if (b->base[i] != 0xa5 || b->base[GUARD + b->bytes + i] != 0xa5) {
            check(false, "wrote outside of its output", "");
            break;
        }
    }
    b->o->free(b->o, b->base);
}
struct buf buf_random(struct ops *o, enum dtype t, int64_t n)
{
    struct buf b = buf_new(o, (size_t)n * dtype_bytes(t));
    for (int64_t i = 0; i < n; i++)
        host_put(buf_data(&b), t, i, rng_float());
    return b;
}
struct tensor view(const struct buf *b, enum dtype t, int64_t n0, int64_t n1, int64_t n2)
{
    return (struct tensor){buf_data(b), t, {n0, n1, n2, 1}};
}

uint64_t digest;

void digest_add(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        digest = (digest ^ ((const unsigned char *)p)[i]) * 0x100000001b3U;
}

struct weight rig_pack(struct ops *o, const struct tensor *src, enum dtype t)
{
    const int64_t n_out = src->n[0], n_in = src->n[1];
    struct weight w = {.n_out = n_out, .n_in = n_in, .dtype = t, .bytes = o->pack_bytes(o, n_out, n_in, t)};
    w.packed = o->alloc(o, w.bytes, MEM_WEIGHTS, PLACE_DEVICE);
    o->pack(o, &w, src);
    return w;
}

void compare(const char *what, const char *detail, enum dtype t, const struct buf *got,
             const struct buf *want, double tol)
{
    rig_wait();
    double worst = 0;
    int64_t at = 0, n = (int64_t)(got->bytes / dtype_bytes(t));
    for (int64_t i = 0; i < n; i++) {
        double a = (double)host_get(buf_data(got), t, i), b = (double)host_get(buf_data(want), t, i);
        double e = a == b || (isnan(a) && isnan(b)) ? 0 : fabs(a - b) / (1 + fabs(b));
        if (!(e <= worst)) {
            worst = e;
            at = i;
        }
    }
    digest_add(buf_data(got), got->bytes);
    char text[200];
    snprintf(text, sizeof text, "%s: off by %.3g (allowed %.3g) at %lld: %g, not %g", detail, worst, tol,
             (long long)at, (double)host_get(buf_data(got), t, at), (double)host_get(buf_data(want), t, at));
    check(worst <= tol, what, text);
}

/* ------------------------------------------------------------------ random caches */

/* A run of n tokens, from the reference's own quantiser; the same memory serves both backends. */
static void make_run(struct ops *ref, struct kv_run *r, struct owned_run *own, enum quant_layout layout,
                     enum dtype t, int32_t bits, int64_t n, int64_t H, int64_t d, int64_t pos, bool indexed)
{
    memset(own, 0, sizeof *own);
    *r = (struct kv_run){.layout = layout, .dtype = t, .bits = bits, .group = 32, .n = n, .pos = pos};
    int64_t stored = indexed ? 2 * n + 3 : n;
    struct buf src = buf_random(ref, layout == QUANT_NONE ? t : DT_F32, stored * H * d);
    if (indexed) {
        own->has_index = true;
        own->index = buf_new(ref, (size_t)n * 4);
        for (int64_t i = 0; i < n; i++)
            ((int32_t *)buf_data(&own->index))[i] = (int32_t)(2 * i + rng_int(0, 1));
        r->index = buf_data(&own->index);
    }
    if (layout == QUANT_NONE) {
        own->data = src;
        r->data = buf_data(&src);
        return;
    }
    r->f16_values = rng() % 3 == 0;
    own->has_scale = true;
    own->data = buf_new(ref, (size_t)(n * H * d * bits / 8));
    own->scale = buf_new(ref, (size_t)(n * H * d / 32) * 2);
    own->min = buf_new(ref, (size_t)(n * H * d / 32) * 2);
    r->inverse = rng() % 4 == 0;
    struct quant_args q = {.layout = layout,
                           .bits = bits,
                           .group = 32,
                           .src = view(&src, DT_F32, n, H, d),
                           .codes = buf_data(&own->data),
                           .scale = buf_data(&own->scale),
                           .min = buf_data(&own->min),
                           .inverse = r->inverse};
    ref->quant(ref, &q, 1);
    r->data = buf_data(&own->data);
    r->scale = buf_data(&own->scale);
    r->min = buf_data(&own->min);
    buf_free(&src);
}

static void free_run(struct owned_run *own)
{
    buf_free(&own->data);
    if (own->has_scale) {
        buf_free(&own->scale);
        buf_free(&own->min);
    }
    if (own->has_index)
        buf_free(&own->index);
}

const char *const cache_names[CACHE_N] = {"f32",    "f16",    "bf16",   "kivi2",     "kivi4",
                                          "token2", "token4", "token8", "channel-v", "indexed"};

static enum dtype cache_dtype(enum cache kind)
{
    return kind == DENSE_F32 ? DT_F32 : kind == DENSE_BF16 ? DT_BF16 : DT_F16;
}

double attend_tol(enum cache kind, int64_t T)
{
    bool half = rig_half || T >= 16;
    if (cache_dtype(kind) == DT_BF16 && half)
        return 2e-2;
    return cache_dtype(kind) == DT_F16 && rig_half ? 2.5e-3 : 1e-5;
}

void make_set(struct ops *ref, struct attend_set *s, struct owned_set *own, enum cache kind, int64_t T,
              int64_t n, int64_t H, int64_t Hk, int64_t d)
{
    enum dtype t = cache_dtype(kind);
    int32_t bits = kind == KIVI2 || kind == TOKEN2 ? 2 : kind == TOKEN8 ? 8 : 4;
    bool packed = kind >= KIVI2 && kind <= CHANNEL_V;
    int64_t head = n > 40 ? rng_int(0, 5) : 0, body = packed ? (n - head) / 32 * 32 : (n - head) / 2;
    own->n = 0;
    for (int side = 0; side < 2; side++) {
        enum quant_layout l = QUANT_NONE;
        if (packed) {
            bool kivi = kind <= KIVI4;
            l = (kivi && side == 0) || (kind == CHANNEL_V && side == 1) ? QUANT_CHANNEL : QUANT_TOKEN;
        }
        int64_t cut[3] = {head, side && !packed ? body / 2 : body, 0}, pos = 0;
        if (side && packed && l == QUANT_TOKEN && cut[1] > 10) {
            cut[0] += 7; /* value runs cut at other places than key runs */
            cut[1] -= 10;
        }
        cut[2] = n - cut[0] - cut[1];
        int32_t *count = side ? &s->n_v : &s->n_k;
        for (int i = 0; i < 3; i++) {
            if (cut[i] == 0)
                continue;
            struct kv_run *r = (side ? s->v : s->k) + (*count)++;
            make_run(ref, r, &own->run[own->n++], i == 1 ? l : QUANT_NONE, t, bits, cut[i], Hk, d, pos,
                     kind == INDEXED && i == 1);
            pos += cut[i];
        }
    }
    own->q = buf_random(ref, DT_F32, T * H * d);
    s->q = view(&own->q, DT_F32, T, H, d);
}

void free_set(struct owned_set *own)
{
    buf_free(&own->q);
    for (int r = 0; r < own->n; r++)
        free_run(&own->run[r]);
}

/* Attention of decode steps alone on the CUDA backend, over dense and compressed caches: bytes of the cache a
 * second, beside a copy inside the GPU. decode CONTEXT...; shape of Llama-3-8B: 32 heads on 8 key/value
 * heads of 128 channels, bf16, one sequence and sixteen. Exit status 1 if it cannot run, or if codes give
 * other values than the dense cache they were made from, by more than the codes' own error.
 *
 * Every layer of every sequence has a cache of its own, as in a model: an H100's second-level cache holds
 * 50 MB, so that a cache read again and again would be read faster than memory is. */
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "kernels/bench.h"
#include "kernels/half.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 32, KV_HEADS = 8, DIM = 128, GROUP = 32, LAYERS = 32, BATCH = 16 };
#define APART ((size_t)256 << 20) /* bytes that are read before a cache is read again */

/* How a cache lies: bits 16 is dense. Largest difference from the dense result, of its norm. */
struct form {
    const char *name;
    int32_t bits;
    enum quant_layout keys;
    bool f16_values;
    double off;
};
static const struct form forms[] = {{"bf16", 16, QUANT_NONE, false, 0.01},
                                    {"kivi:bits=4", 4, QUANT_CHANNEL, false, 0.2},
                                    {"kivi:bits=2", 2, QUANT_CHANNEL, false, 1},
                                    {"flexgen:bits=4", 4, QUANT_TOKEN, true, 0.2}};

struct rig {
    struct ops *o;
    int64_t n;
    struct tensor q, kv[2], out; /* kv: what every cache holds */
    char *caches;                /* of one form, one after the other: keys, then values of each */
    size_t bytes;                /* of one */
    int n_cache, n_layer;
};

static void *take(struct ops *o, size_t bytes)
{
    return o->alloc(o, bytes, MEM_WORKSPACE, PLACE_DEVICE);
}

static void fill(struct ops *o, const struct tensor *t, uint32_t seed)
{
    int64_t n = tensor_count(t);
    uint16_t *x = mem_alloc((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        x[i] = bf16_from_f32((float)(int32_t)seed * 0x1p-31f);
    }
    o->copy(o, t->data, x, tensor_bytes(t));
    free(x);
}

static int rig_open(struct rig *r, struct ops *o, int64_t n)
{
    *r = (struct rig){.o = o, .n = n};
    r->q = (struct tensor){take(o, HEADS * DIM * 2), DT_BF16, {1, HEADS, DIM, 1}};
    r->out = (struct tensor){take(o, BATCH * HEADS * DIM * 2), DT_BF16, {1, HEADS, DIM, 1}};
    bool there = r->q.data && r->out.data;
    for (int i = 0; i < 2; i++) {
        r->kv[i] = (struct tensor){NULL, DT_BF16, {n, KV_HEADS, DIM, 1}};
        r->kv[i].data = take(o, tensor_bytes(&r->kv[i]));
        there = there && r->kv[i].data;
        if (there)
            fill(o, &r->kv[i], 7 + (uint32_t)i);
    }
    if (!there)
        return err_set(ERR_NOMEM, "no memory on the GPU for %lld tokens", (long long)n);
    fill(o, &r->q, 3);
    return 0;
}

static void rig_close(struct rig *r)
{
    void *all[] = {r->q.data, r->out.data, r->kv[0].data, r->kv[1].data, r->caches};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i])
            r->o->free(r->o, all[i]);
}

/* Room for the caches of a form: those of APART, or as many as the GPU has memory for. Lengths that are not
 * timed need one for each sequence. */
static int caches_open(struct rig *r, const struct form *f, bool timed)
{
    size_t values = (size_t)r->n * KV_HEADS * DIM;
    if (r->caches)
        r->o->free(r->o, r->caches);
    r->bytes = 2 * (f->bits == 16 ? values * 2 : values * (size_t)f->bits / 8 + values / GROUP * 4);
    int apart = timed ? (int)((APART + r->bytes - 1) / r->bytes) : 0;
    r->n_cache = apart > BATCH ? apart : BATCH;
    r->n_layer = apart > LAYERS ? apart : LAYERS;
    while (!(r->caches = take(r->o, (size_t)r->n_cache * r->bytes)) && r->n_cache > 1)
        r->n_cache -= (r->n_cache + 3) / 4;
    return r->caches ? 0 : err_set(ERR_NOMEM, "no memory on the GPU for a cache of %zu bytes", r->bytes);
}

/* Keys (side 0) or values of one cache, made from r->kv. */
static struct kv_run run_of(struct rig *r, const struct form *f, int cache, int side)
{
    size_t values = (size_t)r->n * KV_HEADS * DIM;
    char *at = r->caches + (size_t)cache * r->bytes + (size_t)side * r->bytes / 2;
    struct kv_run run = {.dtype = DT_BF16, .data = at, .n = r->n};
    if (f->bits == 16) {
        r->o->copy(r->o, at, r->kv[side].data, values * 2);
        return run;
    }
    struct quant_args a = {.layout = side ? QUANT_TOKEN : f->keys, .bits = f->bits, .group = GROUP};
    a.src = r->kv[side];
    a.codes = (uint8_t *)at;
    a.scale = (uint16_t *)(void *)(at + values * (size_t)f->bits / 8);
    a.min = a.scale + values / GROUP;
    r->o->quant(r->o, &a, 1);
    run.layout = a.layout;
    run.bits = f->bits;
    run.group = GROUP;
    run.f16_values = f->f16_values;
    run.scale = a.scale;
    run.min = a.min;
    return run;
}

/* One sequence's attention to every cache, and the first ones again, so that BATCH in a row begin anywhere.
 */
static struct attend_args *attends(struct rig *r, const struct form *f)
{
    struct attend_args *a = mem_alloc((size_t)(r->n_cache + BATCH), sizeof *a);
    for (int i = 0; i < r->n_cache + BATCH; i++) {
        a[i] = (struct attend_args){.n_set = 1, .n_kv_head = KV_HEADS, .q_pos = r->n - 1};
        a[i].scale = 0.08838835f;
        a[i].set[0] = (struct attend_set){.q = r->q, .n_k = 1, .n_v = 1, .dist_max = ATTEND_FAR};
        if (i < r->n_cache) {
            a[i].set[0].k[0] = run_of(r, f, i, 0);
            a[i].set[0].v[0] = run_of(r, f, i, 1);
        } else {
            a[i].set[0] = a[i - r->n_cache].set[0];
        }
        a[i].out = r->out;
        a[i].out.data = (uint16_t *)r->out.data + i % BATCH * HEADS * DIM;
    }
    return a;
}

/* Seconds of a layer's attention in a step of n_seq sequences. */
static double time_step(struct rig *r, const struct attend_args *a, int n_seq)
{
    double best = INFINITY;
    for (int round = 0; round < 6; round++) { /* the first two warm up, and make the graph */
        double t = clock_now();
        for (int i = 0; i < r->n_layer; i++)
            r->o->attend(r->o, a + i * n_seq % r->n_cache, n_seq);
        if (r->o->sync(r->o) < 0)
            return INFINITY;
        t = (clock_now() - t) / r->n_layer;
        best = round > 1 && t < best ? t : best;
    }
    return best;
}

/* The norm of the difference from `want` over its norm, of the sequence that is furthest off; the first form
 * fills `want`. */
static double difference(struct rig *r, float want[HEADS * DIM], bool first)
{
    uint16_t got[HEADS * DIM];
    double worst = 0;
    for (int k = 0; k < BATCH; k++) {
        double diff = 0, norm = 0;
        r->o->copy(r->o, got, (uint16_t *)r->out.data + k * HEADS * DIM, sizeof got);
        for (int i = 0; i < HEADS * DIM; i++) {
            float x = bf16_to_f32(got[i]);
            want[i] = first && k == 0 ? x : want[i];
            diff += (double)(x - want[i]) * (double)(x - want[i]);
            norm += (double)want[i] * (double)want[i];
        }
        double off = sqrt(diff / norm);
        worst = off <= worst ? worst : off; /* NaN stays */
    }
    return worst;
}

static void print_times(struct rig *r, const struct attend_args *a, double copy_rate)
{
    double one = time_step(r, a, 1), many = time_step(r, a, BATCH), bytes = (double)r->bytes;
    printf("; one %.1f us, %.0f GB/s (%.2f of a copy); %d sequences %.1f us, %.0f GB/s (%.2f); %d caches",
           1e6 * one, 1e-9 * bytes / one, bytes / one / copy_rate, BATCH, 1e6 * many,
           1e-9 * BATCH * bytes / many, BATCH * bytes / many / copy_rate, r->n_cache);
}

static int one_form(struct rig *r, const struct form *f, float want[HEADS * DIM], double copy_rate,
                    int *failed)
{
    bool timed = r->n >= 1024;
    TRY(caches_open(r, f, timed));
    struct attend_args *a = attends(r, f);
    r->o->attend(r->o, a, BATCH);
    double off = difference(r, want, f == forms);
    int rc = r->o->sync(r->o);
    bool ok = rc == 0 && off <= f->off;
    *failed += !ok;
    printf("decode attention %lld, %-14s off by %.2g%s", (long long)r->n, f->name, off, ok ? "" : " FAILED");
    if (timed && rc == 0)
        print_times(r, a, copy_rate);
    printf("\n");
    free(a);
    return rc;
}

static int one_context(struct ops *o, int64_t n, double copy_rate, int *failed)
{
    struct rig r;
    float want[HEADS * DIM];
    int rc = rig_open(&r, o, n);
    for (size_t f = 0; f < sizeof forms / sizeof *forms && rc == 0; f++)
        rc = one_form(&r, &forms[f], want, copy_rate, failed);
    rig_close(&r);
    return rc;
}

int main(int argc, char **argv)
{
    const struct ops_options opt = {.act = DT_BF16};
    struct ops *o;
    int failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2 || ops_open(&o, "cuda", &opt) < 0) {
        printf("%s\n", argc < 2 ? "usage: gpu_decode CONTEXT..." : err_text());
        return 1;
    }
    double rate = bench_copy_rate(o);
    for (int i = 1; i < argc; i++)
        if (one_context(o, atoll(argv[i]) / GROUP * GROUP, rate, &failed) < 0) {
            printf("decode attention %s: %s\n", argv[i], err_text());
            failed++;
        }
    printf("decode: %d failed; a copy moves %.0f GB/s\n", failed, 1e-9 * rate);
    ops_close(o);
    return failed != 0;
}

/* Attention of decode steps alone on the CUDA table, over dense and compressed caches: bytes of the cache a
 * second, beside a copy inside the card. decode CONTEXT...; shape of Llama-3-8B: 32 heads on 8 key/value
 * heads of 128 channels, bf16, one sequence and sixteen. Exit status 1 if it cannot run, or if codes give
 * other values than the dense cache they were made from, by more than the codes' own error. */
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
    struct tensor q, kv[2], out;
    void *codes[2], *scale[2], *min[2];
    size_t bytes; /* of the cache in use */
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
        size_t values = (size_t)n * KV_HEADS * DIM;
        r->kv[i] = (struct tensor){take(o, values * 2), DT_BF16, {n, KV_HEADS, DIM, 1}};
        r->codes[i] = take(o, values / 2);
        r->scale[i] = take(o, values / GROUP * 2);
        r->min[i] = take(o, values / GROUP * 2);
        there = there && r->kv[i].data && r->codes[i] && r->scale[i] && r->min[i];
        if (there)
            fill(o, &r->kv[i], 7 + (uint32_t)i);
    }
    if (!there)
        return err_set(ERR_NOMEM, "no memory on the card for %lld tokens", (long long)n);
    fill(o, &r->q, 3);
    return 0;
}

static void rig_close(struct rig *r)
{
    void *all[] = {r->q.data,   r->out.data, r->kv[0].data, r->kv[1].data, r->codes[0],
                   r->codes[1], r->scale[0], r->scale[1],   r->min[0],     r->min[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i])
            r->o->free(r->o, all[i]);
}

static struct kv_run run_of(struct rig *r, const struct form *f, int side)
{
    size_t values = (size_t)r->n * KV_HEADS * DIM;
    struct kv_run run = {.dtype = DT_BF16, .data = r->kv[side].data, .n = r->n};
    r->bytes += f->bits == 16 ? values * 2 : values * (size_t)f->bits / 8 + values / GROUP * 4;
    if (f->bits == 16)
        return run;
    struct quant_args a = {.layout = side ? QUANT_TOKEN : f->keys,
                           .bits = f->bits,
                           .group = GROUP,
                           .src = r->kv[side],
                           .codes = r->codes[side],
                           .scale = r->scale[side],
                           .min = r->min[side]};
    r->o->quant(r->o, &a, 1);
    run.layout = a.layout;
    run.bits = f->bits;
    run.group = GROUP;
    run.f16_values = f->f16_values;
    run.data = a.codes;
    run.scale = a.scale;
    run.min = a.min;
    return run;
}

/* Seconds of a step of n_seq sequences that share one cache in memory, but read it for themselves. */
static double time_step(struct rig *r, const struct attend_args *a, int n_seq)
{
    double best = INFINITY;
    for (int round = 0; round < 6; round++) { /* the first two warm up, and make the graph */
        double t = clock_now();
        for (int i = 0; i < LAYERS; i++)
            r->o->attend(r->o, a, n_seq);
        if (r->o->sync(r->o) < 0)
            return INFINITY;
        t = (clock_now() - t) / LAYERS;
        best = round > 1 && t < best ? t : best;
    }
    return best;
}

/* The norm of the difference from `want` over its norm; the first form fills `want`. */
static double difference(struct rig *r, float want[HEADS * DIM], bool first)
{
    uint16_t got[HEADS * DIM];
    double diff = 0, norm = 0;
    r->o->copy(r->o, got, r->out.data, sizeof got);
    for (int i = 0; i < HEADS * DIM; i++) {
        float x = bf16_to_f32(got[i]);
        want[i] = first ? x : want[i];
        diff += (double)(x - want[i]) * (double)(x - want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(diff / norm);
}

static int one_context(struct ops *o, int64_t n, double copy_rate, int *failed)
{
    struct rig r;
    struct attend_args a[BATCH];
    float want[HEADS * DIM];
    int rc = rig_open(&r, o, n);
    for (size_t f = 0; f < sizeof forms / sizeof *forms && rc == 0; f++) {
        r.bytes = 0;
        memset(a, 0, sizeof a);
        a[0] = (struct attend_args){.n_set = 1, .n_kv_head = KV_HEADS, .q_pos = n - 1, .scale = 0.08838835f};
        a[0].set[0] = (struct attend_set){.q = r.q, .n_k = 1, .n_v = 1, .dist_max = ATTEND_FAR};
        a[0].set[0].k[0] = run_of(&r, &forms[f], 0);
        a[0].set[0].v[0] = run_of(&r, &forms[f], 1);
        for (int i = 0; i < BATCH; i++) {
            a[i] = a[0];
            a[i].out = r.out;
            a[i].out.data = (uint16_t *)r.out.data + i * HEADS * DIM;
        }
        o->attend(o, a, BATCH);
        double off = difference(&r, want, f == 0);
        rc = o->sync(o);
        bool ok = rc == 0 && off <= forms[f].off;
        *failed += !ok;
        printf("decode attention %lld, %-14s off by %.2g%s", (long long)n, forms[f].name, off,
               ok ? "" : " FAILED");
        if (n >= 1024 && rc == 0) {
            double one = time_step(&r, a, 1), many = time_step(&r, a, BATCH), bytes = (double)r.bytes;
            printf("; one %.1f us, %.0f GB/s (%.2f of a copy); %d sequences %.1f us, %.0f GB/s (%.2f)",
                   1e6 * one, 1e-9 * bytes / one, bytes / one / copy_rate, BATCH, 1e6 * many,
                   1e-9 * BATCH * bytes / many, BATCH * bytes / many / copy_rate);
        }
        printf("\n");
    }
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

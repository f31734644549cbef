/* Attention of a prompt alone on the CUDA backend, by every kernel that the GPU has for it: sampled rows are
 * held against doubles; from 1024 tokens on it is timed, beside a product of the same run. attend
 * [auto|wgmma|both] TOKENS...; exit status 1 if a kernel is off. Shape of Llama-3-8B: 32 heads on 8 key/value
 * heads of 128 channels, bf16, causal. */
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 32, KV_HEADS = 8, DIM = 128, SAMPLES = 24, SIDE = 8192 };

static uint64_t state;

static double uniform(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) * 0x1p-52 - 1; /* -1 to 1 */
}

static uint16_t *random_values(int64_t n, double size)
{
    uint16_t *x = mem_alloc((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = bf16_from_f32((float)(size * (uniform() + uniform())));
    return x;
}

/* Queries, keys and values on both sides, results on the device. */
struct rig {
    struct ops *o;
    int64_t n;
    uint16_t *host[3];
    struct tensor dev[4]; /* q, k, v, out */
};

static int rig_open(struct rig *r, struct ops *o, int64_t n)
{
    *r = (struct rig){.o = o, .n = n};
    for (int i = 0; i < 4; i++) {
        int64_t h = i == 1 || i == 2 ? KV_HEADS : HEADS;
        r->dev[i] = (struct tensor){NULL, DT_BF16, {n, h, DIM, 1}};
        r->dev[i].data = o->alloc(o, tensor_bytes(&r->dev[i]), MEM_WORKSPACE, PLACE_DEVICE);
        if (!r->dev[i].data)
            return err_set(ERR_NOMEM, "no memory on the GPU for %lld tokens", (long long)n);
        if (i == 3)
            continue;
        r->host[i] = random_values(tensor_count(&r->dev[i]), i == 2 ? 0.5 : 1.0);
        o->copy(o, r->dev[i].data, r->host[i], tensor_bytes(&r->dev[i]));
    }
    return 0;
}

static void rig_close(struct rig *r)
{
    for (int i = 0; i < 4; i++) {
        if (r->dev[i].data)
            r->o->free(r->o, r->dev[i].data);
        if (i < 3)
            free(r->host[i]);
    }
}

static void attend(struct rig *r)
{
    struct attend_args a = {.n_set = 1, .n_kv_head = KV_HEADS, .scale = 0.08838835f, .out = r->dev[3]};
    memset(a.set, 0, sizeof a.set);
    a.set[0].q = r->dev[0];
    a.set[0].n_k = a.set[0].n_v = 1;
    a.set[0].k[0] = (struct kv_run){.dtype = DT_BF16, .data = r->dev[1].data, .n = r->n};
    a.set[0].v[0] = (struct kv_run){.dtype = DT_BF16, .data = r->dev[2].data, .n = r->n};
    a.set[0].dist_max = ATTEND_FAR;
    r->o->attend(r->o, &a, 1);
}

/* Head `head` of token t in doubles. */
static void exact(const struct rig *r, int64_t t, int64_t head, double out[DIM])
{
    const uint16_t *q = r->host[0] + (t * HEADS + head) * DIM;
    double *x = mem_alloc((size_t)t + 1, sizeof *x), max = -INFINITY, sum = 0;
    for (int64_t j = 0; j <= t; j++) {
        const uint16_t *k = r->host[1] + (j * KV_HEADS + head / (HEADS / KV_HEADS)) * DIM;
        x[j] = 0;
        for (int c = 0; c < DIM; c++)
            x[j] += (double)bf16_to_f32(q[c]) * (double)bf16_to_f32(k[c]);
        x[j] *= (double)0.08838835f;
        max = x[j] > max ? x[j] : max;
    }
    memset(out, 0, DIM * sizeof *out);
    for (int64_t j = 0; j <= t; j++) {
        const uint16_t *v = r->host[2] + (j * KV_HEADS + head / (HEADS / KV_HEADS)) * DIM;
        double p = exp(x[j] - max);
        sum += p;
        for (int c = 0; c < DIM; c++)
            out[c] += p * (double)bf16_to_f32(v[c]);
    }
    for (int c = 0; c < DIM; c++)
        out[c] /= sum;
    free(x);
}

/* The norm of the difference over the norm, over sampled rows: the first, the last, and others. */
static double distance(struct rig *r)
{
    uint16_t got[DIM];
    double want[DIM], diff = 0, norm = 0;
    for (int i = 0; i < SAMPLES; i++) {
        int64_t t = i == 0 ? 0 : i < 4 ? r->n - 1 : (int64_t)((uniform() + 1) / 2 * (double)r->n);
        int64_t head = i % HEADS;
        t = t < r->n ? t : r->n - 1;
        exact(r, t, head, want);
        r->o->copy(r->o, got, (uint16_t *)r->dev[3].data + (t * HEADS + head) * DIM, sizeof got);
        for (int c = 0; c < DIM; c++) {
            double e = (double)bf16_to_f32(got[c]) - want[c];
            diff += e * e;
            norm += want[c] * want[c];
        }
    }
    return sqrt(diff / norm);
}

/* Seconds of one call: the best of five rounds of ten. */
static double time_attend(struct rig *r)
{
    double best = INFINITY;
    for (int round = 0; round < 6; round++) { /* the first warms up */
        double t = clock_now();
        for (int i = 0; i < 10; i++)
            attend(r);
        if (r->o->sync(r->o) < 0)
            return INFINITY;
        t = (clock_now() - t) / 10;
        best = round && t < best ? t : best;
    }
    return best;
}

/* Operations per second of a large product through the backend. */
static double product_rate(struct ops *o)
{
    const int64_t count = (int64_t)SIDE * SIDE;
    struct tensor t[3];
    double best = 0;
    for (int i = 0; i < 3; i++) {
        t[i] = (struct tensor){NULL, DT_BF16, {SIDE, SIDE, 1, 1}};
        t[i].data = o->alloc(o, tensor_bytes(&t[i]), MEM_WORKSPACE, PLACE_DEVICE);
    }
    if (t[0].data && t[1].data && t[2].data) {
        uint16_t *x = random_values(count, 1.0);
        struct weight w = {t[1].data, SIDE, SIDE, DT_BF16, (size_t)count * 2};
        for (int i = 0; i < 2; i++)
            o->copy(o, t[i].data, x, (size_t)count * 2);
        free(x);
        for (int round = 0; round < 6; round++) {
            double s = clock_now();
            for (int i = 0; i < 10; i++)
                o->matmul(o, t[2], t[0], &w, NULL);
            double rate = o->sync(o) < 0 ? 0 : 20.0 * SIDE * (double)count / (clock_now() - s);
            best = round && rate > best ? rate : best;
        }
    }
    for (int i = 0; i < 3; i++)
        if (t[i].data)
            o->free(o, t[i].data);
    return best;
}

static int one(struct ops *o, const char *isa, int64_t n, double limit)
{
    struct rig r;
    int rc = rig_open(&r, o, n);
    double e = INFINITY;
    if (rc == 0) {
        attend(&r);
        rc = o->sync(o);
    }
    if (rc == 0) {
        e = distance(&r);
        printf("attention %lld, %s: off by %.2g of the norm%s", (long long)n, isa, e,
               e < 1e-2 ? "" : " FAILED");
        if (n >= 1024) {
            double rate = 2.0 * HEADS * DIM * (double)n * (double)(n + 1) / time_attend(&r);
            printf(", %.0f TFLOP/s (product %.0f, ratio %.2f)", 1e-12 * rate, 1e-12 * limit, rate / limit);
        }
        printf("\n");
    }
    rig_close(&r);
    return rc < 0 ? rc : !(e < 1e-2);
}

/* Every length by one kind of kernel: how many failed, or -1 where the GPU has none of the kind. */
static int all(const char *isa, int n, char **tokens)
{
    const struct ops_options opt = {.act = DT_BF16, .isa = isa};
    struct ops *o;
    double limit = 0;
    int failed = 0;
    if (ops_open(&o, "cuda", &opt) < 0) {
        printf("%s: %s\n", isa, err_text());
        return -1;
    }
    for (int a = 0; a < n; a++) {
        int64_t length = atoll(tokens[a]);
        if (length >= 1024 && limit <= 0)
            limit = product_rate(o);
        int rc = one(o, isa, length, limit);
        if (rc < 0)
            printf("attention %lld, %s: %s\n", (long long)length, isa, err_text());
        failed += rc != 0;
    }
    ops_close(o);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const isas[] = {"auto", "wgmma"};
    const char *which = argc > 1 && atoll(argv[1]) < 1 ? argv[1] : "both";
    int at = argc > 1 && which == argv[1] ? 2 : 1, failed = 0, done = 0;
    bool both = !strcmp(which, "both");
    if (at >= argc || (!both && strcmp(which, isas[0]) != 0 && strcmp(which, isas[1]) != 0)) {
        printf("usage: %s [auto|wgmma|both] TOKENS...\n", argv[0]);
        return 2;
    }
    for (int a = at; a < argc; a++) {
        if (atoll(argv[a]) < 1) {
            printf("%s is not a number of tokens\n", argv[a]);
            return 2;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);          /* what was found stays, should a kernel hang */
    state = (uint64_t)(clock_now() * 1e9) | 1; /* fresh values every time */
    printf("seed %llu\n", (unsigned long long)state);
    for (int i = 0; i < 2; i++) {
        if (!both && strcmp(which, isas[i]) != 0)
            continue;
        int rc = all(isas[i], argc - at, argv + at);
        failed += rc > 0 ? rc : 0;
        done += rc >= 0 ? argc - at : 0;
    }
    printf("attend: %d of %d failed\n", failed, done);
    return failed || !done;
}

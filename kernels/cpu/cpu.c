/* The fast CPU backend: open, row kernels spread over threads, embedding, rotary table, quantiser, pick. */
#include <assert.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef KVS_X86
#include <cpuid.h>
#endif

#include "base/err.h"
#include "base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/onednn.h"

#define SMALL 16384 /* elements below which starting threads costs more than the work */

char *cpu_scratch(struct cpu *c, size_t bytes_per_thread)
{
    bool ok = host_grow(&c->host, &c->scratch, bytes_per_thread * (size_t)c->ops.threads + 64);
    return ok ? c->scratch.data : NULL;
}

static void cpu_embed(struct ops *o, struct tensor out, const struct tensor *table, const int32_t *ids,
                      float scale)
{
    const struct cpu *c = o->impl;
    int64_t D = table->n[1];
#pragma omp parallel for num_threads(o->threads) if (out.n[0] * D > SMALL)
    for (int64_t t = 0; t < out.n[0]; t++) {
        assert(ids[t] >= 0 && ids[t] < table->n[0]);
        struct tensor row = tensor_rows(table, ids[t], 1);
        c->isa->to_f32((float *)out.data + t * D, row.data, table->dtype, D);
        if (scale != 1.0f)
            c->isa->scale((float *)out.data + t * D, scale, D);
    }
}

static void cpu_rmsnorm(struct ops *o, struct tensor out, struct tensor x, const float *w, float eps,
                        float w_add)
{
    const struct cpu *c = o->impl;
    int64_t D = x.n[1];
#pragma omp parallel for num_threads(o->threads) if (x.n[0] * D > SMALL)
    for (int64_t t = 0; t < x.n[0]; t++)
        c->isa->rmsnorm((float *)out.data + t * D, (const float *)x.data + t * D, w, D, eps, w_add);
}

static void cpu_layernorm(struct ops *o, struct tensor out, struct tensor x, const float *w, const float *b,
                          float eps)
{
    const struct cpu *c = o->impl;
    int64_t D = x.n[1];
#pragma omp parallel for num_threads(o->threads) if (x.n[0] * D > SMALL)
    for (int64_t t = 0; t < x.n[0]; t++)
        c->isa->layernorm((float *)out.data + t * D, (const float *)x.data + t * D, w, b, D, eps);
}

static void cpu_gelu(struct ops *o, struct tensor out, struct tensor x)
{
    const struct cpu *c = o->impl;
    int64_t n = tensor_count(&x);
#pragma omp parallel for num_threads(o->threads) if (n > SMALL)
    for (int64_t i = 0; i < n; i += 4096)
        c->isa->gelu((float *)out.data + i, (const float *)x.data + i, min_i64(4096, n - i));
}

static void cpu_add(struct ops *o, struct tensor x, struct tensor y)
{
    const struct cpu *c = o->impl;
    int64_t n = tensor_count(&x);
#pragma omp parallel for num_threads(o->threads) if (n > SMALL)
    for (int64_t i = 0; i < n; i += 4096)
        c->isa->add((float *)x.data + i, (const float *)y.data + i, min_i64(4096, n - i));
}

static void cpu_swiglu(struct ops *o, struct tensor out, struct tensor gate_up)
{
    const struct cpu *c = o->impl;
    int64_t F = out.n[1];
#pragma omp parallel for num_threads(o->threads) if (out.n[0] * F > SMALL)
    for (int64_t t = 0; t < out.n[0]; t++) {
        const float *g = (const float *)gate_up.data + t * 2 * F;
        c->isa->swiglu((float *)out.data + t * F, g, g + F, F);
    }
}

static void cpu_quant(struct ops *o, const struct quant_args *a, int n)
{
    const struct cpu *c = o->impl;
    for (int i = 0; i < n; i++) {
        int64_t rows = a[i].layout == QUANT_TOKEN ? a[i].src.n[0] : a[i].src.n[0] / a[i].group;
        int64_t size = a[i].src.n[1] * a[i].src.n[2];
        assert(a[i].bits >= 1 && a[i].bits <= 8 && a[i].group * a[i].bits % 8 == 0);
        assert(a[i].group <= QUANT_MAX_GROUP && a[i].src.n[2] <= CPU_MAX_D);
        assert(a[i].layout == QUANT_TOKEN ? a[i].src.n[2] % a[i].group == 0
                                          : a[i].src.n[0] % a[i].group == 0);
#pragma omp parallel for num_threads(o->threads) if (a[i].src.n[0] * size > SMALL)
        for (int64_t r = 0; r < rows; r++)
            c->isa->quant_rows(&a[i], r, 1);
    }
}

/* ------------------------------------------------------------------ rotary positions */

/* The cache for this backend: 4096 positions, found by pos % 4096. Angles are the same in every layer. */
static struct rope_cache *rope_table(struct cpu *c, const struct rope *r)
{
    size_t half = (size_t)(r->n_rot / 2);
    for (int i = 0; i < ROPE_CACHES; i++) {
        struct rope_cache *t = &c->rope[i];
        if (t->pos && t->n_rot == r->n_rot && t->mscale == r->mscale &&
            memcmp(t->inv_freq, r->inv_freq, half * sizeof(float)) == 0)
            return t;
    }
    struct rope_cache *t = &c->rope[c->rope_next++ % ROPE_CACHES];
    free(t->inv_freq);
    free(t->cs);
    free(t->pos);
    t->n_rot = r->n_rot;
    t->mscale = r->mscale;
    t->inv_freq = mem_dup(r->inv_freq, half * sizeof(float));
    t->cs = mem_alloc(ROPE_SLOTS * 2 * half, sizeof(float));
    t->pos = mem_alloc(ROPE_SLOTS, sizeof *t->pos);
    memset(t->pos, 0xff, ROPE_SLOTS * sizeof *t->pos);
    return t;
}

void cpu_rope_free(struct cpu *c)
{
    for (int i = 0; i < ROPE_CACHES; i++) {
        free(c->rope[i].inv_freq);
        free(c->rope[i].cs);
        free(c->rope[i].pos);
    }
}

static const float *rope_angles(struct rope_cache *t, int64_t pos)
{
    int64_t half = t->n_rot / 2, slot = pos & (ROPE_SLOTS - 1);
    float *cs = t->cs + slot * 2 * half;
    if (t->pos[slot] == pos)
        return cs;
    for (int64_t i = 0; i < half; i++) {
        float angle = (float)pos * t->inv_freq[i];
        cs[i] = cosf(angle) * t->mscale;
        cs[half + i] = sinf(angle) * t->mscale;
    }
    t->pos[slot] = pos;
    return cs;
}

static void rope_row(const struct cpu *c, const struct rope_args *a, int64_t t, const float *cs)
{
    int64_t H = a->src.n[1], d = a->src.n[2];
    bool plain = a->src.dtype == DT_F32 && a->dst.dtype == DT_F32;
    float buf[CPU_MAX_D];
    for (int64_t h = 0; h < H; h++) {
        size_t at = (size_t)((t * H + h) * d);
        char *dst = (char *)a->dst.data + at * dtype_bytes(a->dst.dtype);
        const char *src = (const char *)a->src.data + at * dtype_bytes(a->src.dtype);
        float *x = plain ? (float *)(void *)dst : buf;
        if (src != (const char *)x)
            c->isa->to_f32(x, src, a->src.dtype, d);
        if (cs)
            c->isa->rope(x, cs, a->rope->n_rot);
        if (!plain)
            c->isa->from_f32(dst, a->dst.dtype, x, d);
    }
}

void cpu_rope(struct ops *o, const struct rope_args *args, int n)
{
    struct cpu *c = o->impl;
    for (int i = 0; i < n; i++) {
        const struct rope_args *a = &args[i];
        assert(a->src.n[2] <= CPU_MAX_D);
        struct rope_cache *table = a->rope ? rope_table(c, a->rope) : NULL;
        const float *fixed = table && a->fixed >= 0 ? rope_angles(table, a->fixed) : NULL;
        bool big = a->src.n[0] * a->src.n[1] * a->src.n[2] > SMALL;
        /* Positions of one stretch of 4096 rows have slots of their own, so rows may fill them at once. */
        for (int64_t t0 = 0; t0 < a->src.n[0]; t0 += ROPE_SLOTS) {
            int64_t end = min_i64(t0 + ROPE_SLOTS, a->src.n[0]);
#pragma omp parallel for num_threads(o->threads) if (big)
            for (int64_t t = t0; t < end; t++)
                rope_row(c, a, t, !table ? NULL : fixed ? fixed : rope_angles(table, a->pos + t));
        }
    }
}

/* ------------------------------------------------------------------ best logits */

static void pick_row(const struct cpu *c, const struct pick_args *a, int64_t t)
{
    int64_t V = a->logits.n[1];
    const float *x = (const float *)a->logits.data + t * V;
    float max;
    bool finite;
    double sum = c->isa->logits(x, V, &max, &finite);
    int32_t best = 0;
    while (best < V - 1 && x[best] != max)
        best++;
    a->best[t] = best < V && x[best] == max ? best : 0;
    a->logsumexp[t] = (float)((double)max + log(sum));
    a->finite[t] = finite;
    int32_t K = a->n_top, *id = a->top_id + t * K;
    float *top = a->top_logit + t * K;
    for (int32_t i = 0; K && i < V; i++)
        if (i < K || !(x[i] <= top[K - 1]))
            host_pick_insert(id, top, K, i, x[i]);
}

static void cpu_pick(struct ops *o, const struct pick_args *a)
{
    const struct cpu *c = o->impl;
    assert(a->n_top <= a->logits.n[1]);
#pragma omp parallel for num_threads(o->threads) schedule(dynamic) if (a->logits.n[0] > 1)
    for (int64_t t = 0; t < a->logits.n[0]; t++)
        pick_row(c, a, t);
}

/* ------------------------------------------------------------------ opening */

static void cpu_trim(struct ops *o)
{
    struct cpu *c = o->impl;
    host_drop(&c->host, &c->x);
    host_drop(&c->host, &c->scratch);
    host_drop(&c->host, &c->items);
    host_drop(&c->host, &c->partial);
    host_drop(&c->host, &c->lse);
    host_drop(&c->host, &c->attn_scores_q);
}

static void cpu_close(struct ops *o)
{
    struct cpu *c = o->impl;
    dn_close(c->dn);
    cpu_rope_free(c);
    cpu_trim(o);
    free(c);
}

#ifdef KVS_X86
/* Conversions of f16 in vector registers; clang's __builtin_cpu_supports does not know their name. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

static int choose_isa(struct cpu *c, const char *want)
{
    /* "auto" is everything; "avx512" leaves out AMX. */
    bool any = !want || !*want || strcmp(want, "auto") == 0, wide = any || strcmp(want, "avx512") == 0;
    bool mid = wide || (want && strcmp(want, "avx2") == 0);
    if (!mid && strcmp(want, "portable") != 0)
        return err_set(ERR_INPUT, "unknown instruction set '%s' (allowed: auto, avx512, avx2, portable)",
                       want);
    c->isa = &isa_portable;
    snprintf(c->ops.isa, sizeof c->ops.isa, "portable");
#ifdef KVS_X86
    __builtin_cpu_init();
    if (mid && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
        c->isa = &isa_avx2;
        snprintf(c->ops.isa, sizeof c->ops.isa, "avx2");
    }
    if (wide && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        c->isa = &isa_avx512;
        c->bf16 = __builtin_cpu_supports("avx512bf16");
        c->amx = c->bf16 && any && cpu_amx_ok();
        snprintf(c->ops.isa, sizeof c->ops.isa, "avx512%s%s", c->bf16 ? "+bf16" : "", c->amx ? "+amx" : "");
    }
#endif
    return 0;
}

int ops_open_cpu(struct ops **o, const struct ops_options *opt)
{
    struct cpu *c = mem_alloc(1, sizeof *c);
    host_init(&c->host);
    c->ops = (struct ops){
        .name = "cpu",
        .libraries = "none",
        .threads = ops_threads(opt->threads),
        .on_host = true,
        .impl = c,
        .close = cpu_close,
        .trim = cpu_trim,
        .pack_bytes = cpu_pack_bytes,
        .pack = cpu_pack,
        .matmul = cpu_matmul,
        .embed = cpu_embed,
        .rmsnorm = cpu_rmsnorm,
        .add = cpu_add,
        .swiglu = cpu_swiglu,
        .project = cpu_project,
        .matmul_add = cpu_matmul_add,
        .mlp = cpu_mlp,
        .rope = cpu_rope,
        .attend = cpu_attend,
        .quant = cpu_quant,
        .select = cpu_select,
        .gather = cpu_gather,
        .mean = cpu_mean,
        .dots = cpu_dots,
        .norms = cpu_norms,
        .pick = cpu_pick,
        .layernorm = cpu_layernorm,
        .gelu = cpu_gelu,
    };
    cpu_mix_table(&c->ops);
    host_backend(&c->ops);
    int rc = choose_isa(c, opt->isa);
    if (rc < 0) {
        cpu_close(&c->ops);
        return rc;
    }
    /* oneDNN chooses its own instruction set: the portable backend goes without it. */
    if (c->isa != &isa_portable)
        c->dn = dn_open(c->amx ? "auto" : c->isa->name, c->ops.threads, c->ops.libraries,
                        sizeof c->ops.libraries);
    *o = &c->ops;
    return 0;
}

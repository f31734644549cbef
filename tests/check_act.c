/* Backends with 16-bit activations: every entry that reads or writes activations, against the plain loops on
 * the same rounded values. Bounds are those of one rounding of the result, or of products with 16-bit
 * factors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "check_rig.h"

static double one_rounding(enum dtype t)
{
    return t == DT_F16 ? 6e-4 : 4.5e-3;
}

/* The same values in f32, for the reference. */
static struct buf widened(struct ops *ref, const struct buf *b, enum dtype t)
{
    int64_t n = (int64_t)(b->bytes / dtype_bytes(t));
    struct buf w = buf_new(ref, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        ((float *)buf_data(&w))[i] = host_get(buf_data(b), t, i);
    return w;
}

/* Compares act values with f32 ones. */
static void same(const char *what, const char *text, enum dtype t, const struct buf *got,
                 const struct buf *want, double tol)
{
    rig_wait();
    struct buf wide = widened(got->o, got, t);
    compare(what, text, DT_F32, &wide, want, tol);
    buf_free(&wide);
}

static void act_rows(struct ops *o, struct ops *ref, enum dtype t, int64_t T, int64_t D)
{
    char text[60];
    snprintf(text, sizeof text, "%s T=%lld D=%lld", dtype_name(t), (long long)T, (long long)D);
    struct buf x = buf_random(ref, t, T * 2 * D), w = buf_random(ref, DT_F32, D),
               b = buf_random(ref, DT_F32, D);
    struct buf wide = widened(ref, &x, t), table_ = buf_random(ref, t, 40 * D);
    struct buf got = buf_new(o, (size_t)(T * D) * 2), want = buf_new(ref, (size_t)(T * D) * 4);
    struct tensor g = view(&got, t, T, D, 1), r = view(&want, DT_F32, T, D, 1), xv = view(&x, t, T, D, 1),
                  xw = view(&wide, DT_F32, T, D, 1), e = view(&table_, t, 40, D, 1);
    o->rmsnorm(o, g, xv, buf_data(&w), 1e-5f, 0);
    ref->rmsnorm(ref, r, xw, buf_data(&w), 1e-5f, 0);
    same("rmsnorm", text, t, &got, &want, one_rounding(t));
    o->layernorm(o, g, xv, buf_data(&w), buf_data(&b), 1e-5f);
    ref->layernorm(ref, r, xw, buf_data(&w), buf_data(&b), 1e-5f);
    same("layernorm", text, t, &got, &want, one_rounding(t));
    o->gelu(o, g, xv);
    ref->gelu(ref, r, xw);
    same("gelu", text, t, &got, &want, one_rounding(t));
    o->swiglu(o, g, view(&x, t, T, 2 * D, 1));
    ref->swiglu(ref, r, view(&wide, DT_F32, T, 2 * D, 1));
    same("swiglu", text, t, &got, &want, one_rounding(t));
    int32_t ids[64];
    for (int64_t i = 0; i < T; i++)
        ids[i] = (int32_t)rng_int(0, 39);
    o->embed(o, g, &e, ids, 1.5f);
    ref->embed(ref, r, &e, ids, 1.5f);
    same("embed", text, t, &got, &want, one_rounding(t));
    o->add(o, g, xv);
    ref->add(ref, r, xw);
    same("add", text, t, &got, &want, 2 * one_rounding(t));
    struct buf *all[] = {&x, &w, &b, &wide, &table_, &got, &want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_free(all[i]);
}

static void act_matmul(struct ops *o, struct ops *ref, enum dtype t, enum dtype wt, enum dtype to, int64_t M,
                       int64_t K, int64_t N, bool bias)
{
    struct buf src = buf_random(ref, wt, N * K), x = buf_random(ref, t, M * K),
               b = buf_random(ref, DT_F32, N);
    struct buf wide = widened(ref, &x, t);
    struct buf got = buf_new(o, (size_t)(M * N) * dtype_bytes(to)), want = buf_new(ref, (size_t)(M * N) * 4);
    struct tensor s = view(&src, wt, N, K, 1);
    struct weight w[2];
    struct ops *both[2] = {o, ref};
    for (int i = 0; i < 2; i++) {
        w[i] = rig_pack(both[i], &s, wt);
    }
    o->matmul(o, view(&got, to, M, N, 1), view(&x, t, M, K, 1), &w[0], bias ? buf_data(&b) : NULL);
    ref->matmul(ref, view(&want, DT_F32, M, N, 1), view(&wide, DT_F32, M, K, 1), &w[1],
                bias ? buf_data(&b) : NULL);
    char text[120];
    snprintf(text, sizeof text, "%s x %s to %s M=%lld K=%lld N=%lld%s", dtype_name(t), dtype_name(wt),
             dtype_name(to), (long long)M, (long long)K, (long long)N, bias ? " bias" : "");
    double cut = t == wt ? 1e-6 : one_rounding(wt), end = to == DT_F32 ? 0 : one_rounding(to);
    same("matmul", text, to, &got, &want, 2 * cut * sqrt((double)K) + end);
    o->free(o, w[0].packed);
    ref->free(ref, w[1].packed);
    struct buf *all[] = {&src, &x, &b, &wide, &got, &want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_free(all[i]);
}

/* What follows a product of many rows: outputs apart, and the residual. */
static void act_many(struct ops *o, struct ops *ref, enum dtype t, int64_t T)
{
    const int64_t D = 40, n[3] = {32, 8, 16}, N = 56;
    struct buf x = buf_random(ref, t, T * D), wide = widened(ref, &x, t), norm = buf_random(ref, DT_F32, D),
               src = buf_random(ref, t, N * D), sum = buf_random(ref, t, T * N), sums = widened(ref, &sum, t);
    struct buf got = buf_new(o, (size_t)(T * N) * 2), want = buf_new(ref, (size_t)(T * N) * 4);
    struct buf room[2] = {buf_new(o, (size_t)(T * (D + N)) * 2), buf_new(ref, (size_t)(T * (D + N)) * 4)};
    struct ops *both[2] = {o, ref};
    struct weight w[2];
    ops_set_act(o, t); /* sizes of rows follow from it */
    for (int i = 0; i < 2; i++) {
        struct tensor s = view(&src, t, N, D, 1);
        enum dtype act = i ? DT_F32 : t;
        w[i] = rig_pack(both[i], &s, t);
        struct project_args a = {.x = view(i ? &wide : &x, act, T, D, 1),
                                 .norm = buf_data(&norm),
                                 .eps = 1e-5f,
                                 .w = &w[i],
                                 .n_out = 3,
                                 .h = view(&room[i], act, T, D, 1)};
        a.wide = (struct tensor){(char *)a.h.data + tensor_bytes(&a.h), act, {T, N, 1, 1}};
        char *at = buf_data(i ? &want : &got);
        for (int k = 0; k < 3; k++) {
            a.out[k] = (struct tensor){at, act, {T, n[k], 1, 1}};
            at += tensor_bytes(&a.out[k]);
        }
        both[i]->project(both[i], &a);
        both[i]->matmul_add(both[i], view(i ? &sums : &sum, act, T, N, 1), view(i ? &wide : &x, act, T, D, 1),
                            &w[i], NULL, a.wide);
    }
    ops_set_act(o, DT_F32);
    char text[60];
    snprintf(text, sizeof text, "%s T=%lld", dtype_name(t), (long long)T);
    double tol = (2 * sqrt((double)D) + 2) * one_rounding(t);
    same("project", text, t, &got, &want, tol);
    same("matmul_add", text, t, &sum, &sums, 3 * one_rounding(t));
    for (int i = 0; i < 2; i++)
        both[i]->free(both[i], w[i].packed);
    struct buf *all[] = {&x, &wide, &norm, &src, &sum, &sums, &got, &want, &room[0], &room[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_free(all[i]);
}

/* Attention with 16-bit queries and output over a cache; two sets (near and far keys) where `two`. */
static void act_attend(struct ops *o, struct ops *ref, enum dtype t, enum cache kind, int64_t T, int64_t N,
                       int64_t Hk, int64_t g, int64_t d, bool two)
{
    struct attend_args a[2] = {{.n_set = two ? 2 : 1, .n_kv_head = (int32_t)Hk, .q_pos = N - T}};
    struct owned_set own[2];
    struct buf q[2], wide[2];
    int64_t H = Hk * g;
    memset(a[0].set, 0, sizeof a[0].set);
    a[0].scale = 1.5f / sqrtf((float)d);
    for (int s = 0; s < a[0].n_set; s++) {
        make_set(ref, &a[0].set[s], &own[s], kind, T, N, H, Hk, d);
        a[0].set[s].dist_min = s ? N / 3 : 0;
        a[0].set[s].dist_max = two && !s ? N / 3 : ATTEND_FAR;
        q[s] = buf_random(ref, t, T * H * d);
        wide[s] = widened(ref, &q[s], t);
    }
    a[1] = a[0];
    struct buf got = buf_new(o, (size_t)(T * H * d) * dtype_bytes(t)),
               want = buf_new(ref, (size_t)(T * H * d) * 4);
    for (int s = 0; s < a[0].n_set; s++) {
        a[0].set[s].q = view(&q[s], t, T, H, d);
        a[1].set[s].q = view(&wide[s], DT_F32, T, H, d);
    }
    a[0].out = view(&got, t, T, H, d);
    a[1].out = view(&want, DT_F32, T, H, d);
    o->attend(o, &a[0], 1);
    ref->attend(ref, &a[1], 1);
    char text[120];
    snprintf(text, sizeof text, "%s over %s T=%lld N=%lld Hk=%lld g=%lld d=%lld%s", dtype_name(t),
             cache_names[kind], (long long)T, (long long)N, (long long)Hk, (long long)g, (long long)d,
             two ? " two sets" : "");
    same("attend", text, t, &got, &want,
         kind == DENSE_F32 ? one_rounding(t) : attend_tol(kind, T) + one_rounding(t));
    buf_free(&got);
    buf_free(&want);
    for (int s = 0; s < a[0].n_set; s++) {
        free_set(&own[s]);
        buf_free(&q[s]);
        buf_free(&wide[s]);
    }
}

/* One prompt over dense keys as every method hands them over: windows, sinks before a gap of `gap` positions,
 * two sets of their own queries. */
struct prompt_case {
    int64_t T, N, Hk, g, d, window, gap; /* window 0: none */
    bool two;
};

static void widen_gap(struct attend_set *s, int64_t gap)
{
    for (int i = 0; i < ATTEND_RUNS; i++) {
        s->k[i].pos += i ? gap : 0;
        s->v[i].pos += i ? gap : 0;
    }
}

static void act_prompt(struct ops *o, struct ops *ref, enum dtype t, const struct prompt_case *p)
{
    struct attend_args a[2] = {{.n_set = p->two ? 2 : 1, .n_kv_head = (int32_t)p->Hk}};
    struct owned_set own[2];
    struct buf q[2], wide[2];
    int64_t H = p->Hk * p->g, n = p->T * H * p->d;
    memset(a[0].set, 0, sizeof a[0].set);
    a[0].scale = 3.0f / sqrtf((float)p->d);
    a[0].q_pos = p->N + p->gap - p->T;
    for (int s = 0; s < a[0].n_set; s++) {
        make_set(ref, &a[0].set[s], &own[s], t == DT_F16 ? DENSE_F16 : DENSE_BF16, p->T, p->N, H, p->Hk,
                 p->d);
        if (p->gap)
            widen_gap(&a[0].set[s], p->gap);
        a[0].set[s].dist_min = s ? p->window : 0;
        a[0].set[s].dist_max = s || !p->window ? ATTEND_FAR : p->window;
        q[s] = buf_random(ref, t, n);
        wide[s] = widened(ref, &q[s], t);
    }
    a[1] = a[0];
    struct buf got = buf_new(o, (size_t)n * dtype_bytes(t)), want = buf_new(ref, (size_t)n * 4);
    for (int s = 0; s < a[0].n_set; s++) {
        a[0].set[s].q = view(&q[s], t, p->T, H, p->d);
        a[1].set[s].q = view(&wide[s], DT_F32, p->T, H, p->d);
    }
    a[0].out = view(&got, t, p->T, H, p->d);
    a[1].out = view(&want, DT_F32, p->T, H, p->d);
    o->attend(o, &a[0], 1);
    ref->attend(ref, &a[1], 1);
    char text[120];
    snprintf(text, sizeof text, "%s prompt T=%lld N=%lld Hk=%lld g=%lld d=%lld window=%lld gap=%lld%s",
             dtype_name(t), (long long)p->T, (long long)p->N, (long long)p->Hk, (long long)p->g,
             (long long)p->d, (long long)p->window, (long long)p->gap, p->two ? " two sets" : "");
    same("attend", text, t, &got, &want, 2e-2);
    buf_free(&got);
    buf_free(&want);
    for (int s = 0; s < a[0].n_set; s++) {
        free_set(&own[s]);
        buf_free(&q[s]);
        buf_free(&wide[s]);
    }
}

void test_prompts(struct ops *o, struct ops *ref)
{
    static const struct prompt_case cases[] = {
        {64, 64, 1, 1, 64, 0, 0, false},     {63, 127, 1, 2, 128, 0, 0, false},
        {65, 65, 2, 1, 128, 0, 0, false},    {128, 128, 1, 1, 64, 0, 0, false},
        {129, 193, 1, 1, 128, 0, 0, false},  {33, 256, 1, 4, 64, 40, 0, false},
        {20, 257, 1, 7, 128, 64, 0, false},  {70, 130, 1, 2, 64, 65, 0, true},
        {50, 190, 2, 3, 128, 100, 0, true},  {40, 150, 1, 3, 64, 0, 777, false},
        {66, 200, 1, 1, 128, 300, 90, true}, {64, 90, 1, 1, 64, 1, 5, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        act_prompt(o, ref, i % 3 == 1 ? DT_F16 : DT_BF16, &cases[i]);
}

/* Rotation where whole vectors may be taken, in place and into a cache. */
static void act_rope(struct ops *o, struct ops *ref, enum dtype t, int32_t n_rot, int64_t d, bool in_place)
{
    int64_t T = rng_int(1, 9), H = rng_int(1, 5), n = T * H * d;
    struct buf x = buf_random(ref, t, n), wide = widened(ref, &x, t), freq = buf_random(ref, DT_F32, n_rot);
    struct buf got = buf_new(o, (size_t)n * 2), want = buf_new(ref, (size_t)n * 4);
    struct rope r = {n_rot, 1.25f, buf_data(&freq)};
    struct rope_args a = {.src = view(&x, t, T, H, d), .rope = n_rot ? &r : NULL, .pos = 3, .fixed = -1},
                     b = a;
    a.dst = in_place ? a.src : view(&got, t, T, H, d);
    b.src = view(&wide, DT_F32, T, H, d);
    b.dst = view(&want, DT_F32, T, H, d);
    o->rope(o, &a, 1);
    ref->rope(ref, &b, 1);
    char text[60];
    snprintf(text, sizeof text, "%s n_rot=%d d=%lld", dtype_name(t), n_rot, (long long)d);
    same("rope", text, t, in_place ? &x : &got, &want, 2 * one_rounding(t));
    struct buf *all[] = {&x, &wide, &freq, &got, &want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_free(all[i]);
}

/* Entries that do several steps in one give the bits of the steps, whatever a backend makes of them: rounding
 * on the way is part of the meaning. */
static struct weight act_weight(struct ops *o, struct ops *ref, enum dtype t, int64_t N, int64_t K)
{
    struct buf src = buf_random(ref, t, N * K);
    struct tensor s = view(&src, t, N, K, 1);
    struct weight w = rig_pack(o, &s, t);
    rig_wait();
    buf_free(&src);
    return w;
}

static void act_equal(const char *what, const char *text, const struct buf *got, const struct buf *want)
{
    rig_wait();
    check(memcmp(buf_data(got), buf_data(want), got->bytes) == 0, what, text);
}

static void act_fused(struct ops *o, struct ops *ref, enum dtype t, int64_t T, int64_t D, int64_t F)
{
    char text[80];
    snprintf(text, sizeof text, "%s T=%lld D=%lld F=%lld", dtype_name(t), (long long)T, (long long)D,
             (long long)F);
    const int64_t n[3] = {F, 16, D}, N = n[0] + n[1] + n[2];
    struct buf x = buf_random(ref, t, T * D), y = buf_random(ref, t, T * F), w = buf_random(ref, DT_F32, D),
               b = buf_random(ref, DT_F32, N);
    struct buf got = buf_new(o, (size_t)(T * N) * 2), want = buf_new(o, (size_t)(T * N) * 2);
    struct buf room[] = {buf_new(o, (size_t)(T * D) * 2), buf_new(o, (size_t)(T * (N + 2 * F)) * 2),
                         buf_new(o, (size_t)(T * F) * 2)};
    struct weight all = act_weight(o, ref, t, N, D), up = act_weight(o, ref, t, 2 * F, D),
                  down = act_weight(o, ref, t, D, F);
    struct tensor h = view(&room[0], t, T, D, 1);
    ops_set_act(o, t); /* the steps' own copies go by it */
    for (int side = 0; side < 2; side++) {
        struct project_args a = {.x = view(&x, t, T, D, 1),
                                 .norm = buf_data(&w),
                                 .eps = 1e-5f,
                                 .w = &all,
                                 .bias = T % 2 ? buf_data(&b) : NULL,
                                 .n_out = 3,
                                 .h = h,
                                 .wide = view(&room[1], t, T, N, 1)};
        char *at = buf_data(side ? &want : &got);
        for (int i = 0; i < 3; at += T * n[i++] * 2)
            a.out[i] = (struct tensor){at, t, {T, n[i], 1, 1}};
        (side ? ops_project : o->project)(o, &a);
    }
    act_equal("project", text, &got, &want);
    struct buf sum[2];
    for (int side = 0; side < 2; side++) {
        sum[side] = buf_new(o, (size_t)(T * D) * 2);
        o->copy(o, buf_data(&sum[side]), buf_data(&x), sum[side].bytes);
        (side ? ops_matmul_add : o->matmul_add)(o, view(&sum[side], t, T, D, 1), view(&y, t, T, F, 1), &down,
                                                T % 2 ? buf_data(&b) : NULL, h);
    }
    act_equal("matmul_add", text, &sum[0], &sum[1]);
    for (int side = 0; side < 2; side++)
        (side ? ops_mlp : o->mlp)(o, &(struct mlp_args){.x = view(&sum[side], t, T, D, 1),
                                                        .norm = buf_data(&w),
                                                        .eps = 1e-5f,
                                                        .gate_up = &up,
                                                        .down = &down,
                                                        .h = h,
                                                        .wide = view(&room[1], t, T, 2 * F, 1),
                                                        .mid = view(&room[2], t, T, F, 1)});
    act_equal("mlp", text, &sum[0], &sum[1]);
    ops_set_act(o, DT_F32);
    struct weight *weights[] = {&all, &up, &down};
    for (int i = 0; i < 3; i++)
        o->free(o, weights[i]->packed);
    struct buf *bufs[] = {&x, &y, &w, &b, &got, &want, &room[0], &room[1], &room[2], &sum[0], &sum[1]};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        buf_free(bufs[i]);
}

void test_act(struct ops *o, struct ops *ref)
{
    for (int t = DT_F16; t <= DT_BF16; t++) {
        enum dtype act = (enum dtype)t;
        for (int i = 0; i < 6; i++)
            act_rows(o, ref, act, rng_int(1, 40), i % 2 ? 8 * rng_int(1, 300) : rng_int(1, 600));
        for (int i = 0; i < 6; i++)
            act_rope(o, ref, act, i / 2 * 32, i < 2 ? 64 : 32 * rng_int(i / 2, 4), i % 2);
        ops_set_act(o, act);
        test_mix(o, ref, act);
        ops_set_act(o, DT_F32);
        act_many(o, ref, act, 300);
        act_many(o, ref, act, 2048);
        for (int wt = DT_F32; wt <= DT_BF16; wt++)
            for (int to = 0; to < 2; to++)
                for (int bias = 0; bias < 2; bias++)
                    act_matmul(o, ref, act, (enum dtype)wt, to ? act : DT_F32, rng_int(1, 40),
                               8 * rng_int(1, 20), 8 * rng_int(1, 30), bias);
        static const int64_t few[] = {1, 2, 8, 9, 16, 20, 32, 33};
        for (size_t i = 0; i < sizeof few / sizeof *few; i++)
            act_fused(o, ref, act, few[i], 8 * rng_int(1, 20), 8 * rng_int(1, 20));
        for (int kind = 0; kind < CACHE_N; kind++) {
            for (int two = 0; two < 2; two++) {
                act_attend(o, ref, act, (enum cache)kind, 1, rng_int(1, 300), 2, 4, 64, two);
                act_attend(o, ref, act, (enum cache)kind, rng_int(2, 90), rng_int(90, 200), 1, 3,
                           32 * rng_int(1, 4), two);
            }
        }
    }
    test_prompts(o, ref);
}

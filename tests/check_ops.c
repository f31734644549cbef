/* Holds every kernel table against ops_ref: random sizes, guard bytes around every output, error bounds by
 * dtype, quantised codes bit for bit, equal bits for every number of threads. check_ops [--bench | cuda |
 * cuda-wait | cuda-wgmma]: --bench prints GB/s and TFLOP/s; cuda checks the module libkvs_cuda.so on the card
 * (or the shim) that it finds, -wait after every kernel, -wgmma only what the warpgroup kernels do. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "check_rig.h"
#include "kernels/bench.h"

/* ------------------------------------------------------------------ products and row kernels */

static struct weight pack(struct ops *o, const struct tensor *src, int64_t n_out, int64_t n_in, enum dtype t)
{
    struct weight w = {.n_out = n_out, .n_in = n_in, .dtype = t, .bytes = o->pack_bytes(o, n_out, n_in, t)};
    w.packed = o->alloc(o, w.bytes, MEM_WEIGHTS, PLACE_DEVICE);
    o->pack(o, &w, src);
    return w;
}

static void test_matmul_shape(struct ops *o, struct ops *ref, int64_t M, int64_t K, int64_t N, enum dtype t,
                              bool bias)
{
    enum dtype st = (enum dtype)rng_int(DT_F32, DT_BF16);
    struct buf src = buf_random(ref, st, N * K), x = buf_random(ref, DT_F32, M * K),
               b = buf_random(ref, DT_F32, N);
    struct buf got = buf_new(o, (size_t)(M * N) * 4), want = buf_new(ref, (size_t)(M * N) * 4);
    struct tensor s = view(&src, st, N, K, 1), xv = view(&x, DT_F32, M, K, 1);
    struct weight a = pack(o, &s, N, K, t), r = pack(ref, &s, N, K, t);
    o->matmul(o, view(&got, DT_F32, M, N, 1), xv, &a, bias ? buf_data(&b) : NULL);
    ref->matmul(ref, view(&want, DT_F32, M, N, 1), xv, &r, bias ? buf_data(&b) : NULL);
    char text[100];
    snprintf(text, sizeof text, "M=%lld K=%lld N=%lld %s from %s%s", (long long)M, (long long)K, (long long)N,
             dtype_name(t), dtype_name(st), bias ? " bias" : "");
    bool cut = rig_half && t == DT_F16; /* the reference keeps x in f32 */
    compare("matmul", text, DT_F32, &got, &want, (cut ? 1e-3 : 3e-7) * sqrt((double)K) * 6);
    o->free(o, a.packed);
    ref->free(ref, r.packed);
    struct buf *all[] = {&src, &x, &b, &got, &want};
    for (size_t i = 0; i < 5; i++)
        buf_free(all[i]);
}

static void test_matmul(struct ops *o, struct ops *ref)
{
    static const int64_t rows[] = {1, 2, 3, 5, 6, 7, 15, 16, 17, 33, 64, 100, 300};
    for (int t = DT_F32; t <= DT_BF16; t++) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            test_matmul_shape(o, ref, rows[i], rng_int(1, 160), rng_int(1, 300), (enum dtype)t, i % 2);
        test_matmul_shape(o, ref, 21, 576, 192, (enum dtype)t, false);
        test_matmul_shape(o, ref, 272, 64, 1088, (enum dtype)t, true);
        test_matmul_shape(o, ref, 1, 1536, 576, (enum dtype)t, false);
        static const int64_t few[] = {1, 2, 4, 5, 8, 9, 16, 17, 20, 32};
        for (size_t i = 0; i < sizeof few / sizeof *few; i++)
            test_matmul_shape(o, ref, few[i], 8 * rng_int(1, 300), rng_int(1, 100), (enum dtype)t, i % 2);
        test_matmul_shape(o, ref, 4101, 3, 5, (enum dtype)t, true);
    }
}

static void test_rows_shape(struct ops *o, struct ops *ref, int64_t T, int64_t D)
{
    char text[60];
    snprintf(text, sizeof text, "T=%lld D=%lld", (long long)T, (long long)D);
    struct buf x = buf_random(ref, DT_F32, T * 2 * D), w = buf_random(ref, DT_F32, D),
               b = buf_random(ref, DT_F32, D);
    struct buf got = buf_new(o, (size_t)(T * D) * 4), want = buf_new(ref, (size_t)(T * D) * 4);
    struct tensor g = view(&got, DT_F32, T, D, 1), r = view(&want, DT_F32, T, D, 1),
                  xv = view(&x, DT_F32, T, D, 1);
    float w_add = (float)(rng() & 1);
    o->rmsnorm(o, g, xv, buf_data(&w), 1e-5f, w_add);
    ref->rmsnorm(ref, r, xv, buf_data(&w), 1e-5f, w_add);
    compare("rmsnorm", text, DT_F32, &got, &want, 2e-6);
    o->layernorm(o, g, xv, buf_data(&w), buf_data(&b), 1e-5f);
    ref->layernorm(ref, r, xv, buf_data(&w), buf_data(&b), 1e-5f);
    compare("layernorm", text, DT_F32, &got, &want, 5e-6);
    o->add(o, g, xv);
    ref->add(ref, r, xv);
    compare("add", text, DT_F32, &got, &want, 2e-6);
    rig_wait();
    for (int64_t i = 0; i < T * D; i++)
        ((float *)buf_data(&x))[i * 2] *= 12.0f; /* far into both ends of the sigmoid */
    o->gelu(o, g, xv);
    ref->gelu(ref, r, xv);
    compare("gelu", text, DT_F32, &got, &want, 1e-6);
    o->swiglu(o, g, view(&x, DT_F32, T, 2 * D, 1));
    ref->swiglu(ref, r, view(&x, DT_F32, T, 2 * D, 1));
    compare("swiglu", text, DT_F32, &got, &want, 1e-6);
    int32_t *ids = malloc((size_t)T * sizeof *ids);
    for (int t = DT_F32; t <= DT_BF16; t++) {
        struct buf rows = buf_random(ref, (enum dtype)t, 40 * D);
        struct tensor e = view(&rows, (enum dtype)t, 40, D, 1);
        for (int64_t i = 0; i < T; i++)
            ids[i] = (int32_t)rng_int(0, 39);
        o->embed(o, g, &e, ids, t ? 1.0f : 3.5f);
        ref->embed(ref, r, &e, ids, t ? 1.0f : 3.5f);
        compare("embed", text, DT_F32, &got, &want, 0);
        buf_free(&rows);
    }
    free(ids);
    struct buf *all[] = {&x, &w, &b, &got, &want};
    for (size_t i = 0; i < 5; i++)
        buf_free(all[i]);
}

static void test_rows(struct ops *o, struct ops *ref)
{
    for (int i = 0; i < 12; i++)
        test_rows_shape(o, ref, rng_int(1, 40), rng_int(1, 700));
    test_rows_shape(o, ref, 64, 576);
}

/* Entries that do several steps in one equal those, whatever a table makes of them. Where the steps use
 * tiles, the last few rows may be summed in another order. */
static double fused_tol(int64_t T, enum dtype t)
{
    return T % 32 && t == DT_BF16 ? 1e-5 : 0;
}

static void test_project_shape(struct ops *o, struct ops *ref, int64_t T, int64_t D, const int64_t n[3],
                               enum dtype t, bool bias)
{
    int64_t N = n[0] + n[1] + n[2];
    struct buf x = buf_random(ref, DT_F32, T * D), w = buf_random(ref, DT_F32, D),
               b = buf_random(ref, DT_F32, N), src = buf_random(ref, t, N * D);
    struct buf got = buf_new(o, (size_t)(T * N) * 4), want = buf_new(o, (size_t)(T * N) * 4);
    struct buf room[] = {buf_new(o, (size_t)(T * D) * 4), buf_new(o, (size_t)(T * N) * 4)};
    struct tensor sv = view(&src, t, N, D, 1);
    struct weight p = pack(o, &sv, N, D, t);
    struct project_args a = {.x = view(&x, DT_F32, T, D, 1),
                             .norm = buf_data(&w),
                             .eps = 1e-5f,
                             .w = &p,
                             .bias = bias ? buf_data(&b) : NULL,
                             .n_out = 3,
                             .h = view(&room[0], DT_F32, T, D, 1),
                             .wide = view(&room[1], DT_F32, T, N, 1)};
    for (int side = 0; side < 2; side++) {
        float *y = buf_data(side ? &want : &got);
        for (int i = 0; i < 3; y += T * n[i++])
            a.out[i] = (struct tensor){y, DT_F32, {T, n[i], 1, 1}};
        (side ? ops_project : o->project)(o, &a);
    }
    char text[100];
    snprintf(text, sizeof text, "T=%lld D=%lld N=%lld %s%s", (long long)T, (long long)D, (long long)N,
             dtype_name(t), bias ? " bias" : "");
    compare("project", text, DT_F32, &got, &want, fused_tol(T, t));
    o->free(o, p.packed);
    struct buf *all[] = {&x, &w, &b, &src, &got, &want, &room[0], &room[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_free(all[i]);
}

static void test_matmul_add_shape(struct ops *o, struct ops *ref, int64_t T, int64_t K, int64_t N,
                                  enum dtype t)
{
    struct buf x = buf_random(ref, DT_F32, T * N), y = buf_random(ref, DT_F32, T * K),
               b = buf_random(ref, DT_F32, N), src = buf_random(ref, t, N * K);
    struct buf got = buf_new(o, (size_t)(T * N) * 4), want = buf_new(o, (size_t)(T * N) * 4),
               room = buf_new(o, (size_t)(T * N) * 4);
    struct tensor sv = view(&src, t, N, K, 1), yv = view(&y, DT_F32, T, K, 1),
                  h = view(&room, DT_F32, T, N, 1);
    struct weight p = pack(o, &sv, N, K, t);
    const float *bias = T % 2 ? buf_data(&b) : NULL;
    o->copy(o, buf_data(&got), buf_data(&x), (size_t)(T * N) * 4);
    o->copy(o, buf_data(&want), buf_data(&x), (size_t)(T * N) * 4);
    o->matmul_add(o, view(&got, DT_F32, T, N, 1), yv, &p, bias, h);
    ops_matmul_add(o, view(&want, DT_F32, T, N, 1), yv, &p, bias, h);
    char text[80];
    snprintf(text, sizeof text, "T=%lld K=%lld N=%lld %s", (long long)T, (long long)K, (long long)N,
             dtype_name(t));
    compare("matmul_add", text, DT_F32, &got, &want, fused_tol(T, t));
    o->free(o, p.packed);
    struct buf *all[] = {&x, &y, &b, &src, &got, &want, &room};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_free(all[i]);
}

static void test_mlp_shape(struct ops *o, struct ops *ref, int64_t T, int64_t D, int64_t F, enum dtype t)
{
    struct buf x = buf_random(ref, DT_F32, T * D), w = buf_random(ref, DT_F32, D),
               g = buf_random(ref, t, 2 * F * D), d = buf_random(ref, t, D * F);
    struct buf got = buf_new(o, (size_t)(T * D) * 4), want = buf_new(o, (size_t)(T * D) * 4);
    struct buf room[] = {buf_new(o, (size_t)(T * D) * 4), buf_new(o, (size_t)(T * 2 * F) * 4),
                         buf_new(o, (size_t)(T * F) * 4)};
    struct tensor gv = view(&g, t, 2 * F, D, 1), dv = view(&d, t, D, F, 1);
    struct weight gate_up = pack(o, &gv, 2 * F, D, t), down = pack(o, &dv, D, F, t);
    struct mlp_args a = {.x = view(&got, DT_F32, T, D, 1),
                         .norm = buf_data(&w),
                         .eps = 1e-5f,
                         .w_add = (float)(rng() & 1),
                         .gate_up = &gate_up,
                         .down = &down,
                         .h = view(&room[0], DT_F32, T, D, 1),
                         .wide = view(&room[1], DT_F32, T, 2 * F, 1),
                         .mid = view(&room[2], DT_F32, T, F, 1)};
    o->copy(o, a.x.data, buf_data(&x), (size_t)(T * D) * 4);
    o->mlp(o, &a);
    a.x = view(&want, DT_F32, T, D, 1);
    o->copy(o, a.x.data, buf_data(&x), (size_t)(T * D) * 4);
    ops_mlp(o, &a);
    char text[80];
    snprintf(text, sizeof text, "T=%lld D=%lld F=%lld %s", (long long)T, (long long)D, (long long)F,
             dtype_name(t));
    compare("mlp", text, DT_F32, &got, &want, fused_tol(T, t));
    o->free(o, gate_up.packed);
    o->free(o, down.packed);
    struct buf *all[] = {&x, &w, &g, &d, &got, &want, &room[0], &room[1], &room[2]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_free(all[i]);
}

static void test_fused(struct ops *o, struct ops *ref)
{
    static const int64_t rows[] = {1, 31, 32, 33, 70, 300};
    for (int t = DT_F32; t <= DT_BF16; t++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            test_project_shape(o, ref, rows[i], 32 * rng_int(1, 5), (int64_t[]){96, 32, 64}, (enum dtype)t,
                               i % 2);
            test_project_shape(o, ref, rows[i], rng_int(1, 100), (int64_t[]){9, 32, 3}, (enum dtype)t, i % 2);
            test_matmul_add_shape(o, ref, rows[i], 32 * rng_int(1, 5), 32 * rng_int(1, 5), (enum dtype)t);
            test_matmul_add_shape(o, ref, rows[i], rng_int(1, 100), rng_int(1, 100), (enum dtype)t);
            test_mlp_shape(o, ref, rows[i], 32 * rng_int(1, 5), 64 * rng_int(1, 4), (enum dtype)t);
            test_mlp_shape(o, ref, rows[i], rng_int(1, 100), rng_int(1, 100), (enum dtype)t);
        }
    test_mlp_shape(o, ref, 513, 64, 128, DT_BF16);
}

static void test_rope_case(struct ops *o, struct ops *ref, enum dtype from, enum dtype to, bool in_place)
{
    int64_t T = rng_int(1, 70), H = rng_int(1, 5), d = 2 * rng_int(1, 70), n = T * H * d;
    int32_t n_rot = (int32_t)(2 * rng_int(0, d / 2));
    struct buf freq = buf_new(ref, (size_t)(n_rot / 2 + 1) * 4), src = buf_random(ref, from, n);
    for (int i = 0; i < n_rot / 2; i++)
        ((float *)buf_data(&freq))[i] = (float)pow(10000.0, -2.0 * i / n_rot);
    struct rope rope = {n_rot, 1.0f + 0.1f * rng_float(), buf_data(&freq)};
    struct buf got = buf_new(o, (size_t)n * dtype_bytes(to)),
               want = buf_new(ref, (size_t)n * dtype_bytes(to));
    struct rope_args a = {.src = view(&src, from, T, H, d), .dst = view(&got, to, T, H, d), .rope = &rope};
    a.pos = rng_int(0, 40000);
    a.fixed = rng() % 3 ? -1 : rng_int(0, 4000);
    a.rope = rng() % 5 ? &rope : NULL;
    struct rope_args b = a;
    b.dst.data = buf_data(&want);
    if (in_place) {
        memcpy(buf_data(&got), buf_data(&src), src.bytes);
        a.src.data = a.dst.data;
    }
    o->rope(o, &a, 1);
    ref->rope(ref, &b, 1);
    char text[100];
    snprintf(text, sizeof text, "%s to %s, d=%lld n_rot=%d", dtype_name(from), dtype_name(to), (long long)d,
             n_rot);
    compare("rope", text, to, &got, &want, to == DT_F32 ? 2e-6 : to == DT_F16 ? 1e-3 : 8e-3);
    struct buf *all[] = {&freq, &src, &got, &want};
    for (size_t i = 0; i < 4; i++)
        buf_free(all[i]);
}

static void test_rope(struct ops *o, struct ops *ref)
{
    for (int from = DT_F32; from <= DT_BF16; from++)
        for (int to = DT_F32; to <= DT_BF16; to++)
            for (int i = 0; i < 3; i++)
                test_rope_case(o, ref, (enum dtype)from, (enum dtype)to, from == to && i);
}

/* ------------------------------------------------------------------ quantiser */

static void quant_special(struct buf *b, enum dtype t, int64_t n)
{
    static const float odd[] = {0.0f,   -0.0f, 65504.0f, -65504.0f, 1e-7f,
                                -6e-8f, 3e-5f, 1.0f,     70000.0f,  2048.5f};
    for (int64_t i = 0; i < n; i++) {
        uint64_t k = rng() % 40;
        if (i / 512 % 4 == 1)
            host_put(buf_data(b), t, i, 0.375f); /* constant groups */
        else if (i / 512 % 4 == 2)
            host_put(buf_data(b), t, i, (float)rng_int(-3, 3) * 0x1p-24f); /* subnormals and zeros */
        else if (i / 512 % 4 == 3 && k < sizeof odd / sizeof *odd)
            host_put(buf_data(b), t, i, odd[k]);
    }
}

static void test_quant_case(struct ops *o, struct ops *ref, enum quant_layout layout, int32_t bits,
                            int32_t group, enum dtype t, bool inverse)
{
    int64_t H = rng_int(1, 4), d = group * rng_int(1, 4), n = layout == QUANT_TOKEN ? rng_int(1, 60) : 0;
    if (layout == QUANT_CHANNEL) {
        d = rng_int(1, 130);
        n = group * rng_int(1, 4);
    }
    int64_t count = n * H * d;
    struct buf src = buf_random(ref, t, count);
    quant_special(&src, t, count);
    struct buf code[2], scale[2], min[2];
    struct ops *both[2] = {o, ref};
    for (int i = 0; i < 2; i++) {
        code[i] = buf_new(both[i], (size_t)(count * bits / 8));
        scale[i] = buf_new(both[i], (size_t)(count / group) * 2);
        min[i] = buf_new(both[i], (size_t)(count / group) * 2);
        struct quant_args a = {.layout = layout,
                               .bits = bits,
                               .group = group,
                               .src = view(&src, t, n, H, d),
                               .codes = buf_data(&code[i]),
                               .scale = buf_data(&scale[i]),
                               .min = buf_data(&min[i]),
                               .inverse = inverse};
        both[i]->quant(both[i], &a, 1);
    }
    char text[100];
    snprintf(text, sizeof text, "%s bits=%d group=%d %s%s", layout == QUANT_TOKEN ? "token" : "channel", bits,
             group, dtype_name(t), inverse ? " inverse" : "");
    rig_wait();
    check(memcmp(buf_data(&code[0]), buf_data(&code[1]), code[0].bytes) == 0, "quant codes", text);
    check(memcmp(buf_data(&scale[0]), buf_data(&scale[1]), scale[0].bytes) == 0, "quant scales", text);
    check(memcmp(buf_data(&min[0]), buf_data(&min[1]), min[0].bytes) == 0, "quant minima", text);
    digest_add(buf_data(&code[0]), code[0].bytes);
    for (int i = 0; i < 2; i++) {
        buf_free(&code[i]);
        buf_free(&scale[i]);
        buf_free(&min[i]);
    }
    buf_free(&src);
}

static void test_quant(struct ops *o, struct ops *ref)
{
    static const int32_t bits[] = {1, 2, 3, 4, 8}, groups[] = {8, 32, 64, 128};
    for (int layout = QUANT_TOKEN; layout <= QUANT_CHANNEL; layout++)
        for (size_t b = 0; b < 5; b++)
            for (size_t g = 0; g < 4; g++)
                for (int inverse = 0; inverse < 2; inverse++)
                    test_quant_case(o, ref, (enum quant_layout)layout, bits[b], groups[g],
                                    (enum dtype)rng_int(0, 2), inverse);
}

/* ------------------------------------------------------------------ attention */

static void test_attend_case(struct ops *o, struct ops *ref, enum cache kind, int64_t T, int64_t N,
                             int64_t Hk, int64_t g, int64_t d, int mask, int n_seq)
{
    struct attend_args got[4], want[4];
    struct owned_set sets[4][2];
    struct buf out[4], right[4];
    int64_t H = Hk * g;
    int n_set = mask == 2 ? 2 : 1;
    for (int i = 0; i < n_seq; i++) {
        int64_t n = i ? rng_int(T, N) : N;
        struct attend_args a = {.n_set = n_set, .n_kv_head = (int32_t)Hk, .q_pos = n - T};
        memset(a.set, 0, sizeof a.set);
        a.scale = 2.0f / sqrtf((float)d);
        for (int s = 0; s < n_set; s++) {
            make_set(ref, &a.set[s], &sets[i][s], kind, T, n, H, Hk, d);
            a.set[s].dist_max = ATTEND_FAR;
            if (mask == 1)
                a.set[s].dist_max = n / 3 + 1; /* a window */
            if (mask == 2 && s == 0)
                a.set[s].dist_max = n / 4 + 1;
            if (mask == 2 && s == 1)
                a.set[s].dist_min = n / 4 + 1;
        }
        out[i] = buf_new(o, (size_t)(T * H * d) * 4);
        right[i] = buf_new(ref, (size_t)(T * H * d) * 4);
        got[i] = want[i] = a;
        got[i].out = view(&out[i], DT_F32, T, H, d);
        want[i].out = view(&right[i], DT_F32, T, H, d);
    }
    o->attend(o, got, n_seq);
    ref->attend(ref, want, n_seq);
    check(o->sync(o) == 0, "attend", "sync");
    char text[120];
    snprintf(text, sizeof text, "%s T=%lld N=%lld Hk=%lld g=%lld d=%lld mask=%d", cache_names[kind],
             (long long)T, (long long)N, (long long)Hk, (long long)g, (long long)d, mask);
    for (int i = 0; i < n_seq; i++) {
        bool half = kind != DENSE_F32 && (T >= 16 || rig_half); /* bf16 products allowed */
        compare("attend", text, DT_F32, &out[i], &right[i], half ? 2e-2 : 1e-5);
        buf_free(&out[i]);
        buf_free(&right[i]);
        for (int s = 0; s < n_set; s++)
            free_set(&sets[i][s]);
    }
}

static void test_attend(struct ops *o, struct ops *ref)
{
    static const int64_t heads[][2] = {{1, 1}, {2, 3}, {1, 4}, {2, 2}, {1, 7}, {1, 12}};
    for (int kind = 0; kind < CACHE_N; kind++) {
        for (int mask = 0; mask < 3; mask++) {
            for (int i = 0; i < 3; i++) {
                const int64_t *h = heads[rng() % 6];
                int64_t d = 32 * rng_int(1, 4), T = i == 0 ? 1 : i == 1 ? rng_int(2, 20) : rng_int(17, 50);
                test_attend_case(o, ref, (enum cache)kind, T, rng_int(T, 260), h[0], h[1], d, mask,
                                 i ? 1 : 4);
            }
        }
    }
    test_attend_case(o, ref, DENSE_F32, 1, 2500, 2, 3, 64, 0, 2); /* several splits */
    test_attend_case(o, ref, KIVI2, 1, 2500, 2, 3, 64, 0, 2);
    test_attend_case(o, ref, INDEXED, 1, 1500, 1, 3, 64, 1, 2);
    test_attend_case(o, ref, DENSE_F32, 150, 333, 1, 3, 80, 0, 1);
    test_attend_case(o, ref, DENSE_BF16, 150, 333, 1, 3, 80, 0, 1);
    test_attend_case(o, ref, DENSE_F32, 9, 50, 2, 1, 20, 0, 1); /* head dimension of no vector width */
    test_attend_case(o, ref, DENSE_F16, 1, 50, 2, 2, 20, 0, 1);
    test_attend_case(o, ref, DENSE_F16, 40, 50, 2, 2, 20, 0, 1);
}

/* Few rows over long caches: every cache, one to sixteen rows of a group, widths that fill a tile and widths
 * that do not. */
static void test_attend_few(struct ops *o, struct ops *ref)
{
    static const int64_t rows[][2] = {{1, 1}, {1, 4}, {1, 8}, {1, 16}, {2, 4}, {3, 5}, {4, 2}};
    for (int kind = 0; kind < CACHE_N; kind++) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            bool dense = kind <= DENSE_BF16 || kind == INDEXED;
            int64_t d = i == 1 ? 128 : i == 3 ? 64 : dense ? 8 * rng_int(1, 32) : 32 * rng_int(1, 8);
            test_attend_case(o, ref, (enum cache)kind, rows[i][0], rng_int(17, 700), rng_int(1, 2),
                             rows[i][1], d, (int)(i % 3), i ? 1 : 3);
        }
    }
}

/* A row whose mask hides every key gives zeros, NaN goes through. */
static void test_attend_edges(struct ops *o)
{
    for (int64_t T = 1; T <= 33; T += 16) {
        struct buf q = buf_random(o, DT_F32, T * 32), kv = buf_random(o, DT_F32, 40 * 32);
        struct buf out = buf_new(o, (size_t)(T * 32) * 4);
        struct kv_run run = {.layout = QUANT_NONE, .dtype = DT_F32, .data = buf_data(&kv), .n = 40, .pos = 0};
        struct attend_args a = {.n_set = 1, .n_kv_head = 1, .q_pos = 100, .scale = 1.0f};
        a.set[0] = (struct attend_set){.q = view(&q, DT_F32, T, 1, 32), .n_k = 1, .n_v = 1, .dist_max = 10};
        a.set[0].k[0] = a.set[0].v[0] = run;
        a.out = view(&out, DT_F32, T, 1, 32);
        o->attend(o, &a, 1);
        rig_wait();
        bool zero = true, nan = true;
        for (int64_t i = 0; i < T * 32; i++)
            zero = zero && ((float *)buf_data(&out))[i] == 0.0f;
        check(zero, "attend", "a row that sees no key is not zero");
        a.set[0].dist_max = ATTEND_FAR;
        ((float *)buf_data(&q))[3] = NAN;
        o->attend(o, &a, 1);
        rig_wait();
        for (int64_t i = 0; i < 32; i++)
            nan = nan && isnan(((float *)buf_data(&out))[i]);
        check(nan, "attend", "NaN in a query is lost");
        buf_free(&q);
        buf_free(&kv);
        buf_free(&out);
    }
}

/* ------------------------------------------------------------------ pick, memory */

static void test_pick_case(struct ops *o, struct ops *ref, int64_t T, int64_t V, int32_t K, bool ties,
                           bool bad)
{
    struct buf x = buf_random(ref, DT_F32, T * V);
    float *p = buf_data(&x);
    for (int64_t i = 0; i < T * V && ties; i++)
        p[i] = (float)rng_int(-5, 5);
    if (bad)
        p[T * V - 1] = rng() & 1 ? NAN : -INFINITY;
    struct buf id[2], top[2], rest[2];
    struct ops *both[2] = {o, ref};
    for (int i = 0; i < 2; i++) {
        id[i] = buf_new(both[i], (size_t)(T * K) * 4);
        top[i] = buf_new(both[i], (size_t)(T * K) * 4);
        rest[i] = buf_new(both[i], (size_t)T * 9);
        char *r = buf_data(&rest[i]);
        struct pick_args a = {.logits = view(&x, DT_F32, T, V, 1), .n_top = K, .best = (int32_t *)(void *)r};
        a.logsumexp = (float *)(void *)(r + 4 * T);
        a.finite = (uint8_t *)r + 8 * T;
        a.top_id = K ? buf_data(&id[i]) : NULL;
        a.top_logit = K ? buf_data(&top[i]) : NULL;
        both[i]->pick(both[i], &a);
    }
    char *a = buf_data(&rest[0]), *b = buf_data(&rest[1]);
    check(memcmp(a, b, (size_t)T * 4) == 0, "pick", "best");
    check(memcmp(a + 8 * T, b + 8 * T, (size_t)T) == 0, "pick", "finite");
    check(memcmp(buf_data(&id[0]), buf_data(&id[1]), id[0].bytes) == 0, "pick", "top ids");
    check(memcmp(buf_data(&top[0]), buf_data(&top[1]), top[0].bytes) == 0, "pick", "top logits");
    for (int64_t t = 0; t < T; t++) {
        float u = ((float *)(void *)(a + 4 * T))[t], v = ((float *)(void *)(b + 4 * T))[t];
        check(fabsf(u - v) <= 2e-6f * (1 + fabsf(v)) || (isnan(u) && isnan(v)), "pick", "logsumexp");
    }
    digest_add(a, (size_t)T * 9);
    for (int i = 0; i < 2; i++) {
        buf_free(&id[i]);
        buf_free(&top[i]);
        buf_free(&rest[i]);
    }
    buf_free(&x);
}

static void test_pick(struct ops *o, struct ops *ref)
{
    for (int i = 0; i < 10; i++) {
        int64_t V = rng_int(1, 3000);
        test_pick_case(o, ref, rng_int(1, 5), V, (int32_t)rng_int(0, V < 64 ? V : 64), i % 2, i > 6);
    }
    test_pick_case(o, ref, 2, 49152, 64, false, false);
}

static void test_memory(struct ops *o)
{
    size_t before = o->used(o, MEM_CODES, PLACE_DEVICE), host = o->used(o, MEM_CODES, PLACE_HOST);
    o->peak(o, true);
    size_t base = o->peak(o, false);
    unsigned char *p = o->alloc(o, 1000, MEM_CODES, PLACE_DEVICE);
    unsigned char *big = o->alloc(o, (size_t)9 << 20, MEM_CODES, PLACE_HOST);
    check(p && big && (uintptr_t)p % 64 == 0 && (uintptr_t)big % 64 == 0, "alloc", "aligned");
    check(o->used(o, MEM_CODES, PLACE_DEVICE) == before + 1000, "alloc", "counted");
    check(o->used(o, MEM_CODES, PLACE_HOST) == host + ((size_t)9 << 20), "alloc", "counted by place");
    check(o->peak(o, false) == base + 1000, "alloc", "peak counts the device");
    bool zero = true;
    unsigned char seen[1000];
    o->copy(o, seen, p, sizeof seen);
    for (size_t i = 0; i < 1000; i++)
        zero = zero && seen[i] == 0 && big[i * 9000] == 0;
    check(zero, "alloc", "zero-filled");
    ops_fail_alloc(o, 2);
    void *q = o->alloc(o, 10, MEM_INDEX, PLACE_DEVICE);
    check(q && !o->alloc(o, 10, MEM_INDEX, PLACE_DEVICE), "alloc", "the second fails on demand");
    void *r = o->alloc(o, 0, MEM_INDEX, PLACE_DEVICE);
    check(r != NULL, "alloc", "only once; no bytes are fine");
    check(!o->alloc(o, SIZE_MAX / 4, MEM_INDEX, PLACE_DEVICE), "alloc", "too much");
    o->free(o, r);
    o->free(o, q);
    o->free(o, big);
    o->free(o, p);
    o->free(o, NULL);
    check(o->used(o, MEM_CODES, PLACE_DEVICE) == before && o->used(o, MEM_CODES, PLACE_HOST) == host &&
              o->used(o, MEM_INDEX, PLACE_DEVICE) == 0,
          "free", "counted");
    check(o->peak(o, true) >= base + 1000 && o->peak(o, false) == base, "peak", "reset");
}

static void test_half(void)
{
    table = "half";
    bool f16 = true, bf16 = true;
    for (uint32_t i = 0; i < 65536; i++) {
        float a = f16_to_f32((uint16_t)i), b = bf16_to_f32((uint16_t)i);
        f16 = f16 && (isnan(a) || f16_from_f32(a) == i);
        bf16 = bf16 && (isnan(b) || bf16_from_f32(b) == i);
    }
    check(f16 && bf16, "conversion", "there and back");
    check(f16_from_f32(65520.0f) == 0x7c00 && f16_from_f32(65519.0f) == 0x7bff, "conversion", "overflow");
    check(f16_from_f32(0x1.002p0f) == 0x3c00 && f16_from_f32(0x1.006p0f) == 0x3c02, "conversion",
          "ties to even");
    check(f16_from_f32(0x1p-25f) == 0 && f16_from_f32(0x1.8p-24f) == 2, "conversion", "subnormal ties");
}

/* ------------------------------------------------------------------ the reference by hand */

/* What the reference itself must get right, by hand. */
static void test_reference(struct ops *ref)
{
    table = "ref";
    float x[4] = {3, 4, 0, 0}, w[4] = {1, 1, 1, 2}, y[4];
    ref->rmsnorm(ref, (struct tensor){y, DT_F32, {1, 4, 1, 1}}, (struct tensor){x, DT_F32, {1, 4, 1, 1}}, w,
                 0.0f, 0.0f);
    check(fabsf(y[0] - 1.2f) < 1e-6f && fabsf(y[1] - 1.6f) < 1e-6f && y[2] == 0, "rmsnorm", "by hand");
    float shift[4] = {0, 0, 0, 5}; /* mean 1.75, variance 3.1875 */
    ref->layernorm(ref, (struct tensor){y, DT_F32, {1, 4, 1, 1}}, (struct tensor){x, DT_F32, {1, 4, 1, 1}}, w,
                   shift, 0.0f);
    check(fabsf(y[0] - 0.70014f) < 1e-4f && fabsf(y[3] - 3.03960f) < 1e-4f, "layernorm", "by hand");
    float g1[2] = {1, -1};
    ref->gelu(ref, (struct tensor){y, DT_F32, {1, 2, 1, 1}}, (struct tensor){g1, DT_F32, {1, 2, 1, 1}});
    check(fabsf(y[0] - 0.8413447f) < 1e-6f && fabsf(y[1] + 0.1586553f) < 1e-6f, "gelu", "by hand");
    float q[2] = {1, 0}, k[4] = {0, 0, 0.6931472f, 0}, v[4] = {1, 10, 4, 40}, out[2];
    struct kv_run kr = {.layout = QUANT_NONE, .dtype = DT_F32, .data = k, .n = 2}, vr = kr;
    vr.data = v;
    struct attend_args a = {
        .n_set = 1, .n_kv_head = 1, .q_pos = 1, .scale = 1, .out = {out, DT_F32, {1, 1, 2, 1}}};
    a.set[0] =
        (struct attend_set){.q = {q, DT_F32, {1, 1, 2, 1}}, .n_k = 1, .n_v = 1, .dist_max = ATTEND_FAR};
    a.set[0].k[0] = kr;
    a.set[0].v[0] = vr;
    ref->attend(ref, &a, 1); /* weights 1/3 and 2/3 */
    check(fabsf(out[0] - 3) < 1e-5f && fabsf(out[1] - 30) < 1e-4f, "attend", "by hand");
    float g[4] = {0, 1, 2, 3};
    uint8_t code[1];
    uint16_t scale[1], min[1];
    struct quant_args qa = {QUANT_TOKEN, 2, 4, {g, DT_F32, {1, 1, 4, 1}}, code, scale, min, false};
    ref->quant(ref, &qa, 1);
    check(code[0] == 0xe4 && scale[0] == 0x3c00 && min[0] == 0, "quant", "by hand");
}

/* ------------------------------------------------------------------ speed */

/* Repeats a call for a while; `best` becomes the seconds of the fastest. */
#define TIME_BEST(best, call)                                                                                \
    do {                                                                                                     \
        (best) = 1e9;                                                                                        \
        double end_ = clock_now() + 0.3;                                                                     \
        for (int i_ = 0; i_ < 3 || clock_now() < end_; i_++) {                                               \
            double start_ = clock_now();                                                                     \
            call;                                                                                            \
            double s_ = clock_now() - start_;                                                                \
            (best) = s_ < (best) ? s_ : (best);                                                              \
        }                                                                                                    \
    } while (0)

static void report_speed(const char *what, double bytes, double flops, double s)
{
    printf("  %-34s %9.1f us %8.2f GB/s %9.4f TFLOP/s\n", what, s * 1e6, bytes / s * 1e-9, flops / s * 1e-12);
}

static void bench_matmul(struct ops *o, int64_t M, int64_t K, int64_t N, enum dtype t)
{
    struct buf src = buf_random(o, DT_BF16, N * K), x = buf_random(o, DT_F32, M * K),
               y = buf_new(o, (size_t)(M * N) * 4);
    struct tensor s = view(&src, DT_BF16, N, K, 1);
    struct weight w = pack(o, &s, N, K, t);
    char text[64];
    snprintf(text, sizeof text, "matmul %s %lldx%lldx%lld", dtype_name(t), (long long)M, (long long)K,
             (long long)N);
    double best;
    TIME_BEST(best, o->matmul(o, view(&y, DT_F32, M, N, 1), view(&x, DT_F32, M, K, 1), &w, NULL));
    report_speed(text, (double)w.bytes + 4.0 * (double)(M * (K + N)), 2.0 * (double)(M * K * N), best);
    o->free(o, w.packed);
    buf_free(&src);
    buf_free(&x);
    buf_free(&y);
}

static void bench_rows(struct ops *o)
{
    int64_t T = 512, D = 576, F = 1536;
    double best, act = 4.0 * (double)(T * D);
    struct buf x = buf_random(o, DT_F32, T * 2 * F), y = buf_random(o, DT_F32, T * F),
               w = buf_random(o, DT_F32, D);
    struct tensor a = view(&x, DT_F32, T, D, 1), b = view(&y, DT_F32, T, D, 1);
    TIME_BEST(best, o->rmsnorm(o, b, a, buf_data(&w), 1e-5f, 0));
    report_speed("rmsnorm 512x576", 2 * act, 0, best);
    TIME_BEST(best, o->add(o, b, a));
    report_speed("add 512x576", 3 * act, 0, best);
    TIME_BEST(best, o->layernorm(o, b, a, buf_data(&w), buf_data(&w), 1e-5f));
    report_speed("layernorm 512x576", 2 * act, 0, best);
    TIME_BEST(best, o->gelu(o, b, a));
    report_speed("gelu 512x576", 2 * act, 0, best);
    TIME_BEST(best, o->swiglu(o, view(&y, DT_F32, T, F, 1), view(&x, DT_F32, T, 2 * F, 1)));
    report_speed("swiglu 512x1536", 12.0 * (double)(T * F), 0, best);
    float freq[32];
    for (int i = 0; i < 32; i++)
        freq[i] = powf(1e4f, (float)-i / 32.0f);
    struct rope r = {64, 1.0f, freq};
    struct rope_args q = {
        .src = view(&x, DT_F32, T, 9, 64), .dst = view(&y, DT_F32, T, 9, 64), .rope = &r, .fixed = -1};
    TIME_BEST(best, o->rope(o, &q, 1));
    report_speed("rope 512x9x64", 2 * act, 0, best);
    struct buf code = buf_new(o, (size_t)(T * D)), scale = buf_new(o, (size_t)(T * D)),
               min = buf_new(o, (size_t)(T * D));
    for (int l = QUANT_TOKEN; l <= QUANT_CHANNEL; l++) {
        struct quant_args qa = {.layout = (enum quant_layout)l,
                                .bits = 2,
                                .group = 32,
                                .src = view(&x, DT_F32, T, 3, 64),
                                .codes = buf_data(&code),
                                .scale = buf_data(&scale),
                                .min = buf_data(&min)};
        TIME_BEST(best, o->quant(o, &qa, 1));
        report_speed(l == QUANT_TOKEN ? "quant token 2 bit 512x3x64" : "quant channel 2 bit 512x3x64",
                     act / 3, 0, best);
    }
    struct buf *all[] = {&x, &y, &w, &code, &scale, &min};
    for (size_t i = 0; i < 6; i++)
        buf_free(all[i]);
}

static double run_bytes(const struct kv_run *r, int64_t width)
{
    double n = (double)(r->n * width);
    return r->layout == QUANT_NONE ? n * (double)dtype_bytes(r->dtype)
                                   : n * r->bits / 8.0 + n / r->group * 4.0;
}

static void bench_attend(struct ops *o, struct ops *ref, enum cache kind, int64_t T, int64_t N)
{
    struct attend_args a = {.n_set = 1, .n_kv_head = 3, .q_pos = N - T, .scale = 0.125f};
    struct owned_set own;
    memset(a.set, 0, sizeof a.set);
    make_set(ref, &a.set[0], &own, kind, T, N, 9, 3, 64);
    a.set[0].dist_max = ATTEND_FAR;
    for (int i = 0; i < ATTEND_RUNS; i++)
        a.set[0].k[i].f16_values = a.set[0].v[i].f16_values = false,
        a.set[0].k[i].inverse = a.set[0].v[i].inverse = false;
    struct buf out = buf_new(o, (size_t)(T * 9 * 64) * 4);
    a.out = view(&out, DT_F32, T, 9, 64);
    double bytes = 0, pairs = (double)T * ((double)N - (double)(T - 1) / 2);
    for (int i = 0; i < a.set[0].n_k; i++)
        bytes += run_bytes(&a.set[0].k[i], 3 * 64);
    for (int i = 0; i < a.set[0].n_v; i++)
        bytes += run_bytes(&a.set[0].v[i], 3 * 64);
    char text[64];
    snprintf(text, sizeof text, "attend %s T=%lld N=%lld", cache_names[kind], (long long)T, (long long)N);
    double best;
    TIME_BEST(best, o->attend(o, &a, 1));
    report_speed(text, bytes, pairs * 9 * 64 * 4, best);
    buf_free(&out);
    free_set(&own);
}

static int bench(struct ops *ref)
{
    struct ops *o;
    table = "cpu";
    if (ops_open(&o, "cpu", NULL) < 0)
        return 1;
    printf("%s, %s, %s, %d threads\n", o->device, o->isa, o->libraries, o->threads);
    printf("  read bandwidth %.1f GB/s\n", bench_read_rate(o->threads) * 1e-9);
    struct bench_product p[] = {
        {512, 576, 960, 1}, {512, 576, 576, 1}, {512, 576, 3072, 1}, {512, 1536, 576, 1}};
    for (int t = DT_F32; t <= DT_BF16; t += DT_BF16)
        printf("  oneDNN alone, %s, 512 rows of SmolLM2-135M: %.3f TFLOP/s\n", dtype_name((enum dtype)t),
               bench_product_rate(p, 4, (enum dtype)t, o->threads, 1.0) * 1e-12);
    bench_rows(o);
    static const int64_t rows[] = {1, 16, 512};
    for (int t = DT_F32; t <= DT_BF16; t++) {
        for (size_t i = 0; i < 3; i++) {
            bench_matmul(o, rows[i], 576, 3072, (enum dtype)t);
            bench_matmul(o, rows[i], 1536, 576, (enum dtype)t);
        }
        bench_matmul(o, 1, 576, 49152, (enum dtype)t);
    }
    for (int k = DENSE_F32; k <= KIVI4; k++)
        bench_attend(o, ref, (enum cache)k, 1, 16384);
    for (int k = DENSE_F32; k <= KIVI2; k++)
        bench_attend(o, ref, (enum cache)k, 512, 2048);
    ops_close(o);
    return 0;
}

/* ------------------------------------------------------------------ all tables */

static uint64_t test_table(struct ops *o, struct ops *ref)
{
    rng_state = 2026;
    digest = 0xcbf29ce484222325U;
    test_memory(o);
    test_rows(o, ref);
    test_rope(o, ref);
    test_quant(o, ref);
    test_pick(o, ref);
    test_matmul(o, ref);
    test_fused(o, ref);
    test_attend(o, ref);
    test_attend_few(o, ref);
    test_attend_edges(o);
    test_score(o, ref);
    check(o->sync(o) == 0, "sync", "latched error");
    return digest;
}

static void test_cpu(struct ops *ref, const char *isa)
{
    char name[2][64];
    uint64_t sum[2];
    for (int i = 0; i < 2; i++) {
        struct ops_options opt = {.threads = i + 1, .isa = isa};
        struct ops *o;
        if (ops_open(&o, "cpu", &opt) < 0) {
            check(false, "open", err_text());
            return;
        }
        snprintf(name[i], sizeof name[i], "cpu %s, %d threads", o->isa, i + 1);
        table = name[i];
        sum[i] = test_table(o, ref);
        printf("%s: done (%s)\n", table, o->libraries);
        ops_close(o);
    }
    check(sum[0] == sum[1], "results depend on the number of threads", "");
}

/* The CUDA module: kernels on f32 activations against the reference, then on 16 bits (check_act.c). */
static int test_cuda(struct ops *ref, const char *how)
{
    const bool wgmma = !strcmp(how, "cuda-wgmma");
    const struct ops_options opt = {
        .act = DT_F32, .wait = !strcmp(how, "cuda-wait"), .isa = wgmma ? "wgmma" : "auto"};
    struct ops *o;
    table = "cuda";
    if (ops_open(&o, "cuda", &opt) < 0) {
        printf("%s\n", err_text());
        return 1;
    }
    rig_pinned = o;
    rig_half = true;
    if (wgmma) {
        test_prompts(o, ref);
    } else {
        test_table(o, ref);
        test_act(o, ref);
    }
    rig_pinned = NULL;
    for (int k = 0; k < MEM_KIND_N; k++)
        check(o->used(o, (enum mem_kind)k, PLACE_DEVICE) == 0 &&
                  o->used(o, (enum mem_kind)k, PLACE_HOST) == 0,
              "leak", mem_kind_name((enum mem_kind)k));
    printf("cuda: done (%s, %s, %s)\n", o->device, o->isa, o->libraries);
    ops_close(o);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

static void test_open(void)
{
    struct ops *o;
    table = "open";
    check(ops_open(&o, "cpux", NULL) == ERR_INPUT && strstr(err_text(), "cpu"), "open", "unknown name");
    check(ops_open(&o, "cpu", &(struct ops_options){.isa = "sse9"}) == ERR_INPUT, "open", "unknown isa");
    check(ops_open(&o, "cpu", &(struct ops_options){.threads = -1}) == ERR_INPUT, "open", "threads");
    enum dtype t;
    check(dtype_parse("bf16", &t) == 0 && t == DT_BF16 && dtype_parse("u8", &t) == ERR_INPUT, "dtype",
          "parse");
}

int main(int argc, char **argv)
{
    struct ops *ref;
    if (ops_open(&ref, "ref", NULL) < 0) {
        printf("%s\n", err_text());
        return 1;
    }
    if (argc > 1) {
        int rc = strcmp(argv[1], "--bench") == 0    ? bench(ref)
                 : strncmp(argv[1], "cuda", 4) == 0 ? test_cuda(ref, argv[1])
                                                    : 2;
        ops_close(ref);
        return rc;
    }
    test_half();
    test_open();
    test_reference(ref);
    /* avx512 first: oneDNN can only be narrowed before it is used. */
    const char *isa[] = {"avx512", "auto", "avx2", "portable"};
    for (size_t i = 0; i < 4; i++)
        test_cpu(ref, isa[i]);
    table = "ref";
    for (int k = 0; k < MEM_KIND_N; k++)
        check(ref->used(ref, (enum mem_kind)k, PLACE_DEVICE) == 0, "leak", mem_kind_name((enum mem_kind)k));
    ops_close(ref);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

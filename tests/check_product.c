/* Products, alone and with the steps that go with them. */
#include <math.h>
#include <stdio.h>

#include "check_rig.h"

static void test_matmul_shape(struct ops *o, struct ops *ref, int64_t M, int64_t K, int64_t N, enum dtype t,
                              bool bias)
{
    enum dtype st = (enum dtype)rng_int(DT_F32, DT_BF16);
    struct buf src = buf_random(ref, st, N * K), x = buf_random(ref, DT_F32, M * K),
               b = buf_random(ref, DT_F32, N);
    struct buf got = buf_new(o, (size_t)(M * N) * 4), want = buf_new(ref, (size_t)(M * N) * 4);
    struct tensor s = view(&src, st, N, K, 1), xv = view(&x, DT_F32, M, K, 1);
    struct weight a = rig_pack(o, &s, t), r = rig_pack(ref, &s, t);
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

void test_matmul(struct ops *o, struct ops *ref)
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

/* Entries that do several steps in one equal those, whatever a backend makes of them. Where the steps use
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
    struct weight p = rig_pack(o, &sv, t);
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
    struct weight p = rig_pack(o, &sv, t);
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
    struct weight gate_up = rig_pack(o, &gv, t), down = rig_pack(o, &dv, t);
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

void test_fused(struct ops *o, struct ops *ref)
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

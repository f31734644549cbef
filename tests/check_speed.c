/* check_ops --bench: every kernel of the backend for CPUs on its own, in GB/s and TFLOP/s. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "check_rig.h"
#include "kernels/bench.h"

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
    struct weight w = rig_pack(o, &s, t);
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

int rig_bench(struct ops *ref)
{
    struct ops *o;
    backend = "cpu";
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

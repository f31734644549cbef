/* Holds every backend against ops_ref: random sizes, guard bytes around every output, error bounds by
 * dtype, quantised codes bit for bit, equal bits for every number of threads. check_ops [--bench | cuda |
 * cuda-wait | cuda-wgmma]: --bench prints GB/s and TFLOP/s; cuda checks the module libkvs_cuda.so on the GPU
 * (or the shim) that it finds, -wait after every kernel, -wgmma only what the warpgroup kernels do. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "check_rig.h"

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
    backend = "half";
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

/* What the reference itself must get right, by hand. */
static void test_reference(struct ops *ref)
{
    backend = "ref";
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

/* ------------------------------------------------------------------ all backends */

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
    test_mix(o, ref, DT_F32);
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
        backend = name[i];
        sum[i] = test_table(o, ref);
        printf("%s: done (%s)\n", backend, o->libraries);
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
    backend = "cuda";
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

/* What the CUDA kernels rely on: codes times the reciprocal of a scale, rounded to f16, are the quotients. */
static void test_quotients(void)
{
    int wrong = 0;
    for (int s = 1; s <= 0x7c00; s++) { /* infinity too */
        const float scale = f16_to_f32((uint16_t)s), over = 1.0f / scale;
        for (int code = 0; code < 16; code++)
            wrong += f16_from_f32((float)code * over) != f16_from_f32((float)code / scale);
    }
    backend = "f16";
    check(wrong == 0, "code times reciprocal", "all scales, all codes");
}

static void test_open(void)
{
    struct ops *o;
    backend = "open";
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
        int rc = strcmp(argv[1], "--bench") == 0    ? rig_bench(ref)
                 : strncmp(argv[1], "cuda", 4) == 0 ? test_cuda(ref, argv[1])
                                                    : 2;
        ops_close(ref);
        return rc;
    }
    test_half();
    test_quotients();
    test_open();
    test_reference(ref);
    /* avx512 first: oneDNN can only be narrowed before it is used. */
    const char *isa[] = {"avx512", "auto", "avx2", "portable"};
    for (size_t i = 0; i < 4; i++)
        test_cpu(ref, isa[i]);
    backend = "ref";
    for (int k = 0; k < MEM_KIND_N; k++)
        check(ref->used(ref, (enum mem_kind)k, PLACE_DEVICE) == 0, "leak", mem_kind_name((enum mem_kind)k));
    ops_close(ref);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

/* Kernels on rows: norms, activations, rope, quantiser, best tokens. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check_rig.h"

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

void test_rows(struct ops *o, struct ops *ref)
{
    for (int i = 0; i < 12; i++)
        test_rows_shape(o, ref, rng_int(1, 40), rng_int(1, 700));
    test_rows_shape(o, ref, 64, 576);
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

void test_rope(struct ops *o, struct ops *ref)
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

void test_quant(struct ops *o, struct ops *ref)
{
    static const int32_t bits[] = {1, 2, 3, 4, 8}, groups[] = {8, 32, 64, 128};
    for (int layout = QUANT_TOKEN; layout <= QUANT_CHANNEL; layout++)
        for (size_t b = 0; b < 5; b++)
            for (size_t g = 0; g < 4; g++)
                for (int inverse = 0; inverse < 2; inverse++)
                    test_quant_case(o, ref, (enum quant_layout)layout, bits[b], groups[g],
                                    (enum dtype)rng_int(0, 2), inverse);
}

/* ------------------------------------------------------------------ best tokens */

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

void test_pick(struct ops *o, struct ops *ref)
{
    for (int i = 0; i < 10; i++) {
        int64_t V = rng_int(1, 3000);
        test_pick_case(o, ref, rng_int(1, 5), V, (int32_t)rng_int(0, V < 64 ? V : 64), i % 2, i > 6);
    }
    test_pick_case(o, ref, 2, 49152, 64, false, false);
}

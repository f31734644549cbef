/* Attention over every kind of cache, masks, batches, few rows and edges. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "check_rig.h"

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
        compare("attend", text, DT_F32, &out[i], &right[i], attend_tol(kind, T));
        buf_free(&out[i]);
        buf_free(&right[i]);
        for (int s = 0; s < n_set; s++)
            free_set(&sets[i][s]);
    }
}

void test_attend(struct ops *o, struct ops *ref)
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
    test_attend_case(o, ref, DENSE_F16, 150, 333, 1, 3, 80, 0, 1);
    test_attend_case(o, ref, DENSE_F16, 64, 512, 2, 4, 64, 0, 1); /* the shape of AMX */
    test_attend_case(o, ref, DENSE_F32, 9, 50, 2, 1, 20, 0, 1);   /* head dimension of no vector width */
    test_attend_case(o, ref, DENSE_F16, 1, 50, 2, 2, 20, 0, 1);
    test_attend_case(o, ref, DENSE_F16, 40, 50, 2, 2, 20, 0, 1);
}

/* Few rows over long caches: every cache, one to sixteen rows of a group, widths that fill a tile and widths
 * that do not. */
void test_attend_few(struct ops *o, struct ops *ref)
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
    for (int kind = KIVI2; kind <= KIVI4; kind++) /* many whole groups of keys, seen and masked */
        for (int i = 0; i < 12; i++)
            test_attend_case(o, ref, (enum cache)kind, i % 4 == 3 ? 2 : 1, rng_int(300, 700), 2, 1 << i % 4,
                             i % 2 ? 128 : 64, i / 4, 1);
}

/* A row whose mask drops every key gives zeros, NaN goes through. */
void test_attend_edges(struct ops *o)
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

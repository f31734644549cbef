/* The kernels that score and choose keys, against their plain loops: keep lists and attention scores of
 * attention, select, gather, mean, dots, norms. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check_rig.h"

/* ------------------------------------------------------------------ attention, keep lists and scores */

struct score_case {
    enum cache kind;
    int64_t T, N, Hk, g, d;
    int n_set, n_seq;
    int keep;  /* 0: no list; 1: per KV head; 2: per query head */
    int show;  /* of 100 keys; 0: one key per head; -1: none */
    bool attn_scores; /* of every set; otherwise of the second one only */
    bool f16_attn_scores;
};

/* What one backend works on: a list and attention scores of its own memory, the same content. */
struct lists {
    struct buf out, keep[2], attn_scores[2];
};

static void make_keep(struct buf *b, const struct score_case *c, int64_t rows, int64_t ld)
{
    uint8_t *p = buf_data(b);
    for (int64_t i = 0; i < rows * ld; i++)
        p[i] = (uint8_t)(rng_int(1, 100) <= c->show ? rng_int(1, 255) : 0);
    for (int64_t r = 0; r < rows && c->show == 0; r++)
        p[r * ld + rng_int(0, ld - 1)] = 1;
    if (c->show > 0 && ld > 300) /* whole blocks that no head sees */
        for (int64_t r = 0; r < rows; r++)
            memset(p + r * ld + 100, 0, 190);
}

static void make_lists(struct ops *o, struct ops *ref, struct lists l[2], const struct score_case *c,
                       struct attend_args *a[2], int64_t n)
{
    int64_t H = c->Hk * c->g, rows = c->keep == 1 ? c->Hk : H, ld = n + rng_int(0, 9);
    struct ops *both[2] = {o, ref};
    for (int i = 0; i < 2; i++) {
        l[i].out = buf_new(both[i], (size_t)(c->T * H * c->d) * 4);
        a[i]->out = view(&l[i].out, DT_F32, c->T, H, c->d);
    }
    for (int s = 0; s < c->n_set; s++) {
        for (int i = 0; i < 2; i++) {
            l[i].keep[s] = buf_new(both[i], (size_t)(rows * ld));
            l[i].attn_scores[s] = buf_new(both[i], (size_t)(H * ld) * 4);
        }
        make_keep(&l[0].keep[s], c, rows, ld);
        memcpy(buf_data(&l[1].keep[s]), buf_data(&l[0].keep[s]), (size_t)(rows * ld));
        for (int64_t j = 0; j < H * ld; j++) {
            float x = fabsf(rng_float()), y = c->f16_attn_scores ? f16_round(x) : x;
            ((float *)buf_data(&l[0].attn_scores[s]))[j] = ((float *)buf_data(&l[1].attn_scores[s]))[j] = y;
        }
        for (int i = 0; i < 2; i++) {
            a[i]->set[s].keep = c->keep ? buf_data(&l[i].keep[s]) : NULL;
            a[i]->set[s].keep_rows = rows;
            a[i]->set[s].keep_ld = ld;
            a[i]->set[s].attn_scores = c->attn_scores || s == 1 ? buf_data(&l[i].attn_scores[s]) : NULL;
            a[i]->set[s].attn_scores_ld = ld;
        }
    }
}

/* Rows of `out` do not depend on whether attention scores are wanted; those of another number of rows may. */
static void check_out_alone(struct ops *o, const struct attend_args *a, const char *text)
{
    struct attend_args b = *a;
    struct buf out = buf_new(o, tensor_bytes(&a->out));
    b.out.data = buf_data(&out);
    b.set[0].attn_scores = b.set[1].attn_scores = NULL;
    o->attend(o, &b, 1);
    rig_wait();
    check(memcmp(buf_data(&out), a->out.data, out.bytes) == 0, "attention scores change the output", text);
    buf_free(&out);
}

static void test_score_case(struct ops *o, struct ops *ref, const struct score_case *c)
{
    struct attend_args arg[2][4];
    struct owned_set sets[4][2];
    struct lists l[4][2];
    for (int i = 0; i < c->n_seq; i++) {
        int64_t n = i ? rng_int(c->T, c->N) : c->N;
        struct attend_args a = {.n_set = c->n_set, .n_kv_head = (int32_t)c->Hk, .q_pos = n - c->T};
        memset(a.set, 0, sizeof a.set);
        a.scale = 2.0f / sqrtf((float)c->d);
        a.f16_attn_scores = c->f16_attn_scores;
        for (int s = 0; s < c->n_set; s++) {
            make_set(ref, &a.set[s], &sets[i][s], c->kind, c->T, n, c->Hk * c->g, c->Hk, c->d);
            a.set[s].dist_min = s ? n / 4 + 1 : 0;
            a.set[s].dist_max = c->n_set > 1 && !s ? n / 4 + 1 : ATTEND_FAR;
        }
        arg[0][i] = arg[1][i] = a;
        make_lists(o, ref, l[i], c, (struct attend_args *[2]){&arg[0][i], &arg[1][i]}, n);
    }
    o->attend(o, arg[0], c->n_seq);
    ref->attend(ref, arg[1], c->n_seq);
    check(o->sync(o) == 0, "attend", "sync");
    char text[160];
    snprintf(text, sizeof text,
             "%s T=%lld N=%lld Hk=%lld g=%lld d=%lld sets=%d keep=%d show=%d attn_scores=%d%s",
             cache_names[c->kind], (long long)c->T, (long long)c->N, (long long)c->Hk, (long long)c->g,
             (long long)c->d, c->n_set, c->keep, c->show, c->attn_scores, c->f16_attn_scores ? " f16" : "");
    const double tol = attend_tol(c->kind, c->T);
    for (int i = 0; i < c->n_seq; i++) {
        compare("attend", text, DT_F32, &l[i][0].out, &l[i][1].out, tol);
        for (int s = 0; s < c->n_set; s++)
            compare("attn_scores", text, DT_F32, &l[i][0].attn_scores[s], &l[i][1].attn_scores[s],
                    c->f16_attn_scores ? 2e-3 : fmax(tol, 2e-5));
        check_out_alone(o, &arg[0][i], text);
        for (int s = 0; s < c->n_set; s++) {
            for (int side = 0; side < 2; side++) {
                buf_free(&l[i][side].keep[s]);
                buf_free(&l[i][side].attn_scores[s]);
            }
            free_set(&sets[i][s]);
        }
        buf_free(&l[i][0].out);
        buf_free(&l[i][1].out);
    }
}

static void test_attn_scores(struct ops *o, struct ops *ref)
{
    static const int64_t heads[][2] = {{1, 1}, {2, 3}, {1, 4}, {3, 1}, {1, 12}};
    static const int shows[] = {-1, 0, 6, 50, 100};
    for (int kind = 0; kind < CACHE_N; kind++) {
        for (int keep = 0; keep < 3; keep++) {
            for (int i = 0; i < 3; i++) {
                const int64_t *h = heads[rng() % 5];
                struct score_case c = {.kind = (enum cache)kind, .keep = keep, .show = shows[rng() % 5]};
                c.Hk = h[0];
                c.g = h[1];
                c.d = 32 * rng_int(1, 3);
                c.T = i == 0 ? rng_int(1, 7) : i == 1 ? rng_int(8, 20) : rng_int(16, 40);
                c.N = rng_int(c.T, 330);
                c.n_set = (int)rng_int(1, 2);
                c.n_seq = i ? 1 : 3;
                c.attn_scores = rng() % 3 > 0;
                c.f16_attn_scores = rng() % 4 == 0;
                test_score_case(o, ref, &c);
            }
        }
    }
    const struct score_case more[] = {
        {DENSE_F32, 1, 2500, 2, 3, 64, 1, 2, 2, 6, true, false},   /* several splits */
        {DENSE_F16, 1, 2500, 2, 3, 64, 1, 2, 2, 6, true, true},    /* */
        {DENSE_BF16, 1, 1100, 2, 1, 64, 2, 1, 1, 0, true, false},  /* a split without any key */
        {DENSE_F16, 2, 30, 2, 2, 20, 1, 1, 2, 50, true, false},    /* head dimension of no vector width */
        {DENSE_F16, 20, 30, 2, 2, 20, 1, 1, 2, 50, true, false},   /* */
        {DENSE_F32, 9, 30, 2, 2, 20, 1, 1, 2, 50, true, false},    /* */
        {DENSE_F32, 140, 200, 1, 3, 80, 1, 1, 0, 0, true, false},  /* several query blocks */
        {DENSE_BF16, 140, 200, 1, 3, 64, 1, 1, 2, 6, true, false}, /* */
        {DENSE_BF16, 140, 140, 3, 1, 64, 1, 1, 0, 0, true, false}, /* */
        {INDEXED, 70, 400, 1, 2, 64, 2, 1, 1, 50, true, false},    /* */
        {KIVI2, 70, 400, 1, 2, 64, 2, 1, 1, 50, true, false},      /* */
        {DENSE_F32, 1, 1, 1, 1, 32, 1, 1, 0, 0, true, false},      /* one key */
        {DENSE_F16, 1, 1, 2, 2, 32, 1, 1, 2, 0, true, true},       /* */
        {DENSE_F16, 1, 1, 2, 2, 32, 1, 1, 2, -1, true, false},     /* none */
    };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        test_score_case(o, ref, &more[i]);
}

/* ------------------------------------------------------------------ select */

/* Scores: continuous, few values (ties), signed zeros, far apart in size. */
static float any_score(int how)
{
    if (how == 0)
        return fabsf(rng_float());
    if (how == 1)
        return (float)rng_int(0, 3);
    if (how == 2)
        return rng() & 1 ? 0.0f : -0.0f;
    return rng_float() * powf(10.0f, (float)rng_int(-30, 30));
}

static void test_select_case(struct ops *o, struct ops *ref, int64_t rows, int64_t n, int64_t k, int how)
{
    int64_t group = rng_int(1, 4), tail = rng() & 1 ? rng_int(0, 40) : 0, ld = n + tail + rng_int(0, 5);
    bool zero = rng() & 1, want_index = rng() % 3, want_keep = !want_index || rng() % 3;
    struct ops *both[2] = {o, ref};
    struct buf score[2], index[2], keep[2];
    for (int i = 0; i < 2; i++) {
        score[i] = buf_new(both[i], (size_t)(rows * group * ld) * 4);
        index[i] = buf_new(both[i], (size_t)(rows * (k + tail + 2)) * 4);
        keep[i] = buf_new(both[i], (size_t)(rows * ld));
        memset(buf_data(&index[i]), 0x77, index[i].bytes);
        memset(buf_data(&keep[i]), 0x77, keep[i].bytes);
    }
    for (int64_t i = 0; i < rows * group * ld; i++)
        ((float *)buf_data(&score[0]))[i] = ((float *)buf_data(&score[1]))[i] = any_score(how);
    for (int i = 0; i < 2; i++) {
        struct select_args a = {.score = buf_data(&score[i]), .score_ld = ld, .rows = rows, .group = group};
        a.n = n;
        a.k = k;
        a.tail = tail;
        a.index = want_index ? buf_data(&index[i]) : NULL;
        a.index_ld = k + tail + 2;
        a.keep = want_keep ? buf_data(&keep[i]) : NULL;
        a.keep_ld = ld;
        a.zero_rest = zero;
        a.bar_rest = zero && n % 2;
        both[i]->select(both[i], &a, 1);
    }
    char text[100];
    snprintf(text, sizeof text, "rows=%lld n=%lld k=%lld tail=%lld group=%lld scores %d", (long long)rows,
             (long long)n, (long long)k, (long long)tail, (long long)group, how);
    rig_wait();
    check(memcmp(buf_data(&index[0]), buf_data(&index[1]), index[0].bytes) == 0, "select index", text);
    check(memcmp(buf_data(&keep[0]), buf_data(&keep[1]), keep[0].bytes) == 0, "select keep", text);
    check(memcmp(buf_data(&score[0]), buf_data(&score[1]), score[0].bytes) == 0, "select scores", text);
    digest_add(buf_data(&index[0]), index[0].bytes);
    for (int i = 0; i < 2; i++) {
        buf_free(&score[i]);
        buf_free(&index[i]);
        buf_free(&keep[i]);
    }
}

static void test_select(struct ops *o, struct ops *ref)
{
    for (int how = 0; how < 4; how++) {
        for (int i = 0; i < 12; i++) {
            int64_t n = rng_int(0, i < 4 ? 9 : 700), k = i % 4 == 0 ? n : i % 4 == 1 ? 0 : rng_int(0, n);
            test_select_case(o, ref, rng_int(1, 12), n, k, how);
        }
        test_select_case(o, ref, 5, 1, 1, how);
        test_select_case(o, ref, 3, 5000, 311, how);
        test_select_case(o, ref, 3, 5000, 4989, how);
    }
}

/* ------------------------------------------------------------------ gather, mean, dots, norms */

static void test_gather_case(struct ops *o, struct ops *ref, enum dtype t, bool in_place)
{
    int64_t Hk = rng_int(1, 4), g = in_place ? 1 : rng_int(1, 3), H = Hk * g, d = rng_int(1, 90),
            N = rng_int(1, 300), M = rng_int(0, N), ld = M + 3;
    int64_t rows = rng() % 3 == 0 ? 1 : rng() & 1 ? Hk : H;
    struct buf src = buf_random(ref, t, N * Hk * d), list = buf_new(ref, (size_t)(rows * ld) * 4);
    int32_t *index = buf_data(&list);
    for (int64_t r = 0; r < rows; r++) {
        int64_t left = M;
        for (int64_t j = 0; j < N && left; j++) /* rising: M of N */
            if (rng_int(1, N - j) <= left)
                index[r * ld + M - left--] = (int32_t)j;
        for (int64_t m = 0; m < M && !in_place; m++)
            index[r * ld + m] = (int32_t)rng_int(0, N - 1);
    }
    struct ops *both[2] = {o, ref};
    struct buf dst[2];
    for (int i = 0; i < 2; i++) {
        dst[i] = buf_new(both[i], (size_t)(in_place ? N * Hk * d : M * H * d) * dtype_bytes(t));
        if (in_place)
            memcpy(buf_data(&dst[i]), buf_data(&src), src.bytes);
        struct gather_args a = {.src = view(in_place ? &dst[i] : &src, t, N, Hk, d),
                                .dst = view(&dst[i], t, M, H, d),
                                .index = index,
                                .rows = rows,
                                .index_ld = ld};
        both[i]->gather(both[i], &a, 1);
    }
    char text[100];
    snprintf(text, sizeof text, "%s N=%lld M=%lld Hk=%lld g=%lld d=%lld lists=%lld%s", dtype_name(t),
             (long long)N, (long long)M, (long long)Hk, (long long)g, (long long)d, (long long)rows,
             in_place ? " in place" : "");
    rig_wait();
    check(memcmp(buf_data(&dst[0]), buf_data(&dst[1]), dst[0].bytes) == 0, "gather", text);
    struct buf *all[] = {&src, &list, &dst[0], &dst[1]};
    for (size_t i = 0; i < 4; i++)
        buf_free(all[i]);
}

/* Many rows by lists of their own, rows in place and single values together, as caches are packed: H lists of
 * M among N rows. */
static void test_pack_case(struct ops *o, struct ops *ref, int64_t N, int64_t M, int64_t H, int64_t d)
{
    struct buf src = buf_random(ref, DT_BF16, N * H * d), score = buf_random(ref, DT_F32, H * N),
               list = buf_new(ref, (size_t)(H * M) * 4), rows[2], single[2];
    int32_t *index = buf_data(&list);
    struct ops *both[2] = {o, ref};
    struct gather_args *a = malloc(((size_t)H + 1) * sizeof *a);
    for (int64_t h = 0; h < H; h++) {
        int64_t left = M;
        for (int64_t j = 0; j < N && left; j++)
            if (rng_int(1, N - j) <= left)
                index[h * M + M - left--] = (int32_t)j;
    }
    for (int i = 0; i < 2; i++) {
        rows[i] = buf_new(both[i], src.bytes);
        single[i] = buf_new(both[i], score.bytes);
        memcpy(buf_data(&rows[i]), buf_data(&src), src.bytes);
        memcpy(buf_data(&single[i]), buf_data(&score), score.bytes);
        struct tensor at = view(&rows[i], DT_BF16, N, H, d);
        a[0] = (struct gather_args){at, tensor_rows(&at, 0, M), index, H, M};
        for (int64_t h = 0; h < H; h++) {
            struct tensor one = {(float *)buf_data(&single[i]) + h * N, DT_F32, {N, 1, 1, 1}};
            a[1 + h] = (struct gather_args){one, tensor_rows(&one, 0, M), index + h * M, 1, M};
        }
        both[i]->gather(both[i], a, (int)H + 1);
    }
    rig_wait();
    char text[80];
    snprintf(text, sizeof text, "%lld of %lld rows of %lld, %lld heads", (long long)M, (long long)N,
             (long long)d, (long long)H);
    check(memcmp(buf_data(&rows[0]), buf_data(&rows[1]), src.bytes) == 0, "gather rows together", text);
    check(memcmp(buf_data(&single[0]), buf_data(&single[1]), score.bytes) == 0, "gather values together",
          text);
    struct buf *all[] = {&src, &score, &list, &rows[0], &rows[1], &single[0], &single[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buf_free(all[i]);
    free(a);
}

static void test_sums_case(struct ops *o, struct ops *ref, enum dtype t, int64_t T, int64_t H, int64_t d)
{
    struct buf x = buf_random(ref, t, T * H * d), y = buf_random(ref, DT_F32, H * d);
    int64_t ld = T + 2;
    size_t bytes[3] = {(size_t)(H * d) * 4, (size_t)T * 4, (size_t)(H * ld) * 4};
    struct buf got[3], want[3];
    struct ops *both[2] = {o, ref};
    for (int i = 0; i < 2; i++) {
        struct buf *out = i ? want : got;
        for (int j = 0; j < 3; j++) {
            out[j] = buf_new(both[i], bytes[j]);
            memset(buf_data(&out[j]), 0, bytes[j]);
        }
        both[i]->mean(both[i], view(&out[0], DT_F32, H, d, 1), view(&x, t, T, H, d));
        both[i]->dots(both[i], buf_data(&out[1]), view(&x, t, T, H, d), buf_data(&y));
        both[i]->norms(both[i], buf_data(&out[2]), ld, view(&x, t, T, H, d), 0.7f);
    }
    char text[80];
    snprintf(text, sizeof text, "%s T=%lld H=%lld d=%lld", dtype_name(t), (long long)T, (long long)H,
             (long long)d);
    compare("mean", text, DT_F32, &got[0], &want[0], 0);
    compare("dots", text, DT_F32, &got[1], &want[1], 3e-6 * sqrt((double)(H * d)));
    compare("norms", text, DT_F32, &got[2], &want[2], 3.1e-5); /* one step of 16 significant bits */
    for (int j = 0; j < 3; j++) {
        buf_free(&got[j]);
        buf_free(&want[j]);
    }
    buf_free(&x);
    buf_free(&y);
}

void test_score(struct ops *o, struct ops *ref)
{
    test_attn_scores(o, ref);
    test_select(o, ref);
    test_pack_case(o, ref, 9000, 4200, 3, 8); /* more than a block holds */
    test_pack_case(o, ref, 700, 699, 2, 64);
    test_pack_case(o, ref, 300, 200, 140, 3); /* more calls than a launch holds */
    for (int t = DT_F32; t <= DT_BF16; t++) {
        for (int i = 0; i < 10; i++)
            test_gather_case(o, ref, (enum dtype)t, i % 2);
        for (int i = 0; i < 6; i++)
            test_sums_case(o, ref, (enum dtype)t, rng_int(1, 60), rng_int(1, 4), rng_int(1, 150));
        test_sums_case(o, ref, (enum dtype)t, 1, 1, 1);
        test_sums_case(o, ref, (enum dtype)t, 700, 3, 64);
    }
}

/* Entries of recurrent layers: each against the plain loops, from a random state, in one call and in two, for
 * two sequences at once, with states in f32 and f16. */
#include <math.h>
#include <stdio.h>

#include "check_rig.h"

/* The same random values for the backend (in its activations' dtype) and, widened, for the reference. */
struct pair {
    struct buf got, want;
    enum dtype t;
};

static struct pair pair_new(struct ops *o, struct ops *ref, enum dtype t, int64_t n, float scale, float shift)
{
    struct pair p = {buf_new(o, (size_t)n * dtype_bytes(t)), buf_new(ref, (size_t)n * 4), t};
    for (int64_t i = 0; i < n; i++) {
        host_put(buf_data(&p.got), t, i, scale * rng_float() + shift);
        ((float *)buf_data(&p.want))[i] = host_get(buf_data(&p.got), t, i);
    }
    return p;
}

static void pair_free(struct pair *p)
{
    buf_free(&p->got);
    buf_free(&p->want);
}

/* Compares what both hold now; f32 values widened from `t`. */
static void pair_same(const char *what, const char *text, const struct pair *p, double tol)
{
    rig_wait();
    int64_t n = (int64_t)(p->want.bytes / 4);
    struct buf wide = buf_new(p->want.o, p->want.bytes);
    for (int64_t i = 0; i < n; i++)
        ((float *)buf_data(&wide))[i] = host_get(buf_data(&p->got), p->t, i);
    compare(what, text, DT_F32, &wide, &p->want, tol);
    buf_free(&wide);
}

/* Columns from `col` of rows [t, …) of a matrix `ld` wide. */
static struct strip got_at(const struct pair *p, int64_t ld, int64_t t, int64_t col)
{
    return (struct strip){(char *)buf_data(&p->got) + (size_t)(t * ld + col) * dtype_bytes(p->t), ld};
}
static struct strip want_at(const struct pair *p, int64_t ld, int64_t t, int64_t col)
{
    return (struct strip){(float *)buf_data(&p->want) + t * ld + col, ld};
}
#define BOTH(member, p, ld, t, col) (g.member = got_at(p, ld, t, col), w.member = want_at(p, ld, t, col))

/* The part of the state that sequence i has. */
static void states(struct tensor *g, struct tensor *w, const struct pair *s, int64_t i, int64_t n0,
                   int64_t n1, int64_t n2)
{
    int64_t n = n0 * n1 * n2;
    *g = (struct tensor){
        (char *)buf_data(&s->got) + (size_t)(i * n) * dtype_bytes(s->t), s->t, {n0, n1, n2, 1}};
    *w = (struct tensor){(float *)buf_data(&s->want) + i * n, DT_F32, {n0, n1, n2, 1}};
}

enum { SEQS = 2 };

struct mix_case {
    struct ops *o, *ref;
    enum dtype t, state;
    int64_t T, cut; /* rows; those of the first of two calls (0: one call) */
    double tol, state_tol;
    char text[64];
};

/* Reference states are f32, also where the backend's are f16: then those of a second call are rounded alike.
 */
static void round_state(const struct mix_case *c, const struct pair *s)
{
    for (int64_t i = 0; c->state == DT_F16 && i < (int64_t)(s->want.bytes / 4); i++)
        ((float *)buf_data(&s->want))[i] = f16_round(((float *)buf_data(&s->want))[i]);
}

#define CALLS(c, first, count)                                                                               \
    for (int64_t first = 0, count = (c)->cut ? (c)->cut : (c)->T; first < (c)->T;                            \
         first += count, count = (c)->T - first)

static void mix_conv(const struct mix_case *c, int64_t C, int32_t width, bool silu, bool bias)
{
    const int64_t ld = C + 5;
    struct pair x = pair_new(c->o, c->ref, c->t, SEQS * c->T * ld, 1, 0),
                tail = pair_new(c->o, c->ref, c->state, SEQS * (width - 1) * C, 1, 0),
                out = pair_new(c->o, c->ref, c->t, SEQS * c->T * C, 0, 0);
    struct buf w_ = buf_random(c->ref, DT_F32, C * width), b = buf_random(c->ref, DT_F32, C);
    CALLS(c, t0, m)
    {
        struct conv_args ga[SEQS], wa[SEQS];
        for (int64_t i = 0; i < SEQS; i++) {
            struct conv_args g = {.T = m,
                                  .C = C,
                                  .w = buf_data(&w_),
                                  .bias = bias ? buf_data(&b) : NULL,
                                  .width = width,
                                  .silu = silu},
                             w = g;
            BOTH(x, &x, ld, i * c->T + t0, 3);
            BOTH(out, &out, C, i * c->T + t0, 0);
            states(&g.tail, &w.tail, &tail, i, width - 1, C, 1);
            ga[i] = g, wa[i] = w;
        }
        c->o->conv(c->o, ga, SEQS);
        c->ref->conv(c->ref, wa, SEQS);
        rig_wait();
        round_state(c, &tail);
    }
    pair_same("conv", c->text, &out, c->tol);
    pair_same("conv tail", c->text, &tail, c->state_tol);
    struct pair *all[] = {&x, &tail, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
    buf_free(&w_), buf_free(&b);
}

/* Negative rates from -0.01 to -16, as trained models have them. */
static struct buf rates(struct ops *ref, int64_t n)
{
    struct buf b = buf_new(ref, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        ((float *)buf_data(&b))[i] = -expf(-4.6f + 7.3f * (float)(rng() >> 40) / 16777216.0f);
    return b;
}

static void mix_scan(const struct mix_case *c, int64_t E, int32_t N, bool gate)
{
    struct pair x = pair_new(c->o, c->ref, c->t, SEQS * c->T * 2 * E, 1, 0),
                dt = pair_new(c->o, c->ref, c->t, SEQS * c->T * E, 1, -1),
                bc = pair_new(c->o, c->ref, c->t, SEQS * c->T * (2 * N + 3), 1, 0),
                s = pair_new(c->o, c->ref, c->state, SEQS * E * N, 1, 0),
                out = pair_new(c->o, c->ref, c->t, SEQS * c->T * E, 0, 0);
    struct buf a = rates(c->ref, E * N), d = buf_random(c->ref, DT_F32, E),
               bias = buf_random(c->ref, DT_F32, E);
    CALLS(c, t0, m)
    {
        struct scan_args ga[SEQS], wa[SEQS];
        for (int64_t i = 0; i < SEQS; i++) {
            const int64_t r = i * c->T + t0;
            struct scan_args g = {.T = m,
                                  .E = E,
                                  .N = N,
                                  .dt_bias = buf_data(&bias),
                                  .a = buf_data(&a),
                                  .d = buf_data(&d)},
                             w = g;
            BOTH(x, &x, 2 * E, r, 0);
            BOTH(dt, &dt, E, r, 0);
            BOTH(b, &bc, 2 * N + 3, r, 3);
            BOTH(c, &bc, 2 * N + 3, r, 3 + N);
            BOTH(out, &out, E, r, 0);
            if (gate)
                BOTH(z, &x, 2 * E, r, E);
            states(&g.state, &w.state, &s, i, E, N, 1);
            ga[i] = g, wa[i] = w;
        }
        c->o->scan(c->o, ga, SEQS);
        c->ref->scan(c->ref, wa, SEQS);
        rig_wait();
        round_state(c, &s);
    }
    pair_same("scan", c->text, &out, 4 * c->tol);
    pair_same("scan state", c->text, &s, 4 * c->state_tol);
    struct pair *all[] = {&x, &dt, &bc, &s, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
    buf_free(&a), buf_free(&d), buf_free(&bias);
}

static void mix_ssd(const struct mix_case *c, int32_t H, int32_t P, int32_t N, int32_t G)
{
    const int64_t W = (int64_t)H * P, ld = W + 2 * G * N;
    struct pair x = pair_new(c->o, c->ref, c->t, SEQS * c->T * ld, 0.5f, 0),
                dt = pair_new(c->o, c->ref, c->t, SEQS * c->T * H, 1, -1),
                s = pair_new(c->o, c->ref, c->state, SEQS * W * N, 1, 0),
                out = pair_new(c->o, c->ref, c->t, SEQS * c->T * W, 0, 0);
    struct buf a = rates(c->ref, H), d = buf_random(c->ref, DT_F32, H), bias = buf_random(c->ref, DT_F32, H);
    CALLS(c, t0, m)
    {
        struct ssd_args ga[SEQS], wa[SEQS];
        for (int64_t i = 0; i < SEQS; i++) {
            const int64_t r = i * c->T + t0;
            struct ssd_args g = {.T = m,
                                 .H = H,
                                 .P = P,
                                 .N = N,
                                 .G = G,
                                 .dt_bias = buf_data(&bias),
                                 .a = buf_data(&a),
                                 .d = buf_data(&d),
                                 .dt_min = 1e-3f,
                                 .dt_max = 2.5f},
                            w = g;
            BOTH(x, &x, ld, r, 0);
            BOTH(b, &x, ld, r, W);
            BOTH(c, &x, ld, r, W + G * N);
            BOTH(dt, &dt, H, r, 0);
            BOTH(out, &out, W, r, 0);
            states(&g.state, &w.state, &s, i, H, P, N);
            ga[i] = g, wa[i] = w;
        }
        c->o->ssd(c->o, ga, SEQS);
        c->ref->ssd(c->ref, wa, SEQS);
        rig_wait();
        round_state(c, &s);
    }
    pair_same("ssd", c->text, &out, 16 * c->tol);
    pair_same("ssd state", c->text, &s, 8 * c->state_tol);
    struct pair *all[] = {&x, &dt, &s, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
    buf_free(&a), buf_free(&d), buf_free(&bias);
}

static void mix_wkv(const struct mix_case *c, int32_t H, int32_t S)
{
    const int64_t C = (int64_t)H * S;
    struct pair x = pair_new(c->o, c->ref, c->t, SEQS * c->T * 3 * C, 0.5f, 0),
                s = pair_new(c->o, c->ref, c->state, SEQS * C * S, 1, 0),
                out = pair_new(c->o, c->ref, c->t, SEQS * c->T * C, 0, 0);
    struct buf decay = buf_random(c->ref, DT_F32, C), bonus = buf_random(c->ref, DT_F32, C);
    for (int64_t i = 0; i < C; i++)
        ((float *)buf_data(&decay))[i] = expf(-expf(2 * ((float *)buf_data(&decay))[i] - 3));
    CALLS(c, t0, m)
    {
        struct wkv_args ga[SEQS], wa[SEQS];
        for (int64_t i = 0; i < SEQS; i++) {
            const int64_t r = i * c->T + t0;
            struct wkv_args g = {.T = m,
                                 .H = H,
                                 .S = S,
                                 .decay = buf_data(&decay),
                                 .bonus = buf_data(&bonus)},
                            w = g;
            BOTH(r, &x, 3 * C, r, 0);
            BOTH(k, &x, 3 * C, r, C);
            BOTH(v, &x, 3 * C, r, 2 * C);
            BOTH(out, &out, C, r, 0);
            states(&g.state, &w.state, &s, i, H, S, S);
            ga[i] = g, wa[i] = w;
        }
        c->o->wkv(c->o, ga, SEQS);
        c->ref->wkv(c->ref, wa, SEQS);
        rig_wait();
        round_state(c, &s);
    }
    pair_same("wkv", c->text, &out, 16 * c->tol);
    pair_same("wkv state", c->text, &s, 8 * c->state_tol);
    struct pair *all[] = {&x, &s, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
    buf_free(&decay), buf_free(&bonus);
}

static void mix_lru(const struct mix_case *c, int64_t D, bool gate, int64_t pos)
{
    struct pair x = pair_new(c->o, c->ref, c->t, SEQS * c->T * 4 * D, 1, 0),
                s = pair_new(c->o, c->ref, c->state, SEQS * D, 1, 0),
                out = pair_new(c->o, c->ref, c->t, SEQS * c->T * D, 0, 0);
    struct buf a = rates(c->ref, D), bi = buf_random(c->ref, DT_F32, D), br = buf_random(c->ref, DT_F32, D);
    for (int64_t i = 0; i < D; i++)
        ((float *)buf_data(&a))[i] *= i % 3 ? -1.0f : -1e-4f; /* a near 1 too */
    CALLS(c, t0, m)
    {
        struct lru_args ga[SEQS], wa[SEQS];
        for (int64_t i = 0; i < SEQS; i++) {
            const int64_t r = i * c->T + t0;
            struct lru_args g = {.T = m,
                                 .D = D,
                                 .pos = pos + t0,
                                 .bias_i = buf_data(&bi),
                                 .bias_r = buf_data(&br),
                                 .a = buf_data(&a)},
                            w = g;
            BOTH(x, &x, 4 * D, r, 0);
            BOTH(gate_i, &x, 4 * D, r, D);
            BOTH(gate_r, &x, 4 * D, r, 2 * D);
            BOTH(out, &out, D, r, 0);
            if (gate)
                BOTH(y, &x, 4 * D, r, 3 * D);
            states(&g.state, &w.state, &s, i, D, 1, 1);
            ga[i] = g, wa[i] = w;
        }
        c->o->lru(c->o, ga, SEQS);
        c->ref->lru(c->ref, wa, SEQS);
        rig_wait();
        round_state(c, &s);
    }
    pair_same("lru", c->text, &out, 4 * c->tol);
    pair_same("lru state", c->text, &s, 4 * c->state_tol);
    struct pair *all[] = {&x, &s, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
    buf_free(&a), buf_free(&bi), buf_free(&br);
}

static void mix_shift(const struct mix_case *c, int64_t C, int32_t n_out)
{
    struct pair x = pair_new(c->o, c->ref, c->t, SEQS * c->T * C, 1, 0),
                s = pair_new(c->o, c->ref, c->state, SEQS * C, 1, 0),
                out = pair_new(c->o, c->ref, c->t, SEQS * c->T * C * n_out, 0, 0);
    struct buf mix = buf_random(c->ref, DT_F32, C * n_out);
    CALLS(c, t0, m)
    {
        struct shift_args ga[SEQS], wa[SEQS];
        for (int64_t i = 0; i < SEQS; i++) {
            const int64_t r = i * c->T + t0;
            struct shift_args g = {.T = m, .C = C, .n_out = n_out}, w = g;
            BOTH(x, &x, C, r, 0);
            for (int32_t k = 0; k < n_out; k++) {
                BOTH(out[k], &out, C * n_out, r, k * C);
                g.mix[k] = w.mix[k] = (float *)buf_data(&mix) + k * C;
            }
            states(&g.prev, &w.prev, &s, i, C, 1, 1);
            ga[i] = g, wa[i] = w;
        }
        c->o->shift(c->o, ga, SEQS);
        c->ref->shift(c->ref, wa, SEQS);
        rig_wait();
        round_state(c, &s);
    }
    pair_same("shift", c->text, &out, c->tol);
    pair_same("shift state", c->text, &s, c->state_tol);
    struct pair *all[] = {&x, &s, &out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
    buf_free(&mix);
}

static void mix_gate(const struct mix_case *c, enum gate_fn fn, int64_t F, bool y, bool add)
{
    struct pair x = pair_new(c->o, c->ref, c->t, c->T * 2 * F, 2, 0),
                out = pair_new(c->o, c->ref, c->t, c->T * F, 1, 0);
    struct gate_args g = {.fn = fn, .T = c->T, .F = F, .add = add}, w = g;
    BOTH(x, &x, 2 * F, 0, 0);
    BOTH(out, &out, F, 0, 0);
    if (y)
        BOTH(y, &x, 2 * F, 0, F);
    c->o->gate(c->o, &g);
    c->ref->gate(c->ref, &w);
    pair_same("gate", c->text, &out, 2 * c->tol);
    pair_free(&x), pair_free(&out);
}

static void mix_norm(const struct mix_case *c, int64_t D, int32_t G, bool center, int z)
{
    struct pair x = pair_new(c->o, c->ref, c->t, c->T * 2 * D, 2, 0.5f),
                out = pair_new(c->o, c->ref, c->t, c->T * D, 0, 0);
    struct buf w_ = buf_random(c->ref, DT_F32, D), b = buf_random(c->ref, DT_F32, D);
    struct group_norm_args g = {.T = c->T,
                                .D = D,
                                .G = G,
                                .w = buf_data(&w_),
                                .b = center ? buf_data(&b) : NULL,
                                .eps = 1e-5f,
                                .center = center,
                                .gate_first = z == 1},
                           w = g;
    BOTH(x, &x, 2 * D, 0, 0);
    BOTH(out, &out, D, 0, 0);
    if (z)
        BOTH(z, &x, 2 * D, 0, D);
    c->o->group_norm(c->o, &g);
    c->ref->group_norm(c->ref, &w);
    pair_same("group_norm", c->text, &out, 4 * c->tol);
    pair_free(&x), pair_free(&out);
    buf_free(&w_), buf_free(&b);
}

static void mix_softcap(const struct mix_case *c, int64_t V)
{
    struct pair x = pair_new(c->o, c->ref, DT_F32, c->T * V, 20, 0);
    c->o->softcap(c->o, view(&x.got, DT_F32, c->T, V, 1), 30.0f);
    c->ref->softcap(c->ref, view(&x.want, DT_F32, c->T, V, 1), 30.0f);
    pair_same("softcap", c->text, &x, 1e-5);
    pair_free(&x);
}

static void mix_all(const struct mix_case *c)
{
    mix_conv(c, 37, 4, true, true);
    mix_conv(c, 64, 4, false, false);
    mix_scan(c, 35, 16, true);
    mix_scan(c, 48, 5, false);
    mix_ssd(c, 4, 16, 32, 2);
    mix_ssd(c, 2, 64, 128, 1);
    mix_ssd(c, 3, 70, 9, 1);
    mix_wkv(c, 2, 64);
    mix_wkv(c, 3, 10);
    mix_lru(c, 41, true, 0);
    mix_lru(c, 64, false, 7);
    mix_shift(c, 45, 4);
    mix_shift(c, 64, 2);
    for (int f = 0; f < GATE_N; f++)
        mix_gate(c, (enum gate_fn)f, 53, f != GATE_RELU2, f == GATE_SIGMOID);
    mix_norm(c, 96, 4, true, 2);
    mix_norm(c, 70, 1, false, 1);
    mix_norm(c, 60, 6, false, 0);
    mix_softcap(c, 301);
}

void test_mix(struct ops *o, struct ops *ref, enum dtype t)
{
    static const struct {
        int64_t T, cut;
    } calls[] = {{1, 0}, {2, 1}, {8, 0}, {65, 0}, {150, 33}};
    const double act = t == DT_F32 ? 2e-5 : t == DT_F16 ? 1e-3 : 8e-3;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        for (int half = 0; half < 2; half++) {
            /* a state in f16 that is off by its last bit moves the rows of a second call */
            struct mix_case c = {.o = o,
                                 .ref = ref,
                                 .t = t,
                                 .state = half ? DT_F16 : DT_F32,
                                 .T = calls[i].T,
                                 .cut = calls[i].cut,
                                 .tol = half && act < 1e-4 ? 2.5e-4 : act,
                                 .state_tol = half ? 2e-3 : 2e-5};
            snprintf(c.text, sizeof c.text, "%s T=%lld cut %lld, %s state", dtype_name(t), (long long)c.T,
                     (long long)c.cut, dtype_name(c.state));
            mix_all(&c);
        }
}

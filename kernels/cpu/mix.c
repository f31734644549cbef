/* Recurrent layers on the fast CPU backend: work is cut into items by channels, heads or rows, which threads
 * share; what an item computes does not depend on their number. */
#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/mix.h"

#define SSD_FEW 8 /* rows from which chunks are worth their products */

static const struct mix_isa *loops(const struct ops *o)
{
    const struct cpu *c = o->impl;
#ifdef KVS_X86
    if (c->isa == &isa_avx512)
        return &mix_avx512;
    if (c->isa == &isa_avx2)
        return &mix_avx2;
#endif
    (void)c;
    return &mix_portable;
}

/* One item per block of channels of one sequence. */
#define BY_CHANNELS(entry, channels)                                                                         \
    const struct mix_isa *isa = loops(o);                                                                    \
    for (int i = 0; i < n; i++) {                                                                            \
        _Pragma("omp parallel for num_threads(o->threads)") for (int64_t c = 0; c < a[i].channels;           \
                                                                 c += MIX_LANES)                             \
            isa->entry(&a[i], c, min_i64(MIX_LANES, a[i].channels - c));                                     \
    }

static void cpu_conv(struct ops *o, const struct conv_args *a, int n)
{
    BY_CHANNELS(conv, C)
}

static void cpu_scan(struct ops *o, const struct scan_args *a, int n)
{
    BY_CHANNELS(scan, E)
}

static void cpu_lru(struct ops *o, const struct lru_args *a, int n)
{
    BY_CHANNELS(lru, D)
}

static void cpu_shift(struct ops *o, const struct shift_args *a, int n)
{
    BY_CHANNELS(shift, C)
}

static void cpu_wkv(struct ops *o, const struct wkv_args *a, int n)
{
    const struct mix_isa *isa = loops(o);
    for (int i = 0; i < n; i++) {
#pragma omp parallel for num_threads(o->threads)
        for (int32_t h = 0; h < a[i].H; h++)
            isa->wkv(&a[i], h);
    }
}

static void cpu_gate(struct ops *o, const struct gate_args *a)
{
    const struct mix_isa *isa = loops(o);
#pragma omp parallel for num_threads(o->threads) if (a->T > 1)
    for (int64_t t = 0; t < a->T; t++)
        isa->gate(a, t);
}

static void cpu_group_norm(struct ops *o, const struct group_norm_args *a)
{
    const struct mix_isa *isa = loops(o);
#pragma omp parallel for num_threads(o->threads) if (a->T > 1)
    for (int64_t t = 0; t < a->T; t++)
        isa->group_norm(a, t);
}

static void cpu_softcap(struct ops *o, struct tensor x, float cap)
{
    const struct mix_isa *isa = loops(o);
    const int64_t n = tensor_count(&x);
#pragma omp parallel for num_threads(o->threads) if (n > 16384)
    for (int64_t i = 0; i < n; i += 4096)
        isa->softcap((float *)x.data + i, cap, min_i64(4096, n - i));
}

/* ------------------------------------------------------------------ Mamba-2
 * In chunks of SSD_ROWS rows (arXiv 2405.21060, section 6): with S the sums of dt a within the chunk,
 *   y_t = sum over s <= t of exp(S_t - S_s) (c_t . b_s) dt_s x_s + exp(S_t) state c_t + d x_t,
 *   state = exp(S_end) state + sum over s of exp(S_end - S_s) dt_s x_s b_s.
 * All three sums are products of a few rows with 64 columns, which the panels of cpu_matmul do. Only
 * differences of later minus earlier sums are raised, so nothing can overflow. */

/* What the heads of a group share in one chunk. */
struct chunk {
    float cb[SSD_ROWS * SSD_ROWS]; /* c_t . b_s */
    float bt[];                    /* [N,SSD_ROWS]: b of the chunk, transposed; 0 behind the last row */
};

static size_t chunk_bytes(const struct ssd_args *a)
{
    return sizeof(struct chunk) + (size_t)a->N * SSD_ROWS * sizeof(float);
}

static struct chunk *chunk_at(void *chunks, const struct ssd_args *a, int64_t i, int32_t g)
{
    return (struct chunk *)((char *)chunks + (size_t)(i * a->G + g) * chunk_bytes(a));
}

/* y [m,ldy] = x [m,ldx] w, w [k,SSD_ROWS], n columns. */
static void product(const struct cpu *c, float *y, int64_t ldy, const float *x, int64_t ldx, const float *w,
                    int64_t k, int64_t m, int64_t n)
{
    for (int64_t r = 0; r < m; r += PANEL_ROWS) {
        struct panel_args p = {.y = y + r * ldy,
                               .x = x + r * ldx,
                               .w = w,
                               .dtype = DT_F32,
                               .ldy = ldy,
                               .ldx = ldx,
                               .k = k,
                               .m = (int)min_i64(PANEL_ROWS, m - r),
                               .n = (int)n};
        c->isa->panel(&p);
    }
}

static void fill_chunk(const struct cpu *c, struct chunk *out, const struct ssd_args *a, int64_t i, int32_t g)
{
    const int64_t t0 = i * SSD_ROWS, m = min_i64(SSD_ROWS, a->T - t0), from = (int64_t)g * a->N;
    const float *b = (const float *)a->b.data + t0 * a->b.ld + from;
    memset(out->bt, 0, (size_t)a->N * SSD_ROWS * sizeof(float));
    for (int64_t s = 0; s < m; s++)
        for (int64_t n = 0; n < a->N; n++)
            out->bt[n * SSD_ROWS + s] = b[s * a->b.ld + n];
    product(c, out->cb, SSD_ROWS, (const float *)a->c.data + t0 * a->c.ld + from, a->c.ld, out->bt, a->N, m,
            SSD_ROWS);
}

/* Memory of one item: a block of up to SSD_ROWS channels of one head. */
struct ssd_room {
    float dt[SSD_ROWS], weight[SSD_ROWS];
    double sum[SSD_ROWS];
    float mix[SSD_ROWS * SSD_ROWS], x[SSD_ROWS * SSD_ROWS]; /* weights of rows for rows; x of the chunk */
    float y[SSD_ROWS * SSD_ROWS],
        old[SSD_ROWS * SSD_ROWS]; /* what comes from the chunk, and from the state */
    float rows[]; /* state [N,SSD_ROWS], b weighted [N,SSD_ROWS], its product with x [N,SSD_ROWS] */
};

static size_t room_bytes(const struct ssd_args *a)
{
    size_t bytes = sizeof(struct ssd_room) + 3 * (size_t)a->N * SSD_ROWS * sizeof(float);
    return (bytes + 63) / 64 * 64;
}

/* Rows of x of the chunk, channels [p, p + np) of head h; zeros elsewhere. */
static void take_x(struct ssd_room *r, const struct ssd_args *a, int64_t t0, int64_t m, int64_t at,
                   int64_t np)
{
    memset(r->x, 0, sizeof r->x);
    for (int64_t t = 0; t < m; t++)
        memcpy(r->x + t * SSD_ROWS, (const float *)a->x.data + (t0 + t) * a->x.ld + at,
               (size_t)np * sizeof(float));
}

static void do_chunk(const struct cpu *c, const struct mix_isa *isa, struct ssd_room *r,
                     const struct ssd_args *a, const struct chunk *ch, int64_t i, int32_t h, int64_t at,
                     int64_t np)
{
    const int64_t t0 = i * SSD_ROWS, m = min_i64(SSD_ROWS, a->T - t0),
                  bc = (int64_t)(h / (a->H / a->G)) * a->N;
    float *state = r->rows, *bw = state + a->N * SSD_ROWS, *in = bw + a->N * SSD_ROWS;
    take_x(r, a, t0, m, at, np);
    isa->ssd_steps(a, h, t0, m, r->dt, r->sum);
    isa->ssd_mix(r->mix, ch->cb, r->sum, r->dt, m);
    product(c, r->y, SSD_ROWS, r->mix, SSD_ROWS, r->x, SSD_ROWS, m, np);
    product(c, r->old, SSD_ROWS, (const float *)a->c.data + t0 * a->c.ld + bc, a->c.ld, state, a->N, m, np);
    for (int64_t t = 0; t < m; t++) {
        float *y = (float *)a->out.data + (t0 + t) * a->out.ld + at;
        isa->fma_row(r->y + t * SSD_ROWS, r->old + t * SSD_ROWS, expf((float)r->sum[t]), np);
        isa->fma_row(r->y + t * SSD_ROWS, r->x + t * SSD_ROWS, a->d[h], np);
        memcpy(y, r->y + t * SSD_ROWS, (size_t)np * sizeof(float));
    }
    for (int64_t s = 0; s < SSD_ROWS; s++)
        r->weight[s] = expf((float)(r->sum[SSD_ROWS - 1] - r->sum[s])) * r->dt[s];
    const float last = expf((float)r->sum[SSD_ROWS - 1]);
    isa->mul_rows(bw, ch->bt, r->weight, a->N);
    product(c, in, SSD_ROWS, bw, SSD_ROWS, r->x, SSD_ROWS, a->N, np);
    for (int32_t n = 0; n < a->N; n++)
        isa->scale_add(state + n * SSD_ROWS, last, in + n * SSD_ROWS, np);
}

/* Channels [p, p + np) of head h through all chunks; their state lies transposed meanwhile. */
static void do_channels(const struct cpu *c, const struct mix_isa *isa, struct ssd_room *r,
                        const struct ssd_args *a, void *chunks, int32_t h, int64_t p, int64_t np)
{
    const int64_t at = (int64_t)h * a->P + p;
    memset(r->rows, 0, (size_t)a->N * SSD_ROWS * sizeof(float));
    for (int64_t k = 0; k < np * a->N; k++)
        r->rows[k % a->N * SSD_ROWS + k / a->N] = host_get(a->state.data, a->state.dtype, at * a->N + k);
    for (int64_t i = 0; i * SSD_ROWS < a->T; i++)
        do_chunk(c, isa, r, a, chunk_at(chunks, a, i, h / (a->H / a->G)), i, h, at, np);
    for (int64_t k = 0; k < np * a->N; k++)
        host_put(a->state.data, a->state.dtype, at * a->N + k, r->rows[k % a->N * SSD_ROWS + k / a->N]);
}

static void ssd_chunked(struct ops *o, const struct ssd_args *a)
{
    struct cpu *c = o->impl;
    const struct mix_isa *isa = loops(o);
    const int64_t n_chunk = (a->T + SSD_ROWS - 1) / SSD_ROWS, blocks = (a->P + SSD_ROWS - 1) / SSD_ROWS;
    char *room = cpu_scratch(c, room_bytes(a));
    if (!room || !host_grow(&c->host, &c->partial, (size_t)(n_chunk * a->G) * chunk_bytes(a)))
        return; /* latched */
    void *chunks = c->partial.data;
#pragma omp parallel for num_threads(o->threads)
    for (int64_t k = 0; k < n_chunk * a->G; k++)
        fill_chunk(c, chunk_at(chunks, a, k / a->G, (int32_t)(k % a->G)), a, k / a->G, (int32_t)(k % a->G));
#pragma omp parallel for num_threads(o->threads) schedule(dynamic)
    for (int64_t k = 0; k < a->H * blocks; k++) {
        int64_t p = k % blocks * SSD_ROWS;
        do_channels(c, isa, (struct ssd_room *)(room + (size_t)omp_get_thread_num() * room_bytes(a)), a,
                    chunks, (int32_t)(k / blocks), p, min_i64(SSD_ROWS, a->P - p));
    }
}

static void ssd_rows(struct ops *o, const struct ssd_args *a)
{
    const struct mix_isa *isa = loops(o);
#pragma omp parallel for num_threads(o->threads)
    for (int32_t k = 0; k < a->H * a->P; k++)
        isa->ssd_row(a, k / a->P, k % a->P);
}

static void cpu_ssd(struct ops *o, const struct ssd_args *a, int n)
{
    for (int i = 0; i < n; i++) {
        assert(a[i].N <= 256 && a[i].H % a[i].G == 0);
        if (a[i].T < SSD_FEW)
            ssd_rows(o, &a[i]);
        else
            ssd_chunked(o, &a[i]);
    }
}

void cpu_mix_table(struct ops *o)
{
    o->conv = cpu_conv;
    o->scan = cpu_scan;
    o->ssd = cpu_ssd;
    o->wkv = cpu_wkv;
    o->lru = cpu_lru;
    o->shift = cpu_shift;
    o->gate = cpu_gate;
    o->group_norm = cpu_group_norm;
    o->softcap = cpu_softcap;
}

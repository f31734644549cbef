// The probability that each key gets from the rows of a call, summed (H2O). Logits are computed twice rather
// than kept where there are many rows: first the largest and the sum of every row, then every key adds up its
// rows in their order; both by tiles of 64 rows and 64 keys, on matrix units where the cache is dense and of
// 16 bits. Of one row (decode steps) the logits are kept: keys are read once for all heads that share them.
#include "kernels/cuda/attend.h"
#include "kernels/cuda/mma.h"

#define THREADS 128
#define TILE    64
#define SLICE   64 // channels in shared memory at a time
#define HEADS   8  // heads of a group at a time, of one row

// Largest and sum of the exponentials of one row of one head.
struct stat {
    float m, l;
};

struct scored {
    struct attend_args a;
    struct stat *stat; // many rows: [T,H]; one row: of its chunks of keys [H,chunks]
    float *x;          // one row: logits [H,keys of all sets]
    int64_t keys, chunks;
};

enum unit { PLAIN, UNIT_F16, UNIT_BF16 }; // how logits are computed

// Eight channels of a key from c on, a multiple of 8.
DEVICE void key_eight(float v[8], const struct kv_run *k, int64_t row, int64_t h, int64_t c, int64_t Hk,
                      int64_t d)
{
    if (k->layout == QUANT_NONE && k->dtype != DT_F32 && d % 8 == 0 && (uintptr_t)k->data % 16 == 0) {
        int64_t r = k->index ? k->index[row] : row;
        uint4 u = *(const uint4 *)(const void *)((const uint16_t *)k->data + (r * Hk + h) * d + c);
        const uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
        for (int e = 0; e < 8; e++) {
            uint16_t b = (uint16_t)(w[e / 2] >> e % 2 * 16);
            v[e] = k->dtype == DT_F16 ? half_value(b) : brain_value(b);
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = c + e < d ? run_value(k, row, h, c + e, Hk, d) : 0.0f;
}

DEVICE float scaled(const struct attend_args *a, float x)
{
    return a->f16_attn_scores ? half_round(half_round(x) * a->scale) : x * a->scale;
}

/* ------------------------------------------------------------------ many rows */

// What a block works with: 64 rows of one head, 64 keys of one set.
struct __align__(16) tiles
{
    float x[TILE][TILE + 1]; // logits, then shares
    uint16_t q[TILE][SLICE + 8], k[TILE][SLICE + 8];
    int32_t dist[TILE];  // of the key from the call's first row: q_pos - its position, cut
    uint8_t there[TILE]; // is there such a key?
    float part[32];
};

DEVICE int32_t cut(int64_t x)
{
    return (int32_t)(x > INT32_MAX / 2 ? INT32_MAX / 2 : x < INT32_MIN / 2 ? INT32_MIN / 2 : x);
}

// Where the keys from j0 on lie; true if one of the 64 rows from t0 on may see one of them.
DEVICE bool tile_begin(struct tiles *w, const struct attend_args *a, const struct attend_set *s, int64_t t0,
                       int64_t j0, int64_t n)
{
    float seen = 0.0f;
    __syncthreads();
    if (threadIdx.x < TILE) {
        int64_t j = j0 + threadIdx.x, row;
        bool there = j < n;
        const struct kv_run *k = there ? run_of(s->k, j, &row) : NULL;
        int64_t dist = there ? a->q_pos - (k->pos + (k->index ? k->index[row] : row)) : 0;
        w->dist[threadIdx.x] = cut(dist);
        w->there[threadIdx.x] = there;
        int64_t last = (t0 + TILE < a->out.n[0] ? t0 + TILE : a->out.n[0]) - 1;
        seen = there && dist + last >= s->dist_min && dist + t0 < s->dist_max ? 1.0f : 0.0f;
    }
    return block_max(seen, w->part) != 0.0f;
}

DEVICE void put_pair(uint16_t *at, uint32_t pair)
{
    *(uint32_t *)(void *)at = pair;
}

// Channels [c0, c0 + SLICE) of the rows and keys, in 16 bits.
template <bool BF16>
DEVICE void slice_load(struct tiles *w, const struct attend_args *a, const struct attend_set *s, int64_t t0,
                       int64_t j0, int64_t head, int64_t c0)
{
    int64_t H = a->out.n[1], d = a->out.n[2], Hk = a->n_kv_head, T = a->out.n[0];
    for (int32_t i = threadIdx.x; i < TILE * (SLICE / 8); i += THREADS) {
        int32_t r = i / (SLICE / 8), c = i % (SLICE / 8) * 8;
        float v[8] = {};
        int64_t row;
        if (w->there[r] && c0 + c < d) {
            const struct kv_run *k = run_of(s->k, j0 + r, &row);
            key_eight(v, k, row, head / (H / Hk), c0 + c, Hk, d);
        }
#pragma unroll
        for (int e = 0; e < 8; e += 2)
            put_pair(&w->k[r][c + e], unit_pair<BF16>(v[e], v[e + 1]));
#pragma unroll
        for (int e = 0; e < 8; e++)
            w->q[r][c + e] =
                unit_bits<BF16>(t0 + r < T && c0 + c + e < d
                                    ? load(s->q.data, s->q.dtype, ((t0 + r) * H + head) * d + c0 + c + e)
                                    : 0.0f);
    }
}

// A logit into its place: masked ones are -infinity.
DEVICE void put_logit(struct tiles *w, const struct attend_args *a, const struct attend_set *s, int64_t t0,
                      int64_t j0, int64_t head, int32_t r, int32_t j, float x)
{
    int64_t dist = w->dist[j] + t0 + r;
    bool seen = w->there[j] && t0 + r < a->out.n[0] && dist >= s->dist_min && dist < s->dist_max &&
                (!s->keep || s->keep[head / (a->out.n[1] / s->keep_rows) * s->keep_ld + j0 + j]);
    w->x[r][j] = seen ? scaled(a, x) : -INFINITY;
}

// Logits of the tile. Each warp has 16 rows on matrix units; else a thread has 32 values of one row.
template <enum unit UNIT>
DEVICE void tile_logits(struct tiles *w, const struct attend_args *a, const struct attend_set *s, int64_t t0,
                        int64_t j0, int64_t head)
{
    int64_t H = a->out.n[1], d = a->out.n[2], Hk = a->n_kv_head;
    int32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, m = lane / 8, mr = lane % 8;
    if (UNIT == PLAIN) {
        int32_t r = threadIdx.x / 2;
        const int64_t at = ((t0 + r) * H + head) * d;
        for (int32_t j = threadIdx.x % 2; j < TILE; j += 2) {
            float x = 0.0f;
            int64_t row;
            if (w->there[j] && t0 + r < a->out.n[0]) {
                const struct kv_run *k = run_of(s->k, j0 + j, &row);
                for (int64_t c = 0; c < d; c += 8) {
                    float v[8];
                    key_eight(v, k, row, head / (H / Hk), c, Hk, d);
                    for (int e = 0; e < 8 && c + e < d; e++)
                        x = fmaf(load(s->q.data, s->q.dtype, at + c + e), v[e], x);
                }
            }
            put_logit(w, a, s, t0, j0, head, r, j, x);
        }
        __syncthreads();
        return;
    }
    const bool BF16 = UNIT == UNIT_BF16;
    float x[TILE / 8][4] = {};
    for (int64_t c0 = 0; c0 < d; c0 += SLICE) {
        __syncthreads();
        slice_load<BF16>(w, a, s, t0, j0, head, c0);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < SLICE / 16; k++) {
            uint32_t q[4];
            unit_load<false>(q, &w->q[warp * 16 + m % 2 * 8 + mr][k * 16 + m / 2 * 8]);
#pragma unroll
            for (int i = 0; i < TILE / 8; i += 2) {
                uint32_t b[4];
                unit_load<false>(b, &w->k[i * 8 + m / 2 * 8 + mr][k * 16 + m % 2 * 8]);
                unit_mma<BF16>(x[i], q, b);
                unit_mma<BF16>(x[i + 1], q, b + 2);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < TILE / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            put_logit(w, a, s, t0, j0, head, warp * 16 + lane / 4 + e / 2 * 8, i * 8 + lane % 4 * 2 + e % 2,
                      x[i][e]);
    __syncthreads();
}

// Grid (row tiles, heads, sequences): two threads per row.
template <enum unit UNIT>
static __global__ void __launch_bounds__(THREADS) stat_kernel(const struct scored *args)
{
    grid_begin();
    __shared__ struct tiles w;
    const struct scored *m = &args[blockIdx.z];
    const struct attend_args *a = &m->a;
    int64_t H = a->out.n[1], t0 = (int64_t)blockIdx.x * TILE, head = blockIdx.y;
    if (t0 >= a->out.n[0] || head >= H)
        return;
    struct stat own = {-INFINITY, 0.0f};
    for (int i = 0; i < a->n_set; i++) {
        const struct attend_set *s = &a->set[i];
        int64_t n = attend_keys(s);
        for (int64_t j0 = 0; j0 < n; j0 += TILE) {
            if (!tile_begin(&w, a, s, t0, j0, n))
                continue;
            tile_logits<UNIT>(&w, a, s, t0, j0, head);
            const float *x = &w.x[threadIdx.x / 2][threadIdx.x % 2 * (TILE / 2)];
            float top = own.m, sum = 0.0f;
            for (int k = 0; k < TILE / 2; k++)
                top = fmaxf(top, x[k]);
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 1));
            float base = top == -INFINITY ? 0.0f : top; // nothing seen so far: all terms are 0, or NaN
            for (int k = 0; k < TILE / 2; k++)
                sum += expf(x[k] - base);
            sum += __shfl_xor_sync(FULL, sum, 1);
            own.l = own.l * (own.m == -INFINITY ? 1.0f : expf(own.m - base)) + sum;
            own.m = top;
        }
    }
    int64_t t = t0 + threadIdx.x / 2;
    if (threadIdx.x % 2 == 0 && t < a->out.n[0])
        m->stat[t * H + head] = own;
}

// Grid (key tiles, heads, sequences * 2 sets): a thread owns one key and adds its rows in their order.
template <enum unit UNIT>
static __global__ void __launch_bounds__(THREADS) attn_scores_kernel(const struct scored *args)
{
    grid_begin();
    __shared__ struct tiles w;
    const struct scored *m = &args[blockIdx.z / 2];
    const struct attend_args *a = &m->a;
    int which = blockIdx.z % 2;
    int64_t T = a->out.n[0], H = a->out.n[1], head = blockIdx.y, j0 = (int64_t)blockIdx.x * TILE,
            j = j0 + threadIdx.x;
    if (which >= a->n_set || head >= H || !a->set[which].attn_scores)
        return;
    const struct attend_set *s = &a->set[which];
    int64_t n = attend_keys(s);
    bool owner = threadIdx.x < TILE && j < n;
    float attn_scores = owner ? s->attn_scores[head * s->attn_scores_ld + j] : 0.0f;
    for (int64_t t0 = 0; t0 < T && j0 < n; t0 += TILE) {
        if (!tile_begin(&w, a, s, t0, j0, n))
            continue;
        tile_logits<UNIT>(&w, a, s, t0, j0, head);
        for (int32_t i = threadIdx.x; i < TILE * TILE; i += THREADS) {
            int32_t r = i / TILE;
            float x = w.x[r][i % TILE];
            if (t0 + r >= T || x == -INFINITY) {
                w.x[r][i % TILE] = 0.0f;
                continue;
            }
            struct stat of = m->stat[(t0 + r) * H + head];
            x = expf(x - of.m) / of.l;
            w.x[r][i % TILE] = a->f16_attn_scores ? half_round(x) : x;
        }
        __syncthreads();
        for (int r = 0; r < TILE && owner; r++)
            attn_scores = a->f16_attn_scores ? half_round(attn_scores + w.x[r][threadIdx.x])
                                             : attn_scores + w.x[r][threadIdx.x];
    }
    if (owner)
        s->attn_scores[head * s->attn_scores_ld + j] = attn_scores;
}

/* ------------------------------------------------------------------ one row */

// Where the keys of a set begin among those of all sets, and its chunks among all chunks.
DEVICE int64_t keys_before(const struct attend_args *a, int which, int64_t *chunk)
{
    int64_t n = which ? attend_keys(&a->set[0]) : 0;
    *chunk = (n + THREADS - 1) / THREADS;
    return n;
}

// Grid (chunks of keys, KV heads, sequences * 2 sets): a thread owns a key; logits of the group's heads, and
// the largest and the sum of the chunk.
KERNEL row_kernel(const struct scored *args)
{
    grid_begin();
    __shared__ float part[32];
    BLOCK_SHARED(float, q); // [group,d]
    const struct scored *m = &args[blockIdx.z / 2];
    const struct attend_args *a = &m->a;
    int which = blockIdx.z % 2;
    int64_t H = a->out.n[1], d = a->out.n[2], Hk = a->n_kv_head, g = H / Hk, h = blockIdx.y, first, row = 0;
    const struct attend_set *s = &a->set[which];
    int64_t n = which < a->n_set ? attend_keys(s) : 0, start = (int64_t)blockIdx.x * THREADS,
            j = start + threadIdx.x;
    if (h >= Hk || start >= n)
        return;
    int64_t before = keys_before(a, which, &first);
    for (int64_t i = threadIdx.x; i < g * d; i += THREADS)
        q[i] = load(s->q.data, s->q.dtype, h * g * d + i);
    __syncthreads();
    const struct kv_run *k = j < n ? run_of(s->k, j, &row) : NULL;
    for (int64_t g0 = 0; g0 < g; g0 += HEADS) {
        float x[HEADS] = {};
        for (int64_t c = 0; k && c < d; c += 8) {
            float v[8];
            key_eight(v, k, row, h, c, Hk, d);
#pragma unroll
            for (int i = 0; i < HEADS; i++)
                for (int e = 0; e < 8 && g0 + i < g; e++)
                    x[i] = c + e < d ? fmaf(q[(g0 + i) * d + c + e], v[e], x[i]) : x[i];
        }
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
            int64_t head = h * g + g0 + i;
            if (g0 + i >= g)
                break;
            bool seen = k && attend_visible(s, k, row, j, head, a->q_pos);
            float y = seen ? scaled(a, x[i]) : -INFINITY;
            if (j < n)
                m->x[head * m->keys + before + j] = y;
            float top = block_max(y, part), sum = block_sum(top == -INFINITY ? 0.0f : expf(y - top), part);
            if (threadIdx.x == 0)
                m->stat[head * m->chunks + first + blockIdx.x] = stat{top, sum};
        }
    }
}

// Grid (chunks of keys, heads, sequences * 2 sets): every block puts the chunks' sums together in order.
KERNEL share_kernel(const struct scored *args)
{
    grid_begin();
    __shared__ float part[32];
    const struct scored *m = &args[blockIdx.z / 2];
    const struct attend_args *a = &m->a;
    int which = blockIdx.z % 2;
    int64_t head = blockIdx.y, j = (int64_t)blockIdx.x * THREADS + threadIdx.x, first;
    const struct attend_set *s = &a->set[which];
    if (which >= a->n_set || head >= a->out.n[1] || !s->attn_scores ||
        (int64_t)blockIdx.x * THREADS >= attend_keys(s))
        return;
    int64_t before = keys_before(a, which, &first), n = attend_keys(s);
    const struct stat *of = m->stat + head * m->chunks;
    float top = -INFINITY, sum = 0.0f;
    for (int64_t i = threadIdx.x; i < m->chunks; i += THREADS)
        top = fmaxf(top, of[i].m);
    top = block_max(top, part);
    for (int64_t i = threadIdx.x; i < m->chunks; i += THREADS)
        sum += of[i].m == -INFINITY ? of[i].l : of[i].l * expf(of[i].m - top);
    sum = block_sum(sum, part);
    if (j >= n || top == -INFINITY)
        return;
    float *attn_scores = &s->attn_scores[head * s->attn_scores_ld + j],
          x = expf(m->x[head * m->keys + before + j] - top) / sum;
    *attn_scores = a->f16_attn_scores ? half_round(*attn_scores + half_round(x)) : *attn_scores + x;
}

/* ------------------------------------------------------------------ host */

static bool wants_attn_scores(const struct attend_args *a)
{
    return a->set[0].attn_scores || (a->n_set > 1 && a->set[1].attn_scores);
}

// Matrix units where keys are dense values of 16 bits. Attention scores as fp16 tensors would give them want
// exact products.
static enum unit unit_of(const struct attend_args *a)
{
    enum dtype t = a->set[0].n_k ? a->set[0].k[0].dtype : DT_F32;
    if (a->out.n[0] == 1 || a->out.n[2] % 8 || t == DT_F32)
        return PLAIN;
    for (int i = 0; i < a->n_set; i++) {
        if (a->f16_attn_scores && a->set[i].q.dtype != t)
            return PLAIN;
        for (int k = 0; k < a->set[i].n_k; k++)
            if (a->set[i].k[k].layout != QUANT_NONE || a->set[i].k[k].dtype != t)
                return PLAIN;
    }
    return t == DT_F16 ? UNIT_F16 : UNIT_BF16;
}

struct extent {
    int64_t rows, keys, heads, kv_heads, group;
};

template <enum unit UNIT>
static void many(struct cuda *c, const struct scored *dev, struct extent e, unsigned n)
{
    LAUNCH(c, stat_kernel<UNIT>, dim3(blocks_of(e.rows, TILE), (unsigned)e.heads, n), THREADS, 0, dev);
    LAUNCH(c, attn_scores_kernel<UNIT>, dim3(blocks_of(e.keys, TILE), (unsigned)e.heads, n * 2), THREADS, 0,
           dev);
}

static void one_row(struct cuda *c, const struct scored *dev, struct extent e, unsigned n)
{
    unsigned chunks = blocks_of(e.keys, THREADS);
    LAUNCH(c, row_kernel, dim3(chunks, (unsigned)e.kv_heads, n * 2), THREADS, (size_t)e.group * sizeof(float),
           dev);
    LAUNCH(c, share_kernel, dim3(chunks, (unsigned)e.heads, n * 2), THREADS, 0, dev);
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

// n sequences of one unit, all of one row or all of many.
static void attn_scores_part(struct cuda *c, struct scored *m, int n)
{
    struct extent e = {0, 0, 0, 0, 0};
    bool one = m[0].a.out.n[0] == 1;
    size_t stats = 0, logits = 0;
    for (int i = 0; i < n; i++) {
        const struct attend_args *a = &m[i].a;
        m[i].keys = m[i].chunks = 0;
        for (int s = 0; s < a->n_set; s++) {
            int64_t keys = attend_keys(&a->set[s]);
            e.keys = most(e.keys, keys);
            m[i].keys += keys;
            m[i].chunks += (keys + THREADS - 1) / THREADS;
        }
        e.rows = most(e.rows, a->out.n[0]);
        e.heads = most(e.heads, a->out.n[1]);
        e.kv_heads = most(e.kv_heads, a->n_kv_head);
        e.group = most(e.group, a->out.n[1] / a->n_kv_head * a->out.n[2]);
        stats += (size_t)(a->out.n[1] * (one ? m[i].chunks : a->out.n[0]));
        logits += one ? (size_t)(a->out.n[1] * m[i].keys) : 0;
    }
    struct stat *stat =
        (struct stat *)cuda_scratch(c, SCRATCH_SCORES, stats * sizeof *stat + logits * sizeof(float));
    if (!stat || !e.rows || !e.keys)
        return;
    float *x = (float *)(void *)(stat + stats);
    for (int i = 0; i < n; i++) {
        const struct attend_args *a = &m[i].a;
        m[i].stat = stat;
        m[i].x = x;
        stat += a->out.n[1] * (one ? m[i].chunks : a->out.n[0]);
        x += one ? a->out.n[1] * m[i].keys : 0;
    }
    const struct scored *dev = (const struct scored *)cuda_args(c, m, (size_t)n * sizeof *m);
    if (!dev)
        return;
    enum unit unit = unit_of(&m[0].a);
    if (one)
        one_row(c, dev, e, (unsigned)n);
    else if (unit == PLAIN)
        many<PLAIN>(c, dev, e, (unsigned)n);
    else if (unit == UNIT_F16)
        many<UNIT_F16>(c, dev, e, (unsigned)n);
    else
        many<UNIT_BF16>(c, dev, e, (unsigned)n);
}

static bool alike(const struct attend_args *a, const struct attend_args *b)
{
    return (a->out.n[0] == 1) == (b->out.n[0] == 1) && unit_of(a) == unit_of(b);
}

void attn_scores_run(struct cuda *c, const struct attend_args *a, int n)
{
    const int limit = 64;
    struct scored part[limit];
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (!wants_attn_scores(&a[i]))
            continue;
        if (m == limit || (m && !alike(&part[0].a, &a[i]))) {
            attn_scores_part(c, part, m);
            m = 0;
        }
        part[m++] = scored{a[i], NULL, NULL, 0, 0};
    }
    if (m)
        attn_scores_part(c, part, m);
}

// Attention on matrix units with every feature, for 16-bit caches and compressed ones: prompts that flash.cu
// and few rows that decode.cu leave over.
//
// A block serves 64 rows of one KV head of one sequence; rows are (token, query head of the group) pairs, so
// the group shares what is read. Keys come in tiles of 64: keys and values go to shared memory in 16 bits,
// codes are turned into values on the way; a tile lies in one run of keys and one of values. Each of the 4
// warps takes 16 rows and all keys; softmax is kept online per row in f32. Source of the scheme: arXiv
// 2205.14135, 2307.08691 (flash attention).
#include "kernels/cuda/attend.h"
#include "kernels/cuda/mma.h"

#define THREADS 128
#define TILE    64
#define ROWS    64
#define MOST    64 // sequences of one launch
#define PAD     8  // 16-bit values behind every row of a tile: no bank conflicts, rows stay 16-byte aligned

/* ------------------------------------------------------------------ tiles */

// 8 codes of `bits` bits (1, 2, 4 or 8) that lie in `bits` bytes.
DEVICE uint64_t codes_of(const uint8_t *p, int32_t bits)
{
    if (bits == 2)
        return *(const uint16_t *)(const void *)p;
    if (bits == 4)
        return *(const uint32_t *)(const void *)p;
    return bits == 8 ? *(const uint64_t *)(const void *)p : *p;
}

// Keys row0..row0+n of KV head h of a run -> tile [TILE, D + PAD]; the rest of it becomes zero.
template <bool BF16, int D>
DEVICE void tile_load(uint16_t *tile, const struct kv_run *run, int64_t row0, int32_t n, int64_t h,
                      int64_t Hk, int32_t d)
{
    const int W = D + PAD;
    int32_t chunks = d / 8, bits = run->bits;
    if (n < TILE || d < D)
        for (int32_t i = threadIdx.x; i < TILE * (D / 8); i += THREADS)
            if (i / (D / 8) >= n || i % (D / 8) >= chunks)
                for (int32_t e = 0; e < 8; e++)
                    tile[i / (D / 8) * W + i % (D / 8) * 8 + e] = 0;
    if (run->layout == QUANT_NONE) {
        for (int32_t i = threadIdx.x; i < n * chunks; i += THREADS) {
            int64_t row = row0 + i / chunks;
            row = run->index ? run->index[row] : row;
            const uint4 *src = (const uint4 *)((const uint16_t *)run->data + (row * Hk + h) * d) + i % chunks;
            *(uint4 *)(void *)(tile + i / chunks * W + i % chunks * 8) = *src;
        }
    } else if (run->layout == QUANT_TOKEN) {
        for (int32_t i = threadIdx.x; i < n * chunks; i += THREADS) {
            int64_t at = (row0 + i / chunks) * Hk + h,
                    s = at * (d / run->group) + i % chunks * 8 / run->group;
            uint64_t codes =
                codes_of((const uint8_t *)run->data + at * d * bits / 8 + i % chunks * bits, bits);
            float scale = half_value(run->scale[s]), min = half_value(run->min[s]);
            uint16_t *dst = tile + i / chunks * W + i % chunks * 8;
            for (int32_t e = 0; e < 8; e++, codes >>= bits)
                dst[e] = unit_bits<BF16>(dequant(run, scale, min, (uint32_t)codes & ((1U << bits) - 1U)));
        }
    } else { // 8 tokens of one channel at a time
        int64_t first = row0 / 8;
        int32_t blocks = (int32_t)((row0 + n - 1) / 8 - first) + 1;
        for (int32_t i = threadIdx.x; i < blocks * d; i += THREADS) {
            int64_t row = (first + i / d) * 8, s = (row / run->group * Hk + h) * d + i % d;
            uint64_t codes = codes_of(
                (const uint8_t *)run->data + s * run->group * bits / 8 + row % run->group * bits / 8, bits);
            float scale = half_value(run->scale[s]), min = half_value(run->min[s]);
            for (int32_t e = 0; e < 8; e++, codes >>= bits) {
                int64_t key = row + e - row0;
                if (key >= 0 && key < n)
                    tile[key * W + i % d] =
                        unit_bits<BF16>(dequant(run, scale, min, (uint32_t)codes & ((1U << bits) - 1U)));
            }
        }
    }
}

/* ------------------------------------------------------------------ rows of a warp */

// What a thread knows of its two rows (g and g + 8 of the warp's 16).
struct two_rows {
    int32_t t[2];    // token of the call; -1: no such row
    int32_t head[2]; // query head
    float m[2], l[2];
};

// A set's mask in 32 bits: distances beyond any position are cut.
struct tile_mask {
    const uint8_t *keep; // of the tile's first key
    int64_t keep_ld;
    int32_t dist_min, dist_max, per_keep;
};

// q of the warp's rows as the unit's A operands: [D/16][4]. Rows and channels that do not exist are zero.
template <bool BF16, int D>
DEVICE void load_queries(uint32_t q[D / 16][4], const struct attend_set *s, const struct two_rows *r,
                         int64_t H, int32_t d)
{
    int32_t t2 = threadIdx.x % 4 * 2;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int32_t c = k * 16 + t2 + i / 2 * 8, row = i % 2;
            bool in = r->t[row] >= 0 && c < d;
            int64_t at = ((int64_t)r->t[row] * H + r->head[row]) * d + c;
            q[k][i] =
                in ? unit_pair<BF16>(load(s->q.data, s->q.dtype, at), load(s->q.data, s->q.dtype, at + 1))
                   : 0U;
        }
    }
}

// One tile for one warp: scores of its n keys, online softmax, sums.
template <bool BF16, int D>
DEVICE void tile_rows(float o[D / 8][4], struct two_rows *r, const uint32_t q[D / 16][4],
                      const uint16_t *k_tile, const uint16_t *v_tile, const int32_t *pos,
                      const struct tile_mask *mask, int32_t q_pos, float scale, int32_t n)
{
    const int W = D + PAD, NT = TILE / 8;
    int32_t lane = threadIdx.x % WARP, t2 = lane % 4 * 2, m = lane / 8, mr = lane % 8;
    float x[NT][4];
#pragma unroll
    for (int i = 0; i < NT; i++)
        x[i][0] = x[i][1] = x[i][2] = x[i][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
        for (int i = 0; i < NT; i += 2) {
            uint32_t b[4];
            unit_load<false>(b, k_tile + (i * 8 + m / 2 * 8 + mr) * W + k * 16 + m % 2 * 8);
            unit_mma<BF16>(x[i], q[k], b);
            unit_mma<BF16>(x[i + 1], q[k], b + 2);
        }
    }
    float top[2] = {r->m[0], r->m[1]};
#pragma unroll
    for (int i = 0; i < NT; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int32_t key = i * 8 + t2 + e % 2, row = e / 2;
            int32_t dist = q_pos + r->t[row] - pos[key];
            bool seen = key < n && r->t[row] >= 0 && dist >= mask->dist_min && dist < mask->dist_max &&
                        (!mask->keep || mask->keep[r->head[row] / mask->per_keep * mask->keep_ld + key]);
            x[i][e] = seen ? x[i][e] * scale : -INFINITY;
            top[row] = fmaxf(top[row], x[i][e]); // NaN is left out here and comes back below
        }
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
        top[row] = fmaxf(top[row], __shfl_xor_sync(FULL, top[row], 1));
        top[row] = fmaxf(top[row], __shfl_xor_sync(FULL, top[row], 2));
        float shrink = top[row] == -INFINITY ? 1.0f : expf(r->m[row] - top[row]);
        r->m[row] = top[row];
        r->l[row] *= shrink;
        top[row] = top[row] == -INFINITY ? 0.0f : top[row];
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
            o[c][row * 2] *= shrink;
            o[c][row * 2 + 1] *= shrink;
        }
    }
#pragma unroll
    for (int i = 0; i < NT; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            x[i][e] = expf(x[i][e] - top[e / 2]);
            r->l[e / 2] += x[i][e]; // of this thread's keys; put together at the end
        }
    }
#pragma unroll
    for (int k = 0; k < NT / 2; k++) {
        uint32_t p[4] = {unit_pair<BF16>(x[2 * k][0], x[2 * k][1]), unit_pair<BF16>(x[2 * k][2], x[2 * k][3]),
                         unit_pair<BF16>(x[2 * k + 1][0], x[2 * k + 1][1]),
                         unit_pair<BF16>(x[2 * k + 1][2], x[2 * k + 1][3])};
#pragma unroll
        for (int c = 0; c < D / 8; c += 2) {
            uint32_t b[4];
            unit_load<true>(b, v_tile + (k * 16 + m % 2 * 8 + mr) * W + c * 8 + m / 2 * 8);
            unit_mma<BF16>(o[c], p, b);
            unit_mma<BF16>(o[c + 1], p, b + 2);
        }
    }
}

/* ------------------------------------------------------------------ the kernel */

// Grid (row blocks, KV heads, sequences).
template <bool BF16, int D>
static __global__ void __launch_bounds__(THREADS) tile_kernel(const struct attend_args *args)
{
    grid_begin();
    BLOCK_SHARED(uint16_t, k_tile);
    __shared__ int32_t pos[TILE];
    uint16_t *v_tile = k_tile + TILE * (D + PAD);
    const struct attend_args *a = &args[blockIdx.z];
    int64_t H = a->out.n[1], Hk = a->n_kv_head, g = H / Hk, h = blockIdx.y, rows = a->out.n[0] * g;
    int32_t d = (int32_t)a->out.n[2], warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // Late tokens see most keys: their blocks come first.
    int64_t block = (rows + ROWS - 1) / ROWS - 1 - blockIdx.x, row0 = block * ROWS;
    if (h >= Hk || block < 0)
        return;
    struct two_rows r;
    for (int i = 0; i < 2; i++) {
        int64_t row = row0 + warp * 16 + lane / 4 + i * 8;
        r.t[i] = row < rows ? (int32_t)(row / g) : -1;
        r.head[i] = (int32_t)(h * g + row % g);
        r.m[i] = -INFINITY;
        r.l[i] = 0.0f;
    }
    int64_t last_row = row0 + ROWS - 1 < rows ? row0 + ROWS - 1 : rows - 1;
    int64_t first_pos = a->q_pos + row0 / g, last_pos = a->q_pos + last_row / g;
    float o[D / 8][4];
#pragma unroll
    for (int c = 0; c < D / 8; c++)
        o[c][0] = o[c][1] = o[c][2] = o[c][3] = 0.0f;
    for (int i = 0; i < a->n_set; i++) {
        const struct attend_set *s = &a->set[i];
        uint32_t q[D / 16][4];
        int64_t n = attend_keys(s);
        struct tile_mask mask = {NULL, s->keep_ld, cut_distance(s->dist_min, INT32_MAX),
                                 cut_distance(s->dist_max, INT32_MAX),
                                 s->keep ? (int32_t)(H / s->keep_rows) : 1};
        load_queries<BF16, D>(q, s, &r, H, d);
        for (int64_t j = 0; j < n;) {
            struct attend_place place = attend_find(s, j); // a tile lies in one run of keys and one of values
            const struct kv_run *k = place.k;
            int64_t k_row = place.k_row;
            int32_t m = (int32_t)(place.n < TILE ? place.n : TILE);
            // Nobody of the block sees these keys: all too new, or all too old.
            int64_t p0 = k->pos + k_row;
            if (!k->index && (last_pos - p0 < s->dist_min || first_pos - (p0 + m - 1) >= s->dist_max)) {
                j += m;
                continue;
            }
            __syncthreads();
            if ((int32_t)threadIdx.x < TILE) {
                int64_t at = k_row + threadIdx.x;
                pos[threadIdx.x] =
                    (int32_t)threadIdx.x < m ? (int32_t)(k->pos + (k->index ? k->index[at] : at)) : 0;
            }
            tile_load<BF16, D>(k_tile, k, k_row, m, h, Hk, d);
            tile_load<BF16, D>(v_tile, place.v, place.v_row, m, h, Hk, d);
            __syncthreads();
            mask.keep = s->keep ? s->keep + j : NULL;
            tile_rows<BF16, D>(o, &r, q, k_tile, v_tile, pos, &mask, (int32_t)a->q_pos, a->scale, m);
            j += m;
        }
    }
    for (int i = 0; i < 2; i++) {
        r.l[i] += __shfl_xor_sync(FULL, r.l[i], 1);
        r.l[i] += __shfl_xor_sync(FULL, r.l[i], 2);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int64_t at = r.t[i] < 0 ? 0 : ((int64_t)r.t[i] * H + r.head[i]) * d;
#pragma unroll
        for (int c = 0; c < D / 8; c++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int32_t channel = c * 8 + lane % 4 * 2 + e;
                if (r.t[i] >= 0 && channel < d)
                    store(a->out.data, a->out.dtype, at + channel,
                          r.l[i] != 0.0f ? o[c][i * 2 + e] / r.l[i] : 0.0f);
            }
    }
}

/* ------------------------------------------------------------------ host */

static bool run_fits(const struct kv_run *r, enum dtype form, int64_t d)
{
    if ((uintptr_t)r->data % 16)
        return false;
    if (r->layout == QUANT_NONE)
        return r->dtype == form;
    bool bits = r->bits == 1 || r->bits == 2 || r->bits == 4 || r->bits == 8;
    return r->dtype != DT_F32 && bits && r->group % 8 == 0 &&
           (r->layout == QUANT_CHANNEL || d % r->group == 0);
}

enum tile_form tile_form_of(const struct attend_args *a)
{
    int64_t d = a->out.n[2], keys = 0;
    enum dtype form = DT_N;
    if (d % 8 || d > 256 || !a->out.n[0])
        return TILE_NONE;
    for (int i = 0; i < a->n_set; i++) {
        keys += attend_keys(&a->set[i]);
        for (int side = 0; side < 2; side++) {
            const struct kv_run *r = side ? a->set[i].v : a->set[i].k;
            for (int x = 0; x < (side ? a->set[i].n_v : a->set[i].n_k); x++, r++) {
                if (r->dtype != DT_F16 && r->dtype != DT_BF16)
                    return TILE_NONE;
                if (form == DT_N || r->layout == QUANT_NONE)
                    form = r->dtype;
            }
        }
    }
    for (int i = 0; i < a->n_set; i++) {
        for (int x = 0; x < a->set[i].n_k; x++)
            if (!run_fits(&a->set[i].k[x], form, d))
                return TILE_NONE;
        for (int x = 0; x < a->set[i].n_v; x++)
            if (!run_fits(&a->set[i].v[x], form, d))
                return TILE_NONE;
    }
    return !keys ? TILE_NONE : form == DT_F16 ? TILE_F16 : TILE_BF16;
}

// Extents of one launch.
struct extent {
    int64_t blocks, heads;
};

template <bool BF16, int D>
static void launch(struct cuda *c, const struct attend_args *dev, struct extent e, int n)
{
    const size_t shared = (size_t)2 * TILE * (D + PAD) * 2;
    if (shared > (size_t)40 << 10 &&
        !cuda_ok(c,
                 cudaFuncSetAttribute(tile_kernel<BF16, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)shared),
                 "shared memory of attention"))
        return;
    LAUNCH(c, (tile_kernel<BF16, D>), dim3((unsigned)e.blocks, (unsigned)e.heads, (unsigned)n), THREADS,
           shared, dev);
}

template <bool BF16>
static void launch_width(struct cuda *c, const struct attend_args *dev, struct extent e, int n, int64_t d)
{
    if (d <= 64)
        launch<BF16, 64>(c, dev, e, n);
    else if (d <= 128)
        launch<BF16, 128>(c, dev, e, n);
    else
        launch<BF16, 256>(c, dev, e, n);
}

// n sequences of one form and head dimension.
static void run_part(struct cuda *c, enum tile_form form, const struct attend_args *a, int n)
{
    struct extent e = {0, 0};
    for (int i = 0; i < n; i++) {
        int64_t blocks = (a[i].out.n[0] * (a[i].out.n[1] / a[i].n_kv_head) + ROWS - 1) / ROWS;
        e.blocks = blocks > e.blocks ? blocks : e.blocks;
        e.heads = a[i].n_kv_head > e.heads ? a[i].n_kv_head : e.heads;
    }
    const struct attend_args *dev = (const struct attend_args *)cuda_args(c, a, (size_t)n * sizeof *a);
    if (!dev)
        return;
    if (form == TILE_F16)
        launch_width<false>(c, dev, e, n, a->out.n[2]);
    else
        launch_width<true>(c, dev, e, n, a->out.n[2]);
}

void tile_attend(struct cuda *c, enum tile_form form, const struct attend_args *a, int n)
{
    for (int from = 0, m; from < n; from += m) {
        m = 1;
        while (m < MOST && from + m < n && a[from + m].out.n[2] == a[from].out.n[2])
            m++;
        run_part(c, form, a + from, m);
    }
}

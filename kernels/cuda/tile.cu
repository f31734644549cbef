// Attention on matrix units, for 16-bit caches and compressed ones: one kernel for prompts and for decode
// steps.
//
// A block serves one KV head of one sequence. Its rows are (token, query head of the group) pairs, so the
// group shares what is read. Keys come in tiles of 64: keys and values go to shared memory in 16 bits, codes
// are turned into values on the way; a tile lies in one run of keys and one of values. Softmax is kept online
// per row in f32. WIDE (prompts): 4 warps of 16 rows each, every warp all 64 keys. Narrow (up to 16 rows):
// the 4 warps take 16 keys of the tile each over the same rows, a block takes SPLIT keys, and combine_kernel
// puts the parts together in order. How keys are cut depends on the sequence alone. Source of the scheme:
// arXiv 2205.14135, 2307.08691 (flash attention), 2311.01282 (split over keys for decode).
#include "kernels/cuda/attend.h"
#include "kernels/cuda/mma.h"

#define THREADS 128
#define TILE    64
#define SPLIT   256 // keys of a narrow block
#define MOST    64  // sequences of one launch
#define PAD     8   // 16-bit values behind every row of a tile: no bank conflicts, rows stay 16-byte aligned

struct tile_job {
    struct attend_args a;
    float *part; // narrow: [n_split, Hk, rows, d + 2]: sums, largest, total
    int32_t n_split;
};

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
    float max[2], sum[2];
};

// A set's mask in 32 bits: distances beyond any position are cut.
struct tile_mask {
    const uint8_t *keep; // of the tile's first key
    int64_t keep_ld;
    int32_t dist_min, dist_max, per_keep;
};

DEVICE int32_t cut_distance(int64_t x)
{
    return (int32_t)(x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : x);
}

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

// One tile for one warp: scores of its keys, online softmax, sums. NT: keys of the warp / 8.
template <bool BF16, int D, int NT>
DEVICE void tile_rows(float o[D / 8][4], struct two_rows *r, const uint32_t q[D / 16][4],
                      const uint16_t *k_tile, const uint16_t *v_tile, const int32_t *pos,
                      const struct tile_mask *mask, int32_t q_pos, float scale, int32_t key0, int32_t n)
{
    const int W = D + PAD;
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
            unit_load<false>(b, k_tile + (key0 + i * 8 + m / 2 * 8 + mr) * W + k * 16 + m % 2 * 8);
            unit_mma<BF16>(x[i], q[k], b);
            unit_mma<BF16>(x[i + 1], q[k], b + 2);
        }
    }
    float top[2] = {r->max[0], r->max[1]};
#pragma unroll
    for (int i = 0; i < NT; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int32_t key = key0 + i * 8 + t2 + e % 2, row = e / 2;
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
        float shrink = top[row] == -INFINITY ? 1.0f : expf(r->max[row] - top[row]);
        r->max[row] = top[row];
        r->sum[row] *= shrink;
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
            r->sum[e / 2] += x[i][e]; // of this thread's keys; put together at the end
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
            unit_load<true>(b, v_tile + (key0 + k * 16 + m % 2 * 8 + mr) * W + c * 8 + m / 2 * 8);
            unit_mma<BF16>(o[c], p, b);
            unit_mma<BF16>(o[c + 1], p, b + 2);
        }
    }
}

/* ------------------------------------------------------------------ the kernel */

// The tile at key j of a set: how many keys up to `end` lie in one run of keys and one of values.
DEVICE int32_t tile_at(const struct attend_set *s, int64_t j, int64_t end, const struct kv_run **k,
                       int64_t *k_row, const struct kv_run **v, int64_t *v_row)
{
    *k = run_of(s->k, j, k_row);
    *v = run_of(s->v, j, v_row);
    int64_t n = end - j < TILE ? end - j : TILE;
    n = (*k)->n - *k_row < n ? (*k)->n - *k_row : n;
    n = (*v)->n - *v_row < n ? (*v)->n - *v_row : n;
    return (int32_t)n;
}

// Grid (row blocks or splits, KV heads, sequences).
template <bool BF16, int D, bool WIDE>
static __global__ void __launch_bounds__(THREADS) tile_kernel(const struct tile_job *jobs)
{
    BLOCK_SHARED(uint16_t, k_tile);
    __shared__ int32_t pos[TILE];
    const int W = D + PAD, NT = WIDE ? TILE / 8 : 2;
    uint16_t *v_tile = k_tile + TILE * W;
    const struct tile_job *job = &jobs[blockIdx.z];
    const struct attend_args *a = &job->a;
    int64_t H = a->out.n[1], Hk = a->n_kv_head, g = H / Hk, h = blockIdx.y, rows = a->out.n[0] * g;
    int32_t d = (int32_t)a->out.n[2], warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // Late tokens see most keys: their blocks come first.
    int64_t block = WIDE ? (rows + 63) / 64 - 1 - blockIdx.x : blockIdx.x, row0 = WIDE ? block * 64 : 0;
    if (h >= Hk || (WIDE ? block < 0 : block >= job->n_split))
        return;
    struct two_rows r;
    for (int i = 0; i < 2; i++) {
        int64_t row = row0 + (WIDE ? warp * 16 : 0) + lane / 4 + i * 8;
        r.t[i] = row < rows ? (int32_t)(row / g) : -1;
        r.head[i] = (int32_t)(h * g + row % g);
        r.max[i] = -INFINITY;
        r.sum[i] = 0.0f;
    }
    int64_t last_row = WIDE && row0 + 63 < rows ? row0 + 63 : rows - 1;
    int64_t first_pos = a->q_pos + row0 / g, last_pos = a->q_pos + last_row / g;
    float o[D / 8][4];
#pragma unroll
    for (int c = 0; c < D / 8; c++)
        o[c][0] = o[c][1] = o[c][2] = o[c][3] = 0.0f;
    int64_t from = WIDE ? 0 : block * SPLIT,
            to = WIDE ? INT64_MAX : from + SPLIT; // over the keys of all sets
    for (int i = 0; i < a->n_set; i++) {
        const struct attend_set *s = &a->set[i];
        uint32_t q[D / 16][4];
        int64_t n = 0;
        for (int x = 0; x < s->n_k; x++)
            n += s->k[x].n;
        int64_t start = from > 0 ? from : 0, end = to < n ? to : n;
        struct tile_mask mask = {NULL, s->keep_ld, cut_distance(s->dist_min), cut_distance(s->dist_max),
                                 s->keep ? (int32_t)(H / s->keep_rows) : 1};
        if (start < end)
            load_queries<BF16, D>(q, s, &r, H, d);
        for (int64_t j = start; j < end;) {
            const struct kv_run *k, *v;
            int64_t k_row, v_row;
            int32_t m = tile_at(s, j, end, &k, &k_row, &v, &v_row);
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
            tile_load<BF16, D>(v_tile, v, v_row, m, h, Hk, d);
            __syncthreads();
            mask.keep = s->keep ? s->keep + j : NULL;
            if (WIDE || warp * 16 < m)
                tile_rows<BF16, D, NT>(o, &r, q, k_tile, v_tile, pos, &mask, (int32_t)a->q_pos, a->scale,
                                       WIDE ? 0 : warp * 16, m);
            j += m;
        }
        from -= n;
        to = WIDE ? to : to - n;
    }
    for (int i = 0; i < 2; i++) {
        r.sum[i] += __shfl_xor_sync(FULL, r.sum[i], 1);
        r.sum[i] += __shfl_xor_sync(FULL, r.sum[i], 2);
    }
    if (WIDE) {
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
                              r.sum[i] != 0.0f ? o[c][i * 2 + e] / r.sum[i] : 0.0f);
                }
        }
        return;
    }
    // The 4 warps' parts, put together in order through the shared memory of the tiles.
    __syncthreads();
    float *all = (float *)(void *)k_tile; // [4, 16, D + 2]
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float *mine = all + (warp * 16 + lane / 4 + i * 8) * (D + 2);
#pragma unroll
        for (int c = 0; c < D / 8; c++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                mine[c * 8 + lane % 4 * 2 + e] = o[c][i * 2 + e];
        mine[D] = r.max[i];
        mine[D + 1] = r.sum[i];
    }
    __syncthreads();
    float *part = job->part + (block * Hk + h) * rows * (d + 2);
    for (int32_t i = threadIdx.x; i < (int32_t)rows * d; i += THREADS) {
        int32_t row = i / d, c = i % d;
        float top = -INFINITY, sum = 0.0f, total = 0.0f;
        for (int w = 0; w < 4; w++)
            top = fmaxf(top, all[(w * 16 + row) * (D + 2) + D]);
        for (int w = 0; w < 4; w++) {
            const float *x = all + (w * 16 + row) * (D + 2);
            float f = x[D] == -INFINITY ? 1.0f : expf(x[D] - top); // 1: nothing seen, or NaN, which stays
            sum += x[c] * f;
            total += x[D + 1] * f;
        }
        part[row * (d + 2) + c] = sum;
        if (c == 0) {
            part[row * (d + 2) + d] = top;
            part[row * (d + 2) + d + 1] = total;
        }
    }
}

// Parts of the splits -> out, in order. Grid (rows, KV heads, sequences).
KERNEL combine_kernel(const struct tile_job *jobs)
{
    const struct tile_job *job = &jobs[blockIdx.z];
    const struct attend_args *a = &job->a;
    int64_t H = a->out.n[1], Hk = a->n_kv_head, g = H / Hk, h = blockIdx.y, rows = a->out.n[0] * g,
            d = a->out.n[2];
    int64_t row = blockIdx.x, step = Hk * rows * (d + 2);
    if (row >= rows || h >= Hk)
        return;
    const float *part = job->part + (h * rows + row) * (d + 2);
    float top = -INFINITY, total = 0.0f;
    for (int32_t i = 0; i < job->n_split; i++)
        top = fmaxf(top, part[i * step + d]);
    for (int32_t i = 0; i < job->n_split; i++) {
        float max = part[i * step + d];
        total += part[i * step + d + 1] * (max == -INFINITY ? 1.0f : expf(max - top));
    }
    for (int64_t c = threadIdx.x; c < d; c += blockDim.x) {
        float sum = 0.0f;
        for (int32_t i = 0; i < job->n_split; i++) {
            float max = part[i * step + d];
            sum += part[i * step + c] * (max == -INFINITY ? 1.0f : expf(max - top));
        }
        store(a->out.data, a->out.dtype, ((row / g) * H + h * g + row % g) * d + c,
              total != 0.0f ? sum / total : 0.0f);
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
    int64_t blocks, rows, heads;
};

template <bool BF16, int D, bool WIDE>
static void launch(struct cuda *c, const struct tile_job *dev, struct extent e, int n)
{
    const size_t shared = (size_t)2 * TILE * (D + PAD) * 2;
    if (shared > (size_t)40 << 10 &&
        !cuda_ok(c,
                 cudaFuncSetAttribute(tile_kernel<BF16, D, WIDE>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)shared),
                 "shared memory of attention"))
        return;
    LAUNCH(c, (tile_kernel<BF16, D, WIDE>), dim3((unsigned)e.blocks, (unsigned)e.heads, (unsigned)n), THREADS,
           shared, dev);
    if (!WIDE)
        LAUNCH(c, combine_kernel, dim3((unsigned)e.rows, (unsigned)e.heads, (unsigned)n), D < 128 ? 64 : 128,
               0, dev);
}

template <bool BF16, bool WIDE>
static void launch_width(struct cuda *c, const struct tile_job *dev, struct extent e, int n, int64_t d)
{
    if (d <= 64)
        launch<BF16, 64, WIDE>(c, dev, e, n);
    else if (d <= 128)
        launch<BF16, 128, WIDE>(c, dev, e, n);
    else
        launch<BF16, 256, WIDE>(c, dev, e, n);
}

static bool wide_of(const struct attend_args *a)
{
    return a->out.n[0] * (a->out.n[1] / a->n_kv_head) > 16;
}

// n sequences of one form, width and head dimension.
static void run_part(struct cuda *c, enum tile_form form, struct tile_job *job, int n)
{
    bool wide = wide_of(&job[0].a);
    struct extent e = {0, 0, 0};
    size_t room = 0;
    for (int i = 0; i < n; i++) {
        const struct attend_args *a = &job[i].a;
        int64_t keys = 0, rows = a->out.n[0] * (a->out.n[1] / a->n_kv_head);
        for (int s = 0; s < a->n_set; s++)
            keys += attend_keys(&a->set[s]);
        job[i].n_split = (int32_t)((keys + SPLIT - 1) / SPLIT);
        int64_t blocks = wide ? (rows + 63) / 64 : job[i].n_split;
        e.blocks = blocks > e.blocks ? blocks : e.blocks;
        e.rows = rows > e.rows ? rows : e.rows;
        e.heads = a->n_kv_head > e.heads ? a->n_kv_head : e.heads;
        room += wide ? 0 : (size_t)(job[i].n_split * a->n_kv_head * rows * (a->out.n[2] + 2));
    }
    float *part = room ? (float *)cuda_scratch(c, SCRATCH_SPLIT, room * sizeof *part) : NULL;
    if (room && !part)
        return;
    for (int i = 0; i < n && room; i++) {
        const struct attend_args *a = &job[i].a;
        job[i].part = part;
        part += (int64_t)job[i].n_split * a->out.n[0] * a->out.n[1] * (a->out.n[2] + 2);
    }
    const struct tile_job *dev = (const struct tile_job *)cuda_args(c, job, (size_t)n * sizeof *job);
    int64_t d = job[0].a.out.n[2];
    if (!dev)
        return;
    if (form == TILE_F16)
        wide ? launch_width<false, true>(c, dev, e, n, d) : launch_width<false, false>(c, dev, e, n, d);
    else
        wide ? launch_width<true, true>(c, dev, e, n, d) : launch_width<true, false>(c, dev, e, n, d);
}

void tile_attend(struct cuda *c, enum tile_form form, const struct attend_args *a, int n)
{
    struct tile_job job[MOST];
    for (int from = 0; from < n;) {
        int m = 0;
        do {
            job[m] = tile_job{a[from + m], NULL, 0};
            m++;
        } while (m < MOST && from + m < n && wide_of(&a[from + m]) == wide_of(&a[from]) &&
                 a[from + m].out.n[2] == a[from].out.n[2]);
        run_part(c, form, job, m);
        from += m;
    }
}

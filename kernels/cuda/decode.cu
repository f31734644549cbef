// Attention of few rows (decode steps) over 16-bit and compressed caches: split over keys, bound by reading
// them once. Source of the scheme: arXiv 2311.01282 (split over keys).
//
// A block serves up to 16 rows (token, query head of the group) of one KV head of one sequence over `split`
// keys; each of its 4 warps walks a quarter of them alone, 16 keys at a time, without barriers. Keys are the
// matrix unit's left operand, so one product makes the scores of 16 keys for 8 rows, and nothing is spent on
// rows that do not exist: s^T [keys, rows] = k q^T, o^T [channels, rows] += v^T p^T. Everything goes from
// memory to registers: the order of channels inside a product does not matter as long as both sides agree, so
// a lane's 16 bytes are 8 neighbouring channels of one key, and codes become values in the lane that needs
// them (decode.h). combine_kernel puts the splits together in order. How keys are cut depends on the sequence
// alone.
//
// Codes become values in f16 whatever the activations are: scales and minima are f16, so nothing is lost, and
// two values cost as much as one in f32. Keys in codes meet q in f16, values in codes the probabilities in
// f16.
//
// Counted for head dimension 128 and up to 8 rows, in the machine code for sm_90 (168 registers, 12 warps a
// multiprocessor): 16 dense keys are 16 loads of 16 bytes a lane, 8 KiB, all under way at once, and about 320
// instructions; memory at 3 TB/s gives a multiprocessor 550 cycles for them, the instructions take 80. 96 KiB
// can be under way where some 20 keep an H100 busy: the bytes should set the pace. 32 keys in codes of 2 bits
// (kivi) are 3 KiB in 56 loads and about 800 instructions, 200 cycles where memory needs 210: near the point
// where both set it. Other groups than of 32 go 16 keys at a time, some 700 instructions. Not measured yet.
#include "kernels/cuda/decode_group.h"
#include "kernels/cuda/flash.h"

#include <string.h>

#define THREADS 128
#define WARPS   (THREADS / WARP)
#define MOST    64 // sequences of one launch
#define COMBINE 256

/* ------------------------------------------------------------------ rows of a warp */

// What a thread knows of the rows 8 n + 2 (lane % 4) + e: sums of its channels, references, totals over its
// keys.
template <int D, int NT> struct decode_rows {
    float o[D / 16][NT][4];
    struct flash_row row[NT][2];
    int32_t token[NT][2]; // of the call; -1: no such row
};

// bf16 -> f16, both halves.
DEVICE uint32_t half_from_brain(uint32_t x)
{
    return unit_pair<false>(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000U));
}

// q of the rows as right operands: q[u][n] holds channels 32 u + 8 (lane % 4) .. of row 8 n + lane / 4. f16
// for keys in codes.
template <bool BF16, int D, int NT>
DEVICE void decode_queries(uint4 q[D / 32][NT], const struct decode_job *job, const struct decode_set *s,
                           int32_t h, bool coded)
{
    int32_t g = job->g, c = threadIdx.x % 4 * 8;
    bool single = s->q_dtype == DT_F32;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        int32_t row = n * 8 + threadIdx.x % WARP / 4, at = (row / g * job->Hk * g + h * g + row % g) * D + c;
#pragma unroll
        for (int u = 0; u < D / 32; u++) {
            uint4 a = {0, 0, 0, 0}, b = a;
            if (row < job->T * g) {
                const char *from = (const char *)s->q + (int64_t)(at + u * 32) * (single ? 4 : 2);
                a = load_eight(from);
                b = single ? load_eight(from + 16) : a;
            }
            const float v[8] = {__uint_as_float(a.x), __uint_as_float(a.y), __uint_as_float(a.z),
                                __uint_as_float(a.w), __uint_as_float(b.x), __uint_as_float(b.y),
                                __uint_as_float(b.z), __uint_as_float(b.w)};
            if (single)
                q[u][n] = coded ? pack_eight<false>(v) : pack_eight<BF16>(v);
            else if (BF16 && coded)
                q[u][n] = uint4{half_from_brain(a.x), half_from_brain(a.y), half_from_brain(a.z),
                                half_from_brain(a.w)};
            else
                q[u][n] = a;
        }
    }
}

// What decides about the keys that a row sees.
struct decode_view {
    int32_t q_pos, T, dist_min, dist_max;
    const uint8_t *keep; // of the piece's key 0
    int64_t keep_ld;
    int32_t g, per_keep;
};

// Do all rows see all keys of the block, or none any? pos: of its first key.
DEVICE bool block_open(const struct decode_view *v, const struct decode_block *b, int32_t pos)
{
    return b->n == DECODE_KEYS && !v->keep && !b->p->k.index &&
           v->q_pos - (pos + DECODE_KEYS - 1) >= v->dist_min && v->q_pos + v->T - 1 - pos < v->dist_max;
}
DEVICE bool block_shut(const struct decode_view *v, const struct decode_block *b, int32_t pos)
{
    return !b->p->k.index &&
           (v->q_pos + v->T - 1 - pos < v->dist_min || v->q_pos - (pos + b->n - 1) >= v->dist_max);
}

// Scores of keys that a row does not see become -infinity. s[n][2 i + e]: place lane / 4 + 8 i, row 8 n + 2
// (lane % 4) + e.
template <int D, int NT>
DEVICE void decode_mask(float s[NT][4], const struct decode_rows<D, NT> *w, const struct decode_block *b,
                        const struct decode_view *v, int32_t h)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int32_t place = threadIdx.x % WARP / 4 + i * 8, key = decode_key(b, place);
        int32_t dist = v->q_pos - (b->p->pos + dense_row(&b->p->k, key));
        bool there = place >= b->lo && place < b->lo + b->n;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int32_t t = w->token[n][e], row = n * 8 + threadIdx.x % 4 * 2 + e;
                bool seen = there && t >= 0 && dist + t >= v->dist_min && dist + t < v->dist_max;
                if (seen && v->keep)
                    seen = v->keep[(h * v->g + row % v->g) / v->per_keep * v->keep_ld + key];
                s[n][2 * i + e] = seen ? s[n][2 * i + e] : -INFINITY;
            }
    }
}

// Scores of NB blocks -> powers; references and totals, and o where a reference moves.
template <int D, int NT, int NB>
DEVICE void decode_softmax(struct decode_rows<D, NT> *w, float s[NB][NT][4], float slope)
{
    float factor[NT][2];
    bool moved = false;
#pragma unroll
    for (int i = 0; i < NT * 2; i++) {
        float top = -INFINITY;
#pragma unroll
        for (int b = 0; b < NB; b++)
            top = fmaxf(top, fmaxf(s[b][i / 2][i % 2], s[b][i / 2][2 + i % 2]));
        top = fmaxf(top, __shfl_xor_sync(FULL, top, 4));
        top = fmaxf(top, __shfl_xor_sync(FULL, top, 8));
        top = fmaxf(top, __shfl_xor_sync(FULL, top, 16));
        factor[i / 2][i % 2] = flash_grow(&w->row[i / 2][i % 2], top, slope);
        moved = moved || factor[i / 2][i % 2] != 1.0f;
    }
    if (__ballot_sync(FULL, moved)) {
#pragma unroll
        for (int c = 0; c < D / 16; c++)
#pragma unroll
            for (int i = 0; i < NT * 4; i++)
                w->o[c][i / 4][i % 4] *= factor[i / 4][i % 2];
    }
#pragma unroll
    for (int b = 0; b < NB; b++)
#pragma unroll
        for (int i = 0; i < NT * 4; i++) {
            struct flash_row *r = &w->row[i / 4][i % 2];
            float *x = &s[b][i / 4][i % 4];
            *x = unit_exp2(fmaf(*x, slope, -flash_base(r, slope)));
            r->l += *x;
        }
}

// Powers of a block as right operands, for values of the type.
template <bool BF16, int NT> DEVICE void decode_powers(uint32_t p[NT][2], const float s[NT][4])
{
#pragma unroll
    for (int i = 0; i < NT * 2; i++)
        p[i / 2][i % 2] = unit_turn(unit_pair<BF16>(s[i / 2][i % 2 * 2], s[i / 2][i % 2 * 2 + 1]));
}

// One block of keys for one warp. WHOLE: keys and values are dense.
template <bool BF16, int D, int NT, bool WHOLE>
DEVICE void decode_keys(struct decode_rows<D, NT> *w, const uint4 q[D / 32][NT], const struct decode_block *b,
                        const struct decode_view *view, float slope, const struct decode_shape *x)
{
    uint4 k[D / 32][2], dense[D / 64][4];
    struct coded coded[D / 64][4];
    uint32_t v[4][4], p[NT][2];
    float all[1][NT][4] = {}, (*s)[4] = all[0];
    bool two = !WHOLE && b->p->v.form == TOKEN2, four = !WHOLE && b->p->v.form == TOKEN4;
    const bool early = WHOLE && D * NT <= 128; // values are under way with the keys, where registers allow it
    if (WHOLE)
        keys_dense<D>(k, b, x);
    if (early)
        values_dense<D>(dense, b, x);
    else if (two || four)
        values_coded<D>(coded, b, x);
    if (WHOLE)
        score_dense<BF16, D, NT>(s, q, k);
    else
        score_any<BF16, D, NT>(s, q, b, x);
    if (!block_open(view, b, b->p->pos + b->at))
        decode_mask<D, NT>(s, w, b, view, x->h);
    decode_softmax<D, NT, 1>(w, all, slope);
    if (two || four)
        decode_powers<false, NT>(p, s);
    else
        decode_powers<BF16, NT>(p, s);
    if (!early && !two && !four)
        values_dense<D>(dense, b, x);
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
        if (!two && !four) {
            turn_dense(v, dense[i]);
            decode_sums<BF16, NT>(w->o + 4 * i, v, p);
            continue;
        }
        if (two)
            turn_coded<2>(v, b->p->v.kind, coded[i]);
        else
            turn_coded<4>(v, b->p->v.kind, coded[i]);
        decode_sums<false, NT>(w->o + 4 * i, v, p);
    }
}

// A whole group of 32 keys, from key `at` of the piece on (decode_group.h).
template <int D, int NT, int BITS>
DEVICE void decode_group(struct decode_rows<D, NT> *w, const uint4 q[D / 32][NT],
                         const struct decode_piece *piece, int32_t at, const struct decode_view *view,
                         float slope, const struct decode_shape *x)
{
    struct value_group<D> y[2];
    float s[2][NT][4] = {};
#pragma unroll
    for (int i = 0; i < 2; i++)
        values_group<D, BITS>(&y[i], &piece->v, at + i * DECODE_KEYS, x);
    score_group<D, NT, BITS>(s, q, &piece->k, piece->skip + at, x);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        struct decode_block b = {piece, at + i * DECODE_KEYS, 0, DECODE_KEYS};
        if (!block_open(view, &b, piece->pos + b.at))
            decode_mask<D, NT>(s[i], w, &b, view, x->h);
    }
    decode_softmax<D, NT, 2>(w, s, slope);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t p[NT][2];
        decode_powers<false, NT>(p, s[i]);
        sums_group<D, NT, BITS>(w->o, &y[i], p);
    }
}

// Keys from..to of a piece for one warp.
template <bool BF16, int D, int NT, bool WHOLE>
DEVICE void decode_part(struct decode_rows<D, NT> *w, const uint4 q[D / 32][NT], const struct decode_piece *p,
                        int32_t from, int32_t to, const struct decode_view *view, float slope,
                        const struct decode_shape *x)
{
    bool coded_along = !WHOLE && p->k.form >= CHANNEL2;
    while (from < to) {
        if (!WHOLE && p->groups && (p->skip + from) % DECODE_GROUP == 0 && to - from >= DECODE_GROUP) {
            if (p->k.form == CHANNEL2)
                decode_group<D, NT, 2>(w, q, p, from, view, slope, x);
            else
                decode_group<D, NT, 4>(w, q, p, from, view, slope, x);
            from += DECODE_GROUP;
            continue;
        }
        struct decode_block b = {p, from, coded_along ? (p->skip + from) % DECODE_KEYS : 0, 0};
        b.n = to - from < DECODE_KEYS - b.lo ? to - from : DECODE_KEYS - b.lo;
        if (!block_shut(view, &b, p->pos + from))
            decode_keys<BF16, D, NT, WHOLE>(w, q, &b, view, slope, x);
        from += b.n;
    }
}

/* ------------------------------------------------------------------ the kernels */

// What a block is told.
struct decode_args {
    struct decode_job job;
    struct decode_piece piece[ATTEND_PIECES];
};

// Where the parts of (split, KV head) lie among the job's, in rows.
DEVICE int64_t part_row(const struct decode_job *job, int64_t split, int32_t h)
{
    return (split * job->Hk + h) * (job->T * job->g);
}

// The warps' parts, put together in order through shared memory [WARPS, 8 NT, D + 2] -> the job's part.
template <int D, int NT>
DEVICE void decode_put(const struct decode_job *job, const struct decode_rows<D, NT> *w, float *all,
                       int32_t h)
{
    int32_t warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float *mine = all + ((warp * NT + n) * 8 + q * 2 + e) * (D + 2), sum = w->row[n][e].l;
#pragma unroll
            for (int c = 0; c < D / 16; c++) {
                mine[c / 4 * 64 + g * 8 + c % 4 * 2] = w->o[c][n][e];
                mine[c / 4 * 64 + g * 8 + c % 4 * 2 + 1] = w->o[c][n][2 + e];
            }
            sum += __shfl_xor_sync(FULL, sum, 4);
            sum += __shfl_xor_sync(FULL, sum, 8);
            sum += __shfl_xor_sync(FULL, sum, 16);
            if (g == 0) {
                mine[D] = w->row[n][e].m;
                mine[D + 1] = sum;
            }
        }
    __syncthreads();
    int64_t to = part_row(job, blockIdx.x, h);
    for (int32_t row = 0; row < job->T * job->g; row++)
        for (int32_t c = threadIdx.x; c < D; c += THREADS) {
            float top = -INFINITY, sum = 0.0f, total = 0.0f;
            for (int x = 0; x < WARPS; x++)
                top = fmaxf(top, all[(x * NT * 8 + row) * (D + 2) + D]);
            for (int x = 0; x < WARPS; x++) {
                const float *part = all + (x * NT * 8 + row) * (D + 2);
                // 1: nothing seen, or NaN, which stays
                float f = part[D] == -INFINITY ? 1.0f : unit_exp2((part[D] - top) * job->slope);
                sum += part[c] * f;
                total += part[D + 1] * f;
            }
            job->sums[(to + row) * D + c] = sum;
            if (c == 0) {
                job->stats[(to + row) * 2] = top;
                job->stats[(to + row) * 2 + 1] = total;
            }
        }
}

// Grid (splits, KV heads, sequences). CODED: some keys or values are in codes; without them a thread needs
// fewer registers.
template <bool BF16, int D, int NT, bool CODED>
static __global__ void __launch_bounds__(THREADS, NT == 1 ? 3 : 2)
    decode_kernel(const struct decode_job *jobs, const struct decode_piece *pieces)
{
    BLOCK_SHARED(float, all);
    __shared__ struct decode_args here;
    const struct decode_job *job = &here.job;
    args_early(&here.job, &jobs[blockIdx.z], sizeof here.job);
    __syncthreads();
    const int32_t first = job->set[0].from, past = job->set[job->n_set - 1].to;
    args_early(here.piece, pieces + first, (past - first) * (int32_t)sizeof *pieces);
    __syncthreads();
    grid_begin();
    struct decode_shape x = {(int32_t)blockIdx.y, job->Hk};
    if (x.h >= x.Hk || (int32_t)blockIdx.x >= job->n_split)
        return;
    struct decode_rows<D, NT> w;
#pragma unroll
    for (int i = 0; i < NT * 2; i++) {
        int32_t row = i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
        w.row[i / 2][i % 2] = flash_row{-INFINITY, 0.0f};
        w.token[i / 2][i % 2] = row < job->T * job->g ? row / job->g : -1;
    }
#pragma unroll
    for (int c = 0; c < D / 16; c++)
#pragma unroll
        for (int i = 0; i < NT * 4; i++)
            w.o[c][i / 4][i % 4] = 0.0f;
    // Over the keys of all sets.
    int32_t quarter = job->split / WARPS,
            from = (int32_t)blockIdx.x * job->split + (int32_t)threadIdx.x / WARP * quarter,
            to = from + quarter;
    for (int i = 0; i < job->n_set; i++) {
        const struct decode_set *s = &job->set[i];
        struct decode_view view = {job->q_pos, job->T,     s->dist_min, s->dist_max,
                                   s->keep,    s->keep_ld, job->g,      s->per_keep};
        uint4 q[D / 32][NT];
        for (int k = s->from; k < s->to; k++) {
            const struct decode_piece *p = &here.piece[k - first];
            int32_t n = p->n, a = from > 0 ? from : 0, b = to < n ? to : n;
            if (a < b)
                decode_queries<BF16, D, NT>(q, job, s, x.h, p->k.form != DENSE);
            if (!CODED || (p->k.form == DENSE && p->v.form == DENSE))
                decode_part<BF16, D, NT, true>(&w, q, p, a, b, &view, job->slope, &x);
            else
                decode_part<BF16, D, NT, false>(&w, q, p, a, b, &view, job->slope, &x);
            from -= n;
            to -= n;
            view.keep = view.keep ? view.keep + n : NULL;
        }
    }
    decode_put<D, NT>(job, &w, all, x.h);
}

// Parts of the splits -> out. Grid (rows, KV heads, sequences): every warp puts some splits together, then
// they are put together, in order both times.
static __global__ void __launch_bounds__(COMBINE) combine_kernel(const struct decode_job *jobs)
{
    __shared__ float part[32];
    __shared__ float total_of[COMBINE / WARP];
    __shared__ float sum_of[COMBINE / WARP][128];
    __shared__ struct decode_job here;
    const struct decode_job *job = &here;
    args_early(&here, &jobs[blockIdx.z], sizeof here);
    __syncthreads();
    grid_begin();
    int32_t g = job->g, h = blockIdx.y, row = blockIdx.x, d = job->d, warp = threadIdx.x / WARP,
            lane = threadIdx.x % WARP;
    if (row >= job->T * g || h >= job->Hk)
        return;
    int64_t first = part_row(job, 0, h) + row, step = part_row(job, 1, 0);
    float top = -INFINITY, total = 0.0f, sum[4] = {};
    for (int32_t i = threadIdx.x; i < job->n_split; i += COMBINE)
        top = fmaxf(top, job->stats[(first + i * step) * 2]);
    top = block_max(top, part);
#pragma unroll 4
    for (int32_t i = warp; i < job->n_split; i += COMBINE / WARP) {
        int64_t at = first + i * step;
        float max = job->stats[at * 2], f = max == -INFINITY ? 1.0f : unit_exp2((max - top) * job->slope);
        total += job->stats[at * 2 + 1] * f;
        uint4 x = lane * 4 < d ? load_eight(job->sums + at * d + lane * 4) : uint4{0, 0, 0, 0};
        const uint32_t y[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int e = 0; e < 4; e++)
            sum[e] += __uint_as_float(y[e]) * f;
    }
    if (lane == 0)
        total_of[warp] = total;
#pragma unroll
    for (int e = 0; e < 4; e++)
        sum_of[warp][lane * 4 + e] = sum[e];
    __syncthreads();
    total = 0.0f;
    for (int i = 0; i < COMBINE / WARP; i++)
        total += total_of[i];
    if ((int32_t)threadIdx.x < d) {
        int32_t c = threadIdx.x;
        float x = 0.0f;
        for (int i = 0; i < COMBINE / WARP; i++)
            x += sum_of[i][c];
        int64_t at = ((int64_t)(row / g) * job->Hk * g + h * g + row % g) * d + c;
        store(job->out, job->out_dtype, at, total != 0.0f ? x / total : 0.0f);
    }
}

/* ------------------------------------------------------------------ host */

// Extents of one launch.
struct extent {
    int64_t splits, rows, heads;
    bool coded;
};

// Jobs and pieces on the device, as one launch takes them.
struct parcel {
    const struct decode_job *jobs;
    const struct decode_piece *pieces;
    unsigned n;
};

template <bool BF16, int D, int NT, bool CODED>
static void launch(struct cuda *c, struct parcel dev, struct extent e)
{
    const size_t shared = (size_t)WARPS * NT * 8 * (D + 2) * sizeof(float);
    if (shared > (size_t)48 << 10 &&
        !cuda_ok(c,
                 cudaFuncSetAttribute(decode_kernel<BF16, D, NT, CODED>,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
                 "shared memory of attention"))
        return;
    LAUNCH(c, (decode_kernel<BF16, D, NT, CODED>), dim3((unsigned)e.splits, (unsigned)e.heads, dev.n),
           THREADS, shared, dev.jobs, dev.pieces);
    LAUNCH(c, combine_kernel, dim3((unsigned)e.rows, (unsigned)e.heads, dev.n), COMBINE, 0, dev.jobs);
}

template <bool BF16, int D, int NT>
static void launch_form(struct cuda *c, struct parcel dev, struct extent e)
{
    e.coded ? launch<BF16, D, NT, true>(c, dev, e) : launch<BF16, D, NT, false>(c, dev, e);
}

template <bool BF16, int NT>
static void launch_width(struct cuda *c, struct parcel dev, struct extent e, int32_t d)
{
    d == 64 ? launch_form<BF16, 64, NT>(c, dev, e) : launch_form<BF16, 128, NT>(c, dev, e);
}

// Where the jobs' parts lie in scratch memory. False: there is none.
static bool place_parts(struct cuda *c, struct decode_job *job, int n)
{
    int64_t parts = 0, d = job[0].d;
    for (int i = 0; i < n; i++)
        parts += (int64_t)job[i].n_split * job[i].Hk * job[i].T * job[i].g;
    float *sums = (float *)cuda_scratch(c, SCRATCH_SPLIT, (size_t)(parts * (d + 2)) * sizeof *sums);
    float *stats = sums + parts * d;
    for (int i = 0; i < n && sums; i++) {
        int64_t rows = (int64_t)job[i].n_split * job[i].Hk * job[i].T * job[i].g;
        job[i].sums = sums;
        job[i].stats = stats;
        sums += rows * d;
        stats += rows * 2;
    }
    return sums != NULL;
}

// What a launch takes along: jobs, right behind them their pieces.
struct launch_args {
    struct decode_job job[MOST];
    struct decode_piece piece[MOST * ATTEND_PIECES];
};

// n sequences of one form, number of rows (up to 8, up to 16) and head dimension.
static void run_part(struct cuda *c, enum tile_form form, const struct attend_args *a, int n)
{
    struct launch_args args;
    struct extent e = {0, 0, 0, false};
    int32_t n_piece = 0, d = (int32_t)a->out.n[2];
    for (int i = 0; i < n; i++) {
        struct decode_job *job = &args.job[i];
        *job = decode_job_of(&a[i], args.piece, &n_piece);
        e.splits = job->n_split > e.splits ? job->n_split : e.splits;
        e.rows = decode_row_count(&a[i]) > e.rows ? decode_row_count(&a[i]) : e.rows;
        e.heads = job->Hk > e.heads ? job->Hk : e.heads;
    }
    for (int32_t i = 0; i < n_piece; i++)
        e.coded = e.coded || args.piece[i].k.form != DENSE || args.piece[i].v.form != DENSE;
    if (!place_parts(c, args.job, n))
        return;
    struct decode_piece *behind = (struct decode_piece *)(void *)&args.job[n];
    memmove(behind, args.piece, (size_t)n_piece * sizeof *behind);
    const struct decode_job *jobs = (const struct decode_job *)cuda_args(
        c, &args, (size_t)n * sizeof *args.job + (size_t)n_piece * sizeof *behind);
    if (!jobs)
        return;
    struct parcel dev = {jobs, (const struct decode_piece *)(const void *)(jobs + n), (unsigned)n};
    bool few = e.rows <= 8;
    if (form == TILE_F16)
        few ? launch_width<false, 1>(c, dev, e, d) : launch_width<false, 2>(c, dev, e, d);
    else
        few ? launch_width<true, 1>(c, dev, e, d) : launch_width<true, 2>(c, dev, e, d);
}

void decode_attend(struct cuda *c, enum tile_form form, const struct attend_args *a, int n)
{
    for (int from = 0, m; from < n; from += m) {
        m = 1;
        while (m < MOST && from + m < n &&
               (decode_row_count(&a[from + m]) <= 8) == (decode_row_count(&a[from]) <= 8) &&
               a[from + m].out.n[2] == a[from].out.n[2])
            m++;
        run_part(c, form, a + from, m);
    }
}

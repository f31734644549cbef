// Attention of prompts over dense 16-bit keys and values with mma.sync (sm_80 and later).
//
// A block of 4 warps serves 128 rows, a warp 32 of them: every fragment of keys or values that is read from
// shared memory feeds two products. Keys and values come in tiles of 64 through two buffers each, copied
// while the tile before is computed; one barrier per tile. Softmax is kept online in powers of two; a row's
// sums are rescaled only when its scores leave the reference far behind (FLASH_LAZY). Only tiles that some
// row does not see entirely are masked. Blocks with most keys come first, heads of one block row beside each
// other, so that all read the same keys at about the same time. Source of the scheme: arXiv 2307.08691 (flash
// attention 2).
//
// Counted for head dimension 128, one tile of a warp (32 rows, 64 keys: 256 products of 16x8x16), in the
// machine code for sm_90 where nothing is masked or rescaled: about 920 instructions, among them 256 HMMA, 80
// LDSM (keys 32, values 32, queries 16), 64 MUFU, 16 copies. mma.sync reaches about 0.62 of wgmma's rate on
// H100, so HMMA issues every 6.5 cycles; two warps of a quarter of the multiprocessor take 3328 cycles of it,
// 1840 issue slots, 1024 cycles of MUFU, and with the other quarters 2560 of shared memory: the matrix unit
// sets the pace. Its ceiling is about 610 TFLOP/s; flash attention 2, cut the same way, is published with
// 0.55 to 0.65 of that, which is what to expect: 340 to 400. Not measured yet. Queries stay in shared memory:
// their 64 registers beside 128 of sums and 64 of scores would not fit into 255. Registers 255 (64 channels:
// 229), nothing spilled (f16: two, around the copies); shared memory 96 KiB (48), two blocks on a
// multiprocessor.
#include "kernels/cuda/flash.h"

#define THREADS 128
#define ROWS    128
#define KEYS    64
#define MOST    64 // sequences of one launch

// Shared memory: queries, then per buffer keys and values.
template <int D> struct flash_room {
    static const int QUERIES = ROWS * D * 2, TILE = KEYS * D * 2, BYTES = QUERIES + 4 * TILE;
};

// s [32 rows, KEYS] of a warp = q k^T.
template <bool BF16, int D> DEVICE void flash_scores(float s[2][KEYS / 8][4], const char *q, const char *k)
{
    int32_t lane = threadIdx.x % WARP, m = lane / 8, mr = lane % 8;
    q += tile_byte<ROWS>(threadIdx.x / WARP * 32 + m % 2 * 8 + mr, m / 2);
    k += tile_byte<KEYS>(m / 2 * 8 + mr, m % 2);
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[0][i][e] = s[1][i][e] = 0.0f;
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
        uint32_t a[2][4];
#pragma unroll
        for (int t = 0; t < 2; t++)
            unit_load<false>(a[t], tile_turn(q, c % 4 * 2) + c / 4 * (ROWS * 128) + t * 16 * 128);
#pragma unroll
        for (int i = 0; i < KEYS / 8; i += 2) {
            uint32_t b[4];
            unit_load<false>(b, tile_turn(k, c % 4 * 2) + c / 4 * (KEYS * 128) + i * 8 * 128);
#pragma unroll
            for (int t = 0; t < 2; t++) {
                unit_mma<BF16>(s[t][i], a[t], b);
                unit_mma<BF16>(s[t][i + 1], a[t], b + 2);
            }
        }
    }
}

// o [32 rows, D] += p v; p are the powers in s.
template <bool BF16, int D>
DEVICE void flash_values(float o[2][D / 8][4], const float s[2][KEYS / 8][4], const char *v)
{
    int32_t lane = threadIdx.x % WARP, m = lane / 8, mr = lane % 8;
    v += tile_byte<KEYS>(m % 2 * 8 + mr, m / 2);
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        uint32_t p[2][4];
#pragma unroll
        for (int t = 0; t < 2; t++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                p[t][e] = unit_pair<BF16>(s[t][2 * k + e / 2][e % 2 * 2], s[t][2 * k + e / 2][e % 2 * 2 + 1]);
#pragma unroll
        for (int c = 0; c < D / 8; c += 2) {
            uint32_t b[4];
            unit_load<true>(b, tile_turn(v, c % 8) + c / 8 * (KEYS * 128) + k * 16 * 128);
#pragma unroll
            for (int t = 0; t < 2; t++) {
                unit_mma<BF16>(o[t][c], p[t], b);
                unit_mma<BF16>(o[t][c + 1], p[t], b + 2);
            }
        }
    }
}

// The first of the thread's rows; the others follow 8 apart.
DEVICE int32_t flash_mine(const struct flash_block *b)
{
    return b->row0 + (int32_t)(threadIdx.x / WARP * 32 + threadIdx.x % WARP / 4);
}

// Scores of keys that a row does not see become -infinity. Positions are worked out here, not kept: few tiles
// need them, and registers are short.
DEVICE void flash_mask(float s[2][KEYS / 8][4], const struct flash_tile *t, const struct flash_set *set,
                       const struct flash_block *b, int32_t q_pos)
{
    int32_t t2 = threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        int32_t lo, hi;
        flash_range(t, set, q_pos + (flash_mine(b) + r * 8) / b->g, &lo, &hi);
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float *x = &s[r / 2][i][r % 2 * 2 + e];
                int32_t key = i * 8 + t2 + e;
                *x = key >= lo && key <= hi ? *x : -INFINITY;
            }
    }
}

// Scores -> powers; references and sums of the thread's rows, and o where a reference moves.
template <int D>
DEVICE void flash_softmax(float s[2][KEYS / 8][4], float o[2][D / 8][4], struct flash_row row[2][2],
                          float slope)
{
    float factor[4];
    bool moved = false;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
            top = fmaxf(top, fmaxf(s[r / 2][i][r % 2 * 2], s[r / 2][i][r % 2 * 2 + 1]));
        top = fmaxf(top, __shfl_xor_sync(FULL, top, 1));
        top = fmaxf(top, __shfl_xor_sync(FULL, top, 2));
        factor[r] = flash_grow(&row[r / 2][r % 2], top, slope);
        moved = moved || factor[r] != 1.0f;
    }
    if (__ballot_sync(FULL, moved)) {
#pragma unroll
        for (int c = 0; c < D / 8; c++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                o[e / 4][c][e % 4] *= factor[e / 2];
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float base = flash_base(&row[r / 2][r % 2], slope);
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float *x = &s[r / 2][i][r % 2 * 2 + e];
                *x = unit_exp2(fmaf(*x, slope, -base));
                row[r / 2][r % 2].l += *x;
            }
    }
}

// Grid (KV heads, row blocks, sequences).
template <bool BF16, int D>
static __global__ void __launch_bounds__(THREADS, 2) flash_kernel(const struct flash_job *jobs)
{
    grid_begin();
    TILE_SHARED(flash_shared);
    const struct flash_job *job = &jobs[blockIdx.z];
    // Late tokens see most keys: their blocks come first.
    int32_t block = (job->T * (job->H / job->Hk) + ROWS - 1) / ROWS - 1 - (int32_t)blockIdx.y;
    if ((int32_t)blockIdx.x >= job->Hk || block < 0)
        return;
    struct flash_block b = flash_block_of(job, blockIdx.x, block * ROWS, ROWS);
    int32_t stride = job->Hk * D;
    char *queries = flash_shared, *keys = queries + flash_room<D>::QUERIES,
         *values = keys + 2 * flash_room<D>::TILE;
    struct flash_row row[2][2];
    float o[2][D / 8][4], slope = job->slope;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        row[r / 2][r % 2].m = -INFINITY;
        row[r / 2][r % 2].l = 0.0f;
    }
#pragma unroll
    for (int c = 0; c < D / 8; c++)
#pragma unroll
        for (int e = 0; e < 8; e++)
            o[e / 4][c][e % 4] = 0.0f;
    for (int i = 0; i < job->n_set; i++) {
        const struct flash_set *set = &job->set[i];
        struct flash_walk walk = {set->from, 0};
        struct flash_tile tile = flash_next<KEYS>(job, set, &b, &walk, D);
        if (!tile.n)
            continue;
        __syncthreads(); // of the set before: everybody has read it
        tile_fetch<KEYS, D, THREADS>(keys, tile.k, stride, tile.n, threadIdx.x);
        tile_fetch<KEYS, D, THREADS>(values, tile.v, stride, tile.n, threadIdx.x);
        async_group();
        flash_queries<BF16, ROWS, ROWS, D, THREADS>(queries, job, set, &b, 0, threadIdx.x);
        for (int32_t at = 0; tile.n; at = flash_room<D>::TILE - at) {
            struct flash_tile next = flash_next<KEYS>(job, set, &b, &walk, D);
            async_wait<0>();
            __syncthreads(); // the tile is there; everybody is done with the one before
            if (next.n) {
                int32_t to = flash_room<D>::TILE - at;
                tile_fetch<KEYS, D, THREADS>(keys + to, next.k, stride, next.n, threadIdx.x);
                tile_fetch<KEYS, D, THREADS>(values + to, next.v, stride, next.n, threadIdx.x);
            }
            async_group();
            float s[2][KEYS / 8][4];
            flash_scores<BF16, D>(s, queries, keys + at);
            if (!flash_open<KEYS>(&tile, set, &b))
                flash_mask(s, &tile, set, &b, job->q_pos);
            flash_softmax<D>(s, o, row, slope);
            flash_values<BF16, D>(o, s, values + at);
            tile = next;
        }
        async_wait<0>();
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        float sum = row[r / 2][r % 2].l;
        sum += __shfl_xor_sync(FULL, sum, 1);
        sum += __shfl_xor_sync(FULL, sum, 2);
        float over = sum != 0.0f ? 1.0f / sum : 0.0f; // a row that saw no key is zero
        int32_t mine = flash_mine(&b) + r * 8;
        if (mine < b.rows) {
            int64_t at = flash_row_at(job, &b, mine, D) + threadIdx.x % 4 * 2;
#pragma unroll
            for (int c = 0; c < D / 8; c++)
                flash_store(job, at + c * 8, o[r / 2][c][r % 2 * 2] * over,
                            o[r / 2][c][r % 2 * 2 + 1] * over);
        }
    }
}

/* ------------------------------------------------------------------ host */

static bool near(int64_t pos, int64_t n)
{
    return pos > -FLASH_FAR / 2 && pos + n < FLASH_FAR / 2;
}

bool flash_fits(const struct attend_args *a)
{
    int64_t d = a->out.n[2], group = a->out.n[1] / a->n_kv_head;
    if ((d != 64 && d != 128) || a->out.n[0] * group < 64 || !(a->scale > 0) ||
        !near(a->q_pos, a->out.n[0]) || (a->out.n[0] * group + ROWS - 1) / ROWS > 65535 ||
        (uintptr_t)a->out.data % 4)
        return false;
    for (int i = 0; i < a->n_set; i++) {
        const struct attend_set *s = &a->set[i];
        if (s->keep || (uintptr_t)s->q.data % 16)
            return false;
        for (int x = 0; x < s->n_k + s->n_v; x++) {
            const struct kv_run *r = x < s->n_k ? &s->k[x] : &s->v[x - s->n_k];
            if (r->layout != QUANT_NONE || r->index || !near(r->pos, r->n))
                return false;
        }
    }
    return true;
}

// Pieces of one set: from one end of a run of keys or values to the next.
static int32_t add_pieces(struct flash_piece *piece, int32_t n, const struct attend_set *s, int64_t row)
{
    struct attend_place at;
    for (int64_t j = 0, total = attend_keys(s); j < total; j += at.n) {
        at = attend_find(s, j);
        piece[n++] = flash_piece{(const uint16_t *)at.k->data + at.k_row * row,
                                 (const uint16_t *)at.v->data + at.v_row * row, (int32_t)at.n,
                                 (int32_t)(at.k->pos + at.k_row)};
    }
    return n;
}

static struct flash_job job_of(const struct attend_args *a)
{
    struct flash_job job = {};
    int32_t n = 0;
    for (int i = 0; i < a->n_set; i++) {
        const struct attend_set *s = &a->set[i];
        int32_t from = n;
        n = add_pieces(job.piece, n, s, (int64_t)a->n_kv_head * a->out.n[2]);
        job.set[i] = flash_set{s->q.data,
                               s->q.dtype,
                               from,
                               n,
                               cut_distance(s->dist_min, FLASH_FAR),
                               cut_distance(s->dist_max, FLASH_FAR)};
    }
    job.out = a->out.data;
    job.out_dtype = a->out.dtype;
    job.n_set = a->n_set;
    job.T = (int32_t)a->out.n[0];
    job.H = (int32_t)a->out.n[1];
    job.Hk = a->n_kv_head;
    job.q_pos = (int32_t)a->q_pos;
    job.slope = a->scale * 1.44269504f;
    return job;
}

template <bool BF16, int D>
static void launch(struct cuda *c, const struct flash_job *dev, int n, int64_t rows, int64_t heads)
{
    const size_t shared = flash_room<D>::BYTES;
    if (cuda_ok(c,
                cudaFuncSetAttribute(flash_kernel<BF16, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)shared),
                "shared memory of attention"))
        LAUNCH(c, (flash_kernel<BF16, D>), dim3((unsigned)heads, blocks_of(rows, ROWS), (unsigned)n), THREADS,
               shared, dev);
}

// n sequences of one head dimension.
static void run_part(struct cuda *c, enum tile_form form, const struct attend_args *a, int n)
{
    struct flash_job job[MOST];
    int64_t rows = 0, heads = 0, d = a->out.n[2];
    for (int i = 0; i < n; i++) {
        int64_t r = a[i].out.n[0] * (a[i].out.n[1] / a[i].n_kv_head);
        job[i] = job_of(&a[i]);
        rows = r > rows ? r : rows;
        heads = a[i].n_kv_head > heads ? a[i].n_kv_head : heads;
    }
    const struct flash_job *dev = (const struct flash_job *)cuda_args(c, job, (size_t)n * sizeof *job);
    if (!dev)
        return;
    if (c->wgmma)
        hopper_launch(c, form, dev, n, rows, heads, d);
    else if (form == TILE_F16)
        d == 64 ? launch<false, 64>(c, dev, n, rows, heads) : launch<false, 128>(c, dev, n, rows, heads);
    else
        d == 64 ? launch<true, 64>(c, dev, n, rows, heads) : launch<true, 128>(c, dev, n, rows, heads);
}

void flash_attend(struct cuda *c, enum tile_form form, const struct attend_args *a, int n)
{
    for (int from = 0, m; from < n; from += m) {
        m = 1;
        while (m < MOST && from + m < n && a[from + m].out.n[2] == a[from].out.n[2])
            m++;
        run_part(c, form, a + from, m);
    }
}

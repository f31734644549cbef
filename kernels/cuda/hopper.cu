// Attention of prompts with the warpgroup products of sm_90a: the same work as flash.cu on the same tiles of
// shared memory.
//
// A block of three warpgroups serves 128 rows. The first fetches tiles of 128 keys and 128 values, two
// buffers each, and says so at a barrier in shared memory; the other two take 64 rows each. Scores of tile j
// + 1 and sums over values of tile j are under way together, and while one warpgroup works out powers of two
// the other one's products run. Queries and tiles are read from shared memory by the unit itself, powers from
// registers. Source of the scheme: arXiv 2407.08608 (flash attention 3).
//
// Counted for head dimension 128, one tile of both warpgroups: 32 products of 64x128x16 at 64 cycles, 2048
// cycles of the unit. In the machine code a computing warp takes about 570 instructions for it (16 HGMMA, 64
// MUFU = 512 cycles), a fetching one 32 copies and about 100 more; a quarter of the multiprocessor holds two
// of the former and one of the latter: about 1300 of 2048 issue slots, 1024 cycles of MUFU. So the unit could
// be kept busy; flash attention 3 reaches 0.65 to 0.75 of it with the same cut (and copies by TMA, and turns
// taken by barriers, which are left out here): 550 TFLOP/s are to be hoped for, 500 to be expected. Not run
// on a GPU yet: taken only where it is asked for. Registers 168 at launch, then 40 (37 used) and 232 (229),
// nothing spilled; shared memory 160 KiB.
#include "kernels/cuda/flash.h"
#include "kernels/cuda/hopper.h"

#define FETCHERS WARPGROUP
#define THREADS  (3 * WARPGROUP)
#define ROWS     128
#define KEYS     128
#define STAGES   2

// Shared memory: queries, then keys and values of every stage, then barriers.
template <int D> struct hopper_room {
    static const int QUERIES = ROWS * D * 2, TILE = KEYS * D * 2, GATES = QUERIES + 2 * STAGES * TILE;
    static const int BYTES = GATES + 4 * STAGES * 8;
};
enum gate { K_FULL, V_FULL, K_FREE, V_FREE };

#ifdef HOPPER_CODE

// Where the block's tiles lie, and its barriers.
struct hopper_ring {
    char *keys, *values;
    uint64_t *gates; // [4][STAGES]
};
template <int D> DEVICE char *ring_keys(const struct hopper_ring *r, uint32_t it)
{
    return r->keys + it % STAGES * hopper_room<D>::TILE;
}
template <int D> DEVICE char *ring_values(const struct hopper_ring *r, uint32_t it)
{
    return r->values + it % STAGES * hopper_room<D>::TILE;
}
DEVICE uint64_t *ring_gate(const struct hopper_ring *r, enum gate g, uint32_t it)
{
    return r->gates + g * STAGES + it % STAGES;
}
DEVICE uint32_t ring_parity(uint32_t it)
{
    return it / STAGES & 1;
}
DEVICE void ring_wait(const struct hopper_ring *r, enum gate full, uint32_t it)
{
    gate_wait(ring_gate(r, full, it), ring_parity(it));
}
// This thread's copies of all tiles before `it` are done.
DEVICE void ring_announce(const struct hopper_ring *r, enum gate full, uint32_t *told, uint32_t it)
{
    if (*told == it)
        return;
    wg_publish();
    for (; *told < it; ++*told)
        gate_arrive(ring_gate(r, full, *told));
}
// One arrival per warp: its products no longer read the tile.
DEVICE void ring_release(const struct hopper_ring *r, enum gate g, uint32_t it)
{
    if (threadIdx.x % WARP == 0)
        gate_arrive(ring_gate(r, g, it));
}

/* ------------------------------------------------------------------ the fetching warpgroup */

// Two warps fetch keys, two values: all tiles of the block, each into its buffer as soon as that is free. A
// tile is announced when the next one is under way, or when the next one has to wait.
template <int D>
DEVICE void hopper_fetch(const struct flash_job *job, const struct flash_block *b,
                         const struct hopper_ring *r)
{
    bool values = threadIdx.x >= FETCHERS / 2;
    enum gate full = values ? V_FULL : K_FULL, free = values ? V_FREE : K_FREE;
    char *room = values ? r->values : r->keys;
    int32_t stride = job->Hk * D;
    uint32_t it = 0, told = 0; // tiles fetched, announced
    for (int i = 0; i < job->n_set; i++) {
        const struct flash_set *set = &job->set[i];
        struct flash_walk walk = {set->from, 0};
        for (;; it++) {
            struct flash_tile tile = flash_next<KEYS>(job, set, b, &walk, D);
            if (!tile.n)
                break;
            if (!gate_test(ring_gate(r, free, it), ring_parity(it) ^ 1)) {
                async_wait<0>();
                ring_announce(r, full, &told, it);
                gate_wait(ring_gate(r, free, it), ring_parity(it) ^ 1);
            }
            tile_fetch<KEYS, D, FETCHERS / 2>(room + it % STAGES * hopper_room<D>::TILE,
                                              values ? tile.v : tile.k, stride, tile.n,
                                              threadIdx.x % (FETCHERS / 2));
            async_group();
            async_wait<1>();
            ring_announce(r, full, &told, it);
        }
    }
    async_wait<0>();
    ring_announce(r, full, &told, it);
}

/* ------------------------------------------------------------------ the computing warpgroups */

// What a thread knows: sums of two rows, 8 apart, and the powers of the latest tile.
template <int D> struct hopper_rows {
    float o[D / 2], s[KEYS / 2];
    uint32_t p[KEYS / 4];
    struct flash_row row[2];
    int32_t pos[2];
};

// s = q k^T of tile `it`, under way. q: the warpgroup's rows.
template <bool BF16, int D>
DEVICE void hopper_scores(struct hopper_rows<D> *w, uint32_t q, const struct hopper_ring *r, uint32_t it)
{
    uint32_t k = shared_at(ring_keys<D>(r, it));
#pragma unroll
    for (int c = 0; c < D / 16; c++)
        wg_mma<BF16, KEYS>(w->s, wg_operand(q + c / 4 * (ROWS * 128) + c % 4 * 32, 16),
                           wg_operand(k + c / 4 * (KEYS * 128) + c % 4 * 32, 16), c > 0);
    wg_group();
}

// o += p v of tile `it`, under way.
template <bool BF16, int D>
DEVICE void hopper_values(struct hopper_rows<D> *w, const struct hopper_ring *r, uint32_t it)
{
    uint32_t v = shared_at(ring_values<D>(r, it));
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
        wg_mma_held<BF16, D>(w->o, w->p + 4 * k, wg_operand(v + k * 16 * 128, KEYS * 128));
    wg_group();
}

// Masks the scores, makes them powers; factor: what the rows' sums must be multiplied with. True if any of
// the warp's must.
template <int D>
DEVICE bool hopper_softmax(struct hopper_rows<D> *w, float factor[2], const struct flash_tile *t,
                           const struct flash_set *set, const struct flash_block *b, float slope)
{
    int32_t t2 = threadIdx.x % 4 * 2;
    if (!flash_open<KEYS>(t, set, b)) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int32_t lo, hi;
            flash_range(t, set, w->pos[r], &lo, &hi);
#pragma unroll
            for (int i = 0; i < KEYS / 4; i++) {
                int32_t key = i / 2 * 8 + t2 + i % 2;
                float *x = &w->s[i / 2 * 4 + r * 2 + i % 2];
                *x = key >= lo && key <= hi ? *x : -INFINITY;
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++)
            top = fmaxf(top, w->s[i / 2 * 4 + r * 2 + i % 2]);
        top = fmaxf(top, __shfl_xor_sync(FULL, top, 1));
        top = fmaxf(top, __shfl_xor_sync(FULL, top, 2));
        factor[r] = flash_grow(&w->row[r], top, slope);
        float base = flash_base(&w->row[r], slope);
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++) {
            float *x = &w->s[i / 2 * 4 + r * 2 + i % 2];
            *x = unit_exp2(fmaf(*x, slope, -base));
            w->row[r].l += *x;
        }
    }
    return __ballot_sync(FULL, factor[0] != 1.0f || factor[1] != 1.0f) != 0;
}

// No product is under way: sums are rescaled where they must, the powers become the next product's operand.
template <bool BF16, int D>
DEVICE void hopper_turn(struct hopper_rows<D> *w, bool moved, const float factor[2])
{
    if (moved) {
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            w->o[i] *= factor[i / 2 % 2];
    }
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++)
        w->p[i] = unit_pair<BF16>(w->s[2 * i], w->s[2 * i + 1]);
}

// All tiles of one set, from tile number `it` of the block on; returns the number behind them.
template <bool BF16, int D>
DEVICE uint32_t hopper_set(struct hopper_rows<D> *w, char *queries, const struct flash_job *job,
                           const struct flash_set *set, const struct flash_block *b,
                           const struct hopper_ring *r, uint32_t it)
{
    int32_t group = (int32_t)threadIdx.x / WARPGROUP - 1, me = (int32_t)threadIdx.x % WARPGROUP;
    struct flash_walk walk = {set->from, 0};
    struct flash_tile tile = flash_next<KEYS>(job, set, b, &walk, D);
    if (!tile.n)
        return it;
    part_barrier<WARPGROUP>(1 + group); // nobody reads those of the set before
    flash_queries<BF16, ROWS, 64, D, WARPGROUP>(queries, job, set, b, group * 64, me);
    wg_publish();
    part_barrier<WARPGROUP>(1 + group);
    uint32_t q = shared_at(queries) + group * 64 * 128;
    float factor[2], slope = job->slope;
    ring_wait(r, K_FULL, it);
    wg_settle<KEYS / 2>(w->s);
    wg_fence();
    hopper_scores<BF16, D>(w, q, r, it);
    wg_wait<0>();
    wg_settle<KEYS / 2>(w->s);
    ring_release(r, K_FREE, it);
    bool moved = hopper_softmax<D>(w, factor, &tile, set, b, slope);
    hopper_turn<BF16, D>(w, moved, factor);
    for (;; it++) {
        tile = flash_next<KEYS>(job, set, b, &walk, D);
        if (!tile.n)
            break;
        ring_wait(r, K_FULL, it + 1);
        wg_settle<KEYS / 2>(w->s);
        wg_settle<D / 2>(w->o);
        wg_settle<KEYS / 4>(w->p);
        wg_fence();
        hopper_scores<BF16, D>(w, q, r, it + 1);
        ring_wait(r, V_FULL, it);
        hopper_values<BF16, D>(w, r, it);
        wg_wait<1>();
        wg_settle<KEYS / 2>(w->s);
        ring_release(r, K_FREE, it + 1);
        moved = hopper_softmax<D>(w, factor, &tile, set, b, slope);
        wg_wait<0>();
        wg_settle<D / 2>(w->o);
        ring_release(r, V_FREE, it);
        hopper_turn<BF16, D>(w, moved, factor);
    }
    ring_wait(r, V_FULL, it);
    wg_settle<D / 2>(w->o);
    wg_settle<KEYS / 4>(w->p);
    wg_fence();
    hopper_values<BF16, D>(w, r, it);
    wg_wait<0>();
    wg_settle<D / 2>(w->o);
    ring_release(r, V_FREE, it);
    return it + 1;
}

template <bool BF16, int D>
DEVICE void hopper_rows_of(char *queries, const struct flash_job *job, const struct flash_block *b,
                           const struct hopper_ring *r)
{
    struct hopper_rows<D> w;
    int32_t first = b->row0 + ((int32_t)threadIdx.x - FETCHERS) / WARP * 16 + (int32_t)threadIdx.x % WARP / 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        w.row[i].m = -INFINITY;
        w.row[i].l = 0.0f;
        w.pos[i] = job->q_pos + (first + i * 8) / b->g;
    }
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        w.o[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++)
        w.s[i] = 0.0f;
    uint32_t it = 0;
    for (int i = 0; i < job->n_set; i++)
        it = hopper_set<BF16, D>(&w, queries, job, &job->set[i], b, r, it);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = w.row[i].l;
        sum += __shfl_xor_sync(FULL, sum, 1);
        sum += __shfl_xor_sync(FULL, sum, 2);
        float over = sum != 0.0f ? 1.0f / sum : 0.0f; // a row that saw no key is zero
        if (first + i * 8 < b->rows) {
            int64_t at = flash_row_at(job, b, first + i * 8, D) + threadIdx.x % 4 * 2;
#pragma unroll
            for (int c = 0; c < D / 8; c++)
                flash_store(job, at + c * 8, w.o[c * 4 + i * 2] * over, w.o[c * 4 + i * 2 + 1] * over);
        }
    }
}

#endif

// Grid (KV heads, row blocks, sequences).
template <bool BF16, int D>
static __global__ void __launch_bounds__(THREADS, 1) hopper_kernel(const struct flash_job *jobs)
{
    grid_begin();
#ifdef HOPPER_CODE
    TILE_SHARED(hopper_shared);
    const struct flash_job *job = &jobs[blockIdx.z];
    int32_t block = (job->T * (job->H / job->Hk) + ROWS - 1) / ROWS - 1 - (int32_t)blockIdx.y;
    if ((int32_t)blockIdx.x >= job->Hk || block < 0)
        return;
    struct flash_block b = flash_block_of(job, blockIdx.x, block * ROWS, ROWS);
    char *keys = hopper_shared + hopper_room<D>::QUERIES;
    struct hopper_ring r = {keys, keys + STAGES * hopper_room<D>::TILE,
                            (uint64_t *)(void *)(hopper_shared + hopper_room<D>::GATES)};
    if (threadIdx.x < 4 * STAGES)
        gate_open(r.gates + threadIdx.x, threadIdx.x < 2 * STAGES ? FETCHERS / 2 : 2 * WARPGROUP / WARP);
    __syncthreads();
    if (threadIdx.x < FETCHERS) {
        registers_give<40>();
        hopper_fetch<D>(job, &b, &r);
    } else {
        registers_take<232>();
        hopper_rows_of<BF16, D>(hopper_shared, job, &b, &r);
    }
#else
    (void)jobs; // the GPU of another architecture: never launched there
#endif
}

/* ------------------------------------------------------------------ host */

template <bool BF16, int D>
static void launch(struct cuda *c, const struct flash_job *dev, int n, int64_t rows, int64_t heads)
{
    const size_t shared = hopper_room<D>::BYTES;
    if (cuda_ok(c,
                cudaFuncSetAttribute(hopper_kernel<BF16, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)shared),
                "shared memory of attention"))
        LAUNCH(c, (hopper_kernel<BF16, D>), dim3((unsigned)heads, blocks_of(rows, ROWS), (unsigned)n),
               THREADS, shared, dev);
}

void hopper_launch(struct cuda *c, enum tile_form form, const struct flash_job *dev, int n, int64_t rows,
                   int64_t heads, int64_t d)
{
    if (form == TILE_F16)
        d == 64 ? launch<false, 64>(c, dev, n, rows, heads) : launch<false, 128>(c, dev, n, rows, heads);
    else
        d == 64 ? launch<true, 64>(c, dev, n, rows, heads) : launch<true, 128>(c, dev, n, rows, heads);
}

// What the engine wants to know of rows of logits: the best, the K best, log of the sum of exponentials,
// finite.
//
// Logits are read once: a block takes a chunk of a row into its registers as 64-bit keys (order of the logit,
// then lower id first), finds the K-th largest by bits and keeps those that reach it. The lists of all chunks
// are cut again in the same way until one block can sort what is left. With V = 128k and K = 64: 32 blocks
// per row, 16 KB of candidates per row, one sort of 2048.
#include "kernels/cuda/place.h"

#include <string.h>

#define THREADS 256
#define HELD    32               /* keys of a thread */
#define CHUNK   (THREADS * HELD) /* keys of a block */
#define K_MOST  SORTED           /* at most half a chunk: lists get shorter */
#define SORTED  4096             /* most keys that one block sorts */

// What one chunk of a row says; then one row's answers.
struct told {
    double sum; // of exp(x - max)
    float max;  // NaN left out; -infinity: nothing but NaN and -infinity
    int32_t best;
    float best_x;
    int32_t bad; // some are NaN or infinite
};
struct picked {
    int32_t best;
    float logsumexp;
    int32_t finite;
};

// A candidate: equal ones by id.
struct best {
    float x;
    int32_t id;
};

DEVICE bool before(struct best a, struct best b)
{
    return a.x > b.x || (a.x == b.x && a.id < b.id);
}

DEVICE struct best better_of(struct best a, struct best b)
{
    return before(b, a) ? b : a;
}

DEVICE struct best lane_xor(struct best v, int step)
{
    struct best w;
    w.x = __shfl_xor_sync(FULL, v.x, step);
    w.id = __shfl_xor_sync(FULL, v.id, step);
    return w;
}

// Larger keys come first: by logit (NaN ranks with -infinity, both zeros are equal), then by lower id. Never
// 0.
DEVICE uint64_t key_of(float x, int32_t id)
{
    uint32_t u = x != x ? 0xff800000U : x == 0.0f ? 0U : __float_as_uint(x);
    u = u & 0x80000000U ? ~u : u | 0x80000000U;
    return (uint64_t)u << 32 | (0xffffffffU - (uint32_t)id);
}

DEVICE int32_t id_of(uint64_t key)
{
    return (int32_t)(0xffffffffU - (uint32_t)key);
}

// The K largest of the block's keys (0: none) to out [K], in any order, the rest of it 0. Keys differ, so
// bits are tried until exactly K reach the bar.
DEVICE void keep_largest(const uint64_t key[HELD], int32_t K, uint64_t *out, uint32_t *part)
{
    uint64_t bar = 0;
    uint32_t mine, at, count;
    for (int bit = 63; bit >= 0; bit--) {
        uint64_t next = bar | (uint64_t)1 << bit;
        mine = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++)
            mine += key[i] >= next;
        count = block_sum(mine, part);
        if (count < (uint32_t)K)
            continue;
        bar = next;
        if (count == (uint32_t)K)
            break;
    }
    mine = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++)
        mine += key[i] && key[i] >= bar;
    count = block_place(mine, &at, part);
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if (key[i] && key[i] >= bar)
            out[at++] = key[i];
    for (uint32_t i = count + threadIdx.x; i < (uint32_t)K; i += THREADS)
        out[i] = 0;
}

// Grid (chunks, rows): one chunk of logits -> told, and its K largest -> list [rows,chunks,K].
static __global__ void __launch_bounds__(THREADS)
    chunk_kernel(const float *logits, int64_t V, int32_t K, struct told *told, uint64_t *list)
{
    grid_begin();
    __shared__ struct best best_part[32];
    __shared__ double sum_part[32];
    __shared__ uint32_t part[32];
    const float *x = logits + blockIdx.y * V;
    int64_t at = blockIdx.y * (int64_t)gridDim.x + blockIdx.x, from = (int64_t)blockIdx.x * CHUNK;
    uint64_t key[HELD];
    float v[HELD];
    struct best real = {-INFINITY, INT32_MAX};
    uint32_t bad = 0;
    int64_t j0 = from + threadIdx.x;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int64_t j = j0 + i * THREADS;
        v[i] = j < V ? x[j] : -INFINITY;
        key[i] = j < V ? key_of(v[i], (int32_t)j) : 0U;
        struct best b = {v[i], (int32_t)j};
        bad |= j < V && !isfinite(v[i]);
        if (j < V && b.x == b.x && before(b, real))
            real = b;
    }
    real = block_fold<struct best, better_of>(real, best_part);
    float base = real.x == -INFINITY ? 0.0f : real.x; // nothing but NaN and -infinity: NaN or 0
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < HELD; i++)
        sum += j0 + i * THREADS < V ? (double)expf(v[i] - base) : 0.0;
    sum = block_sum(sum, sum_part);
    bad = block_sum(bad, part);
    if (threadIdx.x == 0) {
        told[at].sum = sum;
        told[at].max = real.x;
        told[at].best = real.id;
        told[at].best_x = real.x;
        told[at].bad = bad != 0;
    }
    if (K)
        keep_largest(key, K, list + at * K, part);
}

// Grid (chunks, rows): a list [rows,n] of keys -> the K largest of every chunk [rows,chunks,K].
static __global__ void __launch_bounds__(THREADS)
    shorten_kernel(const uint64_t *list, int64_t n, int32_t K, uint64_t *out)
{
    grid_begin();
    __shared__ uint32_t part[32];
    uint64_t key[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int64_t j = (int64_t)blockIdx.x * CHUNK + i * THREADS + threadIdx.x;
        key[i] = j < n ? list[blockIdx.y * n + j] : 0U;
    }
    keep_largest(key, K, out + (blockIdx.y * (int64_t)gridDim.x + blockIdx.x) * K, part);
}

// Largest first; n is a power of two.
DEVICE void sort_keys(uint64_t *key, int32_t n)
{
    for (int32_t size = 2; size <= n; size *= 2)
        for (int32_t step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int32_t i = threadIdx.x; i < n / 2; i += (int32_t)blockDim.x) {
                int32_t a = i / step * 2 * step + i % step, b = a + step;
                bool falling = !(a & size);
                if ((key[a] < key[b]) == falling) {
                    uint64_t x = key[a];
                    key[a] = key[b];
                    key[b] = x;
                }
            }
        }
    __syncthreads();
}

// One block per row: what the chunks said -> out; list [rows,n] (room for a power of two) -> the K best in
// order.
KERNEL answer_kernel(const float *logits, int64_t V, const struct told *told, int64_t chunks,
                     const uint64_t *list, int32_t n, int32_t room, int32_t K, struct picked *out,
                     int32_t *top_id, float *top_logit)
{
    grid_begin();
    BLOCK_SHARED(uint64_t, key);
    const float *x = logits + blockIdx.x * V;
    told += blockIdx.x * chunks;
    if (threadIdx.x == 0) {
        struct best real = {-INFINITY, INT32_MAX};
        double sum = 0.0, high;
        int32_t bad = 0;
        for (int64_t i = 0; i < chunks; i++) {
            struct best b = {told[i].best_x, told[i].best};
            real = before(b, real) ? b : real;
            bad |= told[i].bad;
        }
        int32_t id = real.id == INT32_MAX ? 0 : real.id; // all NaN: the first
        high = (double)x[id];
        for (int64_t i = 0; i < chunks; i++)
            sum += told[i].sum * exp((double)told[i].max - high);
        out[blockIdx.x].best = id;
        out[blockIdx.x].logsumexp = (float)(high + log(sum));
        out[blockIdx.x].finite = !bad;
    }
    if (!K)
        return;
    for (int32_t i = threadIdx.x; i < room; i += (int32_t)blockDim.x)
        key[i] = i < n ? list[(int64_t)blockIdx.x * n + i] : 0U;
    sort_keys(key, room);
    for (int32_t i = threadIdx.x; i < K; i += (int32_t)blockDim.x) {
        int32_t id = id_of(key[i]);
        top_id[blockIdx.x * (int64_t)K + i] = id;
        top_logit[blockIdx.x * (int64_t)K + i] = x[id];
    }
}

/* ------------------------------------------------------------------ host */

// The pieces of one scratch buffer.
struct room {
    struct told *told;    // [T,chunks]
    uint64_t *list[2];    // [T,chunks,K], and the next shorter one
    struct picked *out;   // [T], then top_id [T,K], top_logit [T,K]
    size_t out_at, bytes; // what goes to the host lies at the end
};

static size_t rounded_up(size_t n)
{
    return (n + 255) / 256 * 256;
}

static bool room_take(struct cuda *c, struct room *r, int64_t T, int64_t chunks, int64_t K)
{
    size_t told = rounded_up((size_t)(T * chunks) * sizeof(struct told)),
           list = rounded_up((size_t)(T * chunks * K) * sizeof(uint64_t)),
           out = (size_t)T * (sizeof(struct picked) + (size_t)K * 8);
    r->out_at = told + 2 * list;
    r->bytes = out;
    char *at = (char *)cuda_scratch(c, SCRATCH_PICK, r->out_at + out);
    r->told = (struct told *)(void *)at;
    r->list[0] = (uint64_t *)(void *)(at + told);
    r->list[1] = (uint64_t *)(void *)(at + told + list);
    r->out = (struct picked *)(void *)(at + r->out_at);
    return at != NULL;
}

static void pick_launch(struct cuda *c, const struct pick_args *a, const struct room *r, int64_t chunks)
{
    int64_t T = a->logits.n[0], V = a->logits.n[1], K = a->n_top, n = chunks * K;
    const float *x = (const float *)a->logits.data;
    int which = 0;
    LAUNCH(c, chunk_kernel, dim3((unsigned)chunks, (unsigned)T), THREADS, 0, x, V, a->n_top, r->told,
           r->list[0]);
    for (; n > SORTED; which = !which) {
        unsigned blocks = blocks_of(n, CHUNK);
        LAUNCH(c, shorten_kernel, dim3(blocks, (unsigned)T), THREADS, 0, r->list[which], n, a->n_top,
               r->list[!which]);
        n = (int64_t)blocks * K;
    }
    int32_t room = 2;
    while (room < n)
        room *= 2;
    int32_t *id = (int32_t *)(void *)(r->out + T);
    LAUNCH(c, answer_kernel, (unsigned)T, 512, (size_t)room * sizeof(uint64_t), x, V, r->told, chunks,
           r->list[which], (int32_t)n, room, a->n_top, r->out, id, (float *)(void *)(id + T * K));
}

static void pick_give(const struct pick_args *a, const char *host)
{
    int64_t T = a->logits.n[0], K = a->n_top;
    const struct picked *q = (const struct picked *)(const void *)host;
    for (int64_t t = 0; t < T; t++) {
        a->best[t] = q[t].best;
        a->logsumexp[t] = q[t].logsumexp;
        a->finite[t] = (uint8_t)q[t].finite;
    }
    if (K) {
        memcpy(a->top_id, q + T, (size_t)(T * K) * 4);
        memcpy(a->top_logit, (const int32_t *)(const void *)(q + T) + T * K, (size_t)(T * K) * 4);
    }
}

void pick_run(struct ops *o, const struct pick_args *a)
{
    struct cuda *c = cuda_of(o);
    int64_t T = a->logits.n[0], V = a->logits.n[1], chunks = (V + CHUNK - 1) / CHUNK;
    struct room r;
    if (!T)
        return;
    if (a->n_top > K_MOST) {
        cuda_fail(c, ERR_INPUT, "%d logits of a row asked for (allowed: up to %d)", (int)a->n_top, K_MOST);
        return;
    }
    if (!room_take(c, &r, T, chunks, a->n_top))
        return;
    char *host = (char *)pool_take(c->pool[PLACE_HOST], r.bytes);
    if (!host) {
        cuda_fail(c, ERR_NOMEM, "no host memory for picks");
        return;
    }
    memset(host, 0, r.bytes);
    pick_launch(c, a, &r, chunks);
    cuda_flush(c);
    if (cuda_ok(c, cudaMemcpyAsync(host, r.out, r.bytes, cudaMemcpyDeviceToHost, c->stream), "copying picks"))
        cuda_ok(c, cudaStreamSynchronize(c->stream), "waiting for picks");
    pick_give(a, host);
    pool_give(c->pool[PLACE_HOST], host);
}

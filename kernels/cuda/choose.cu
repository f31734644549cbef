// Scoring and choosing keys: select, gather, mean, dots, norms.
#include "kernels/cuda/place.h"

#define THREADS 512
#define MOST    128
#define STAGED  12000 /* keys of a row that fit into a block's shared memory */

/* ------------------------------------------------------------------ select */

struct choice {
    struct select_args a;
    uint32_t *key; // [rows, n]: the mean scores as integers of the same order; NULL: in shared memory
};

// Floats -> integers of the same order; both zeros are equal, as in comparisons of floats.
DEVICE uint32_t order_of(float x)
{
    uint32_t u = x == 0.0f ? 0U : __float_as_uint(x);
    return u & 0x80000000U ? ~u : u | 0x80000000U;
}

// The k-th largest key of n, bit by bit from the top: the largest value that at least k keys reach. A bar
// that exactly k keys reach is as good.
DEVICE uint32_t kth_largest(const uint32_t *key, int64_t n, int64_t k, uint32_t *part)
{
    uint32_t bar = 0;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t at_least = bar | 1U << bit, count = 0;
        for (int64_t j = threadIdx.x; j < n; j += blockDim.x)
            count += key[j] >= at_least;
        int64_t reach = block_sum(count, part);
        if (reach >= k)
            bar = at_least;
        if (reach == k)
            break;
    }
    return bar;
}

// Grid (rows, calls): scores are read once and written once; in between a row's keys lie in shared memory
// where they fit. Threads own neighbouring keys, so that places among them can be counted.
KERNEL select_kernel(const struct choice *choices)
{
    grid_begin();
    __shared__ uint32_t part[32];
    BLOCK_SHARED(uint32_t, staged);
    const struct choice *s = &choices[blockIdx.y];
    const struct select_args *a = &s->a;
    int64_t row = blockIdx.x, n = a->n;
    if (row >= a->rows)
        return;
    float *score = a->score + row * a->group * a->score_ld;
    uint32_t *key = s->key ? s->key + row * n : staged;
    int32_t *index = a->index ? a->index + row * a->index_ld : NULL;
    uint8_t *keep = a->keep ? a->keep + row * a->keep_ld : NULL;
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
        float sum = score[j];
        for (int64_t g = 1; g < a->group; g++)
            sum += score[g * a->score_ld + j];
        key[j] = order_of(sum / (float)a->group);
    }
    __syncthreads();
    uint32_t bar = a->k ? kth_largest(key, n, a->k, part) : 0, above = 0, ties = 0, tie, chosen = 0, at;
    int64_t per = (n + THREADS - 1) / THREADS, from = (int64_t)threadIdx.x * per,
            to = from + per < n ? from + per : n;
    for (int64_t j = from; j < to; j++) {
        above += key[j] > bar;
        ties += key[j] == bar;
    }
    (void)block_place(ties, &tie, part);
    uint32_t first_tie = tie, all_above = block_sum(above, part);
    for (int64_t j = from; j < to; j++) {
        chosen += a->k && (key[j] > bar || (key[j] == bar && (int64_t)all_above + tie < a->k));
        tie += key[j] == bar;
    }
    (void)block_place(chosen, &at, part);
    tie = first_tie;
    for (int64_t j = from; j < to; j++) {
        bool in = a->k && (key[j] > bar || (key[j] == bar && (int64_t)all_above + tie < a->k));
        tie += key[j] == bar;
        if (in && index)
            index[at] = (int32_t)j;
        at += in;
        if (keep)
            keep[j] = in;
        for (int64_t g = 0; (a->zero_rest || a->bar_rest) && !in && g < a->group; g++)
            score[g * a->score_ld + j] = a->bar_rest ? -INFINITY : 0.0f;
    }
    for (int64_t j = threadIdx.x; j < a->tail; j += blockDim.x) {
        if (index)
            index[a->k + j] = (int32_t)(n + j);
        if (keep)
            keep[n + j] = 1;
    }
}

void choose_select(struct ops *o, const struct select_args *args, int n)
{
    struct cuda *c = cuda_of(o);
    struct choice part[MOST];
    for (int from = 0; from < n; from += MOST) {
        int m = n - from < MOST ? n - from : MOST;
        int64_t keys = 0, rows = 0, longest = 0;
        for (int i = 0; i < m; i++) {
            const struct select_args *a = &args[from + i];
            keys += a->n > STAGED ? a->rows * a->n : 0;
            longest = a->n <= STAGED && a->n > longest ? a->n : longest;
            rows = a->rows > rows ? a->rows : rows;
        }
        uint32_t *room = keys ? (uint32_t *)cuda_scratch(c, SCRATCH_SELECT, (size_t)keys * 4) : NULL;
        if (keys && !room)
            return;
        for (int i = 0; i < m; i++) {
            const struct select_args *a = &args[from + i];
            part[i] = choice{*a, a->n > STAGED ? room : NULL};
            room += a->n > STAGED ? a->rows * a->n : 0;
        }
        const struct choice *dev = (const struct choice *)cuda_args(c, part, (size_t)m * sizeof *part);
        if (dev && rows)
            LAUNCH(c, select_kernel, dim3((unsigned)rows, (unsigned)m), THREADS, (size_t)longest * 4 + 16,
                   dev);
    }
}

/* ------------------------------------------------------------------ gather */

// Words of rows are copied by chunks: a block reads one and then writes it. Lists rise, so in place a chunk
// never writes what a later one reads: one block does all chunks of a head in order. Elsewhere chunks go to
// the blocks of the grid.
#define AHEAD 8 /* words that a thread holds */
#define CHUNK (THREADS * AHEAD)

template <typename W> DEVICE void gather_words(const struct gather_args *a, int64_t h, uint32_t words)
{
    int64_t H = a->dst.n[1], Hk = a->src.n[1];
    uint32_t all = (uint32_t)a->dst.n[0] * words, in_place = a->src.data == a->dst.data;
    const int32_t *list = a->index + h / (H / a->rows) * a->index_ld;
    const W *src = (const W *)a->src.data + h / (H / Hk) * words;
    W *dst = (W *)a->dst.data + h * words, held[AHEAD];
    if (in_place && blockIdx.x)
        return;
    for (uint32_t from = blockIdx.x * CHUNK; from < all; from += in_place ? CHUNK : gridDim.x * CHUNK) {
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++) {
            uint32_t i = from + j * THREADS + threadIdx.x;
            if (i < all)
                held[j] = src[list[i / words] * Hk * words + i % words];
        }
        if (in_place)
            __syncthreads();
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++) {
            uint32_t i = from + j * THREADS + threadIdx.x;
            if (i < all)
                dst[i / words * H * words + i % words] = held[j];
        }
        if (in_place)
            __syncthreads();
    }
}

struct pick_rows {
    struct gather_args a;
    uint32_t bytes, word; // of a row; of a word: 16, 4 or 2
};

// Grid (blocks, heads, calls).
KERNEL gather_kernel(const struct pick_rows *picks)
{
    grid_begin();
    const struct pick_rows *p = &picks[blockIdx.z];
    if (blockIdx.y >= p->a.dst.n[1])
        return;
    if (p->word == 16)
        gather_words<uint4>(&p->a, blockIdx.y, p->bytes / 16);
    else if (p->word == 4)
        gather_words<uint32_t>(&p->a, blockIdx.y, p->bytes / 4);
    else
        gather_words<uint16_t>(&p->a, blockIdx.y, p->bytes / 2);
}

// The widest words that all rows begin at.
static uint32_t word_of(const struct gather_args *a, size_t bytes)
{
    uintptr_t at = (uintptr_t)a->src.data | (uintptr_t)a->dst.data | bytes;
    return at % 16 == 0 ? 16 : at % 4 == 0 ? 4 : 2;
}

void choose_gather(struct ops *o, const struct gather_args *args, int n)
{
    struct cuda *c = cuda_of(o);
    struct pick_rows part[MOST];
    for (int from = 0; from < n; from += MOST) {
        int m = n - from < MOST ? n - from : MOST;
        int64_t words = 0, heads = 0;
        for (int i = 0; i < m; i++) {
            const struct gather_args *a = &args[from + i];
            size_t bytes = (size_t)a->src.n[2] * dtype_bytes(a->src.dtype);
            part[i] = pick_rows{*a, (uint32_t)bytes, word_of(a, bytes)};
            int64_t all = a->src.data == a->dst.data ? 1 : a->dst.n[0] * (int64_t)(bytes / part[i].word);
            words = a->dst.n[0] && all > words ? all : words;
            heads = a->dst.n[1] > heads ? a->dst.n[1] : heads;
        }
        const struct pick_rows *dev = (const struct pick_rows *)cuda_args(c, part, (size_t)m * sizeof *part);
        if (dev && words)
            LAUNCH(c, gather_kernel, dim3(blocks_of(words, CHUNK), (unsigned)heads, (unsigned)m), THREADS, 0,
                   dev);
    }
}

/* ------------------------------------------------------------------ mean, dots, norms */

KERNEL mean_kernel(float *out, struct tensor x)
{
    grid_begin();
    int64_t T = x.n[0], D = x.n[1] * x.n[2], i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= D)
        return;
    float sum = 0.0f;
    for (int64_t t = 0; t < T; t++)
        sum += load(x.data, x.dtype, t * D + i);
    out[i] = sum / (float)T;
}

void choose_mean(struct ops *o, struct tensor out, struct tensor x)
{
    int64_t D = x.n[1] * x.n[2];
    if (D)
        LAUNCH(cuda_of(o), mean_kernel, blocks_of(D, 64), 64, 0, (float *)out.data, x);
}

// One block per row.
KERNEL dots_kernel(float *out, struct tensor rows, const float *x, int64_t D)
{
    grid_begin();
    __shared__ float part[32];
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x)
        sum = fmaf(load(rows.data, rows.dtype, blockIdx.x * D + i), x[i], sum);
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}

void choose_dots(struct ops *o, float *out, struct tensor rows, const float *x)
{
    if (rows.n[0])
        LAUNCH(cuda_of(o), dots_kernel, (unsigned)rows.n[0], 128, 0, out, rows, x,
               tensor_count(&rows) / rows.n[0]);
}

// One warp per row and head.
KERNEL norms_kernel(float *out, int64_t ld, struct tensor x, float factor)
{
    grid_begin();
    int64_t i = (int64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, d = x.n[2];
    bool inside = i < x.n[0] * x.n[1];
    float sum = 0.0f;
    for (int64_t k = threadIdx.x % WARP; inside && k < d; k += WARP) {
        float v = load(x.data, x.dtype, i * d + k);
        sum = fmaf(v, v, sum);
    }
    sum = warp_sum(sum);
    if (inside && threadIdx.x % WARP == 0)
        out[i % x.n[1] * ld + i / x.n[1]] =
            __uint_as_float((__float_as_uint(factor * sqrtf(sum)) + 0x80U) & ~0xffU); // norm_rounded of score.h
}

void choose_norms(struct ops *o, float *out, int64_t ld, struct tensor x, float factor)
{
    int64_t n = x.n[0] * x.n[1];
    if (n)
        LAUNCH(cuda_of(o), norms_kernel, blocks_of(n, 4), 128, 0, out, ld, x, factor);
}

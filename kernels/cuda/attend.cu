// Attention: which kernel does which sequence, and the plain kernel, which does everything.
#include "kernels/cuda/flash.h"

#define THREADS 128

// Shared memory of the plain kernel: q and the sums [d] each, weights of a chunk of keys [THREADS].
struct plain {
    const struct attend_args *a;
    float *q, *o, *p, *part;
    int64_t t, head, h, d;
    float m, l;
};

// One chunk of keys start.. of one set: a thread per key for the logits, a thread per channel for the values.
DEVICE void plain_chunk(struct plain *w, const struct attend_set *s, int64_t start, int64_t n)
{
    int64_t j = start + threadIdx.x, row;
    float x = -INFINITY; // masked
    if ((int64_t)threadIdx.x < n) {
        const struct kv_run *k = run_of(s->k, j, &row);
        if (attend_visible(s, k, row, j, w->head, w->a->q_pos + w->t)) {
            x = 0.0f;
            for (int64_t c = 0; c < w->d; c++)
                x = fmaf(w->q[c], run_value(k, row, w->h, c, w->a->n_kv_head, w->d), x);
            x *= w->a->scale;
        }
    }
    float top = block_max(x == x ? x : INFINITY, w->part); // NaN must not be lost
    if (top == -INFINITY)
        return;
    float max = fmaxf(top, w->m), shrink = expf(w->m - max), p = expf(x - max);
    w->p[threadIdx.x] = p;
    w->l = w->l * shrink + block_sum(p, w->part);
    w->m = max;
    for (int64_t c = threadIdx.x; c < w->d; c += blockDim.x) {
        float sum = w->o[c] * shrink;
        for (int64_t i = 0; i < n; i++) {
            if (w->p[i] == 0.0f)
                continue;
            const struct kv_run *v = run_of(s->v, start + i, &row);
            sum = fmaf(w->p[i], run_value(v, row, w->h, c, w->a->n_kv_head, w->d), sum);
        }
        w->o[c] = sum;
    }
    __syncthreads();
}

// Grid (rows * heads, sequences).
KERNEL plain_kernel(const struct attend_args *args)
{
    grid_begin();
    __shared__ float part[32], p[THREADS];
    BLOCK_SHARED(float, shared);
    const struct attend_args *a = &args[blockIdx.y];
    int64_t T = a->out.n[0], H = a->out.n[1], d = a->out.n[2];
    if (blockIdx.x >= T * H)
        return;
    struct plain w = {a, shared, shared + d, p, part, blockIdx.x / H, blockIdx.x % H, 0, d, -INFINITY, 0.0f};
    w.h = w.head / (H / a->n_kv_head);
    for (int64_t c = threadIdx.x; c < d; c += blockDim.x)
        w.o[c] = 0.0f;
    for (int i = 0; i < a->n_set; i++) {
        const struct attend_set *s = &a->set[i];
        int64_t n = attend_keys(s);
        __syncthreads();
        for (int64_t c = threadIdx.x; c < d; c += blockDim.x)
            w.q[c] = load(s->q.data, s->q.dtype, (w.t * H + w.head) * d + c);
        __syncthreads();
        for (int64_t start = 0; start < n; start += THREADS)
            plain_chunk(&w, s, start, n - start < THREADS ? n - start : THREADS);
    }
    for (int64_t c = threadIdx.x; c < d; c += blockDim.x)
        store(a->out.data, a->out.dtype, blockIdx.x * d + c, w.l != 0.0f ? w.o[c] / w.l : 0.0f);
}

static void plain_attend(struct cuda *c, const struct attend_args *a, int n)
{
    int64_t rows = 0, d = 0;
    for (int i = 0; i < n; i++) {
        int64_t r = a[i].out.n[0] * a[i].out.n[1];
        rows = r > rows ? r : rows;
        d = a[i].out.n[2] > d ? a[i].out.n[2] : d;
    }
    const struct attend_args *dev = (const struct attend_args *)cuda_args(c, a, (size_t)n * sizeof *a);
    if (dev && rows)
        LAUNCH(c, plain_kernel, dim3((unsigned)rows, (unsigned)n), THREADS, (size_t)d * 2 * sizeof(float),
               dev);
}

// The kernel of a sequence depends on the sequence alone.
enum way { PLAIN, TILE, FLASH, DECODE };

static enum way way_of(enum tile_form form, const struct attend_args *a)
{
    return form == TILE_NONE ? PLAIN : decode_fits(a, form) ? DECODE : flash_fits(a) ? FLASH : TILE;
}

void attend_run(struct ops *o, const struct attend_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    for (int from = 0, to; from < n; from = to) { // neighbours of one form go together
        enum tile_form form = tile_form_of(&a[from]);
        enum way way = way_of(form, &a[from]);
        for (to = from + 1; to < n && to - from < ATTEND_MOST && tile_form_of(&a[to]) == form; to++)
            if (way_of(form, &a[to]) != way)
                break;
        if (way == PLAIN)
            plain_attend(c, a + from, to - from);
        else if (way == DECODE)
            decode_attend(c, form, a + from, to - from);
        else if (way == FLASH)
            flash_attend(c, form, a + from, to - from);
        else
            tile_attend(c, form, a + from, to - from);
    }
    attn_scores_run(c, a, n);
}

// The probability that each key gets from the rows of a call, summed (H2O): first the largest logit and the
// sum of every row, then every key adds up its rows in their order. Logits are computed twice rather than
// kept.
#include "kernels/cuda/attend.h"

#define THREADS 128

// Largest and sum of the exponentials of one row of one head: [T,H] of a sequence.
struct stat {
    float max, sum;
};

struct massed {
    struct attend_args a;
    struct stat *stat;
};

// Grid (rows * heads, sequences).
KERNEL stat_kernel(const struct massed *args)
{
    __shared__ float part[32];
    BLOCK_SHARED(float, q);
    const struct massed *m = &args[blockIdx.y];
    const struct attend_args *a = &m->a;
    int64_t H = a->out.n[1], d = a->out.n[2], row;
    if (blockIdx.x >= a->out.n[0] * H)
        return;
    int64_t t = blockIdx.x / H, head = blockIdx.x % H, h = head / (H / a->n_kv_head);
    struct stat s = {-INFINITY, 0.0f};
    for (int pass = 0; pass < 2; pass++) { // the sum against the final maximum, as the plain loops do
        float v = pass ? 0.0f : -INFINITY;
        for (int i = 0; i < a->n_set; i++) {
            const struct attend_set *set = &a->set[i];
            int64_t n = 0;
            for (int r = 0; r < set->n_k; r++)
                n += set->k[r].n;
            __syncthreads();
            for (int64_t c = threadIdx.x; c < d; c += blockDim.x)
                q[c] = load(set->q.data, set->q.dtype, (t * H + head) * d + c);
            __syncthreads();
            for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
                const struct kv_run *k = run_of(set->k, j, &row);
                if (!attend_visible(set, k, row, j, head, a->q_pos + t))
                    continue;
                float x = attend_logit(a, k, row, q, h, d);
                v = pass ? v + expf(x - s.max) : fmaxf(v, x);
            }
        }
        if (pass)
            s.sum = block_sum(v, part);
        else
            s.max = block_max(v, part);
    }
    if (threadIdx.x == 0)
        m->stat[blockIdx.x] = s;
}

// Grid (chunks of keys, heads, sequences * 2 sets): a thread owns one key and goes through the rows.
KERNEL mass_kernel(const struct massed *args)
{
    BLOCK_SHARED(float, q);
    const struct massed *m = &args[blockIdx.z / 2];
    const struct attend_args *a = &m->a;
    int which = blockIdx.z % 2;
    int64_t T = a->out.n[0], H = a->out.n[1], d = a->out.n[2], head = blockIdx.y, n = 0, row = 0;
    if (which >= a->n_set || head >= H || !a->set[which].mass)
        return;
    const struct attend_set *set = &a->set[which];
    for (int r = 0; r < set->n_k; r++)
        n += set->k[r].n;
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const struct kv_run *k = j < n ? run_of(set->k, j, &row) : NULL;
    float mass = k ? set->mass[head * set->mass_ld + j] : 0.0f;
    for (int64_t t = 0; t < T; t++) {
        __syncthreads();
        for (int64_t c = threadIdx.x; c < d; c += blockDim.x)
            q[c] = load(set->q.data, set->q.dtype, (t * H + head) * d + c);
        __syncthreads();
        struct stat s = m->stat[t * H + head];
        if (!k || s.max == -INFINITY)
            continue;
        float x = 0.0f;
        if (attend_visible(set, k, row, j, head, a->q_pos + t))
            x = expf(attend_logit(a, k, row, q, head / (H / a->n_kv_head), d) - s.max) / s.sum;
        mass = a->f16_mass ? half_round(mass + half_round(x)) : mass + x;
    }
    if (k)
        set->mass[head * set->mass_ld + j] = mass;
}

static bool wants_mass(const struct attend_args *a)
{
    return a->set[0].mass || (a->n_set > 1 && a->set[1].mass);
}

static void mass_part(struct cuda *c, struct massed *m, int n)
{
    int64_t rows = 0, most_rows = 0, keys = 0, heads = 0, d = 0;
    for (int i = 0; i < n; i++)
        rows += m[i].a.out.n[0] * m[i].a.out.n[1];
    struct stat *stat = (struct stat *)cuda_scratch(c, SCRATCH_MASS, (size_t)rows * sizeof *stat);
    if (!stat)
        return;
    for (int i = 0; i < n; i++) {
        const struct attend_args *a = &m[i].a;
        int64_t r = a->out.n[0] * a->out.n[1];
        m[i].stat = stat;
        stat += r;
        most_rows = r > most_rows ? r : most_rows;
        heads = a->out.n[1] > heads ? a->out.n[1] : heads;
        d = a->out.n[2] > d ? a->out.n[2] : d;
        for (int s = 0; s < a->n_set; s++)
            keys = attend_keys(&a->set[s]) > keys ? attend_keys(&a->set[s]) : keys;
    }
    const struct massed *dev = (const struct massed *)cuda_args(c, m, (size_t)n * sizeof *m);
    if (!dev || !most_rows || !keys)
        return;
    size_t shared = (size_t)d * sizeof(float);
    LAUNCH(c, stat_kernel, dim3((unsigned)most_rows, (unsigned)n), THREADS, shared, dev);
    LAUNCH(c, mass_kernel, dim3(blocks_of(keys, THREADS), (unsigned)heads, (unsigned)n * 2), THREADS, shared,
           dev);
}

void mass_run(struct cuda *c, const struct attend_args *a, int n)
{
    const int most = 64;
    struct massed part[most];
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (wants_mass(&a[i]))
            part[m++] = massed{a[i], NULL};
        if (m && (m == most || i == n - 1)) {
            mass_part(c, part, m);
            m = 0;
        }
    }
}

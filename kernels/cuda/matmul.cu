// Products: weights lie as they are, row-major [n_out, n_in]; skinny.cu multiplies few rows, products.cu the
// others, and what that cannot a plain kernel. Activations of another dtype than the weights are rounded to
// it first (f32 activations against f16 or bf16 weights).
#include "kernels/cuda/skinny.h"

#define THREADS 256

size_t matmul_pack_bytes(struct ops *o, int64_t n_out, int64_t n_in, enum dtype dtype)
{
    (void)o;
    return dtype <= DT_BF16 ? (size_t)(n_out * n_in) * dtype_bytes(dtype) : 0;
}

void matmul_pack(struct ops *o, struct weight *w, const struct tensor *src)
{
    struct cuda *c = cuda_of(o);
    int64_t n = w->n_out * w->n_in;
    size_t bytes = (size_t)n * dtype_bytes(src->dtype);
    if (src->dtype == w->dtype) {
        o->copy(o, w->packed, src->data, bytes);
        return;
    }
    void *stage = cuda_scratch(c, SCRATCH_X, bytes);
    if (!stage)
        return;
    o->copy(o, stage, src->data, bytes);
    rows_convert(c, w->packed, w->dtype, stage, src->dtype, n);
    cuda_flush(c); // complete before anything that may begin early
}

#define SIDE 16
// out [T,N] (+)= x [T,K] w^T: 16 x 16 sums of a block, in the order of K.
KERNEL plain_kernel(void *out, enum dtype out_dtype, const void *x, const void *w, enum dtype in, int64_t T,
                    int64_t N, int64_t K, bool add)
{
    grid_begin();
    __shared__ float xs[SIDE][SIDE + 1], ws[SIDE][SIDE + 1];
    int64_t t = (int64_t)blockIdx.x * SIDE + threadIdx.y, n0 = (int64_t)blockIdx.y * SIDE,
            n = n0 + threadIdx.x,
            row = n0 + threadIdx.y; // of w, for loading
    float sum = 0.0f;
    for (int64_t k0 = 0; k0 < K; k0 += SIDE) {
        int64_t k = k0 + threadIdx.x;
        __syncthreads();
        xs[threadIdx.y][threadIdx.x] = t < T && k < K ? load(x, in, t * K + k) : 0.0f;
        ws[threadIdx.y][threadIdx.x] = row < N && k < K ? load(w, in, row * K + k) : 0.0f;
        __syncthreads();
        for (int i = 0; i < SIDE; i++)
            sum = fmaf(xs[threadIdx.y][i], ws[threadIdx.x][i], sum);
    }
    if (t < T && n < N)
        store(out, out_dtype, t * N + n, add ? load(out, out_dtype, t * N + n) + sum : sum);
}

static void multiply(struct cuda *c, void *out, enum dtype out_dtype, const void *x, const void *w,
                     enum dtype in, int64_t T, int64_t N, int64_t K, bool add)
{
    cuda_flush(c);
    if (!product_run(c, out, out_dtype, x, w, in, T, N, K, add))
        LAUNCH(c, plain_kernel, dim3(blocks_of(T, SIDE), blocks_of(N, SIDE)), dim3(SIDE, SIDE), 0, out,
               out_dtype, x, w, in, T, N, K, add);
}

// out [T,N] = sum [T,N] + bias [N]; sum may be out.
KERNEL bias_kernel(struct tensor out, const float *sum, const float *bias, int64_t n)
{
    grid_begin();
    int64_t N = out.n[1];
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        store(out.data, out.dtype, i, bias ? sum[i] + bias[i % N] : sum[i]);
}

static struct skinny skinny_of(struct tensor out, const void *x, const struct weight *w, const float *bias)
{
    struct skinny p = {};
    p.x = x;
    p.w = w->packed;
    p.bias = bias;
    p.out[0] = out.data;
    p.upto[0] = p.upto[1] = p.upto[2] = w->n_out;
    p.out_dtype = p.more_dtype = out.dtype;
    p.T = out.n[0];
    p.N = w->n_out;
    p.K = w->n_in;
    return p;
}

void matmul_run(struct ops *o, struct tensor out, struct tensor x, const struct weight *w, const float *bias)
{
    struct cuda *c = cuda_of(o);
    int64_t T = x.n[0], n = T * w->n_out;
    if (!n)
        return;
    const void *in = x.data;
    if (x.dtype != w->dtype) {
        void *cut = cuda_scratch(c, SCRATCH_X, (size_t)(T * w->n_in) * dtype_bytes(w->dtype));
        if (!cut)
            return;
        rows_convert(c, cut, w->dtype, x.data, x.dtype, T * w->n_in);
        in = cut;
    }
    struct skinny few = skinny_of(out, in, w, bias);
    if (skinny_fits(&few, w->dtype)) {
        skinny_run(c, &few, w->dtype);
        return;
    }
    // One rounding: what the library cannot write, or what a bias is added to, comes as f32 first.
    bool direct = !bias && (out.dtype == DT_F32 || out.dtype == w->dtype);
    void *sum =
        direct || out.dtype == DT_F32 ? out.data : cuda_scratch(c, SCRATCH_OUT, (size_t)n * sizeof(float));
    if (!sum)
        return;
    multiply(c, sum, direct ? out.dtype : DT_F32, in, w->packed, w->dtype, T, w->n_out, w->n_in, false);
    if (!direct) {
        unsigned blocks = blocks_of(n, THREADS);
        LAUNCH(c, bias_kernel, blocks < 8192 ? blocks : 8192, THREADS, 0, out, (const float *)sum, bias, n);
    }
}

/* ------------------------------------------------------------------ several in one */

// Few rows in the weights' dtype: one launch does what is behind the product as well. Sums are rounded as
// they would be on their way through memory, so the bits are the same.
static bool fused(const struct skinny *p, struct tensor x, const struct weight *w)
{
    return x.dtype == w->dtype && p->out_dtype == x.dtype && skinny_fits(p, w->dtype);
}

#define SPLIT_ROWS 2048 // from here on every output has products enough to fill a GPU
#define ADD_ROWS   256

// Many rows, 16-bit: each output by a product of its own rows of the weights, not one product and copies
// apart.
static bool project_apart(struct cuda *c, const struct project_args *a)
{
    int64_t T = a->x.n[0], from = 0, K = a->w->n_in;
    if (T < SPLIT_ROWS || a->bias || a->h.dtype != a->w->dtype || a->w->dtype == DT_F32)
        return false;
    for (int i = 0; i < a->n_out; i++)
        if (a->out[i].dtype != a->w->dtype)
            return false;
    for (int i = 0; i < a->n_out; i++) {
        int64_t n = a->out[i].n[1] * a->out[i].n[2];
        multiply(c, a->out[i].data, a->w->dtype, a->h.data, (const uint16_t *)a->w->packed + from * K,
                 a->w->dtype, T, n, K, false);
        from += n;
    }
    return true;
}

void matmul_project(struct ops *o, const struct project_args *a)
{
    struct cuda *c = cuda_of(o);
    struct skinny p = skinny_of(a->wide, a->h.data, a->w, a->bias);
    int64_t T = a->x.n[0], at = 0;
    size_t elt = dtype_bytes(o->act), row = (size_t)a->wide.n[1] * elt;
    rows_rmsnorm(o, a->h, a->x, a->norm, a->eps, a->w_add);
    for (int i = 0; i < a->n_out; i++) {
        at += a->out[i].n[1] * a->out[i].n[2];
        p.out[i] = a->out[i].data;
        p.upto[i] = at;
    }
    if (T && fused(&p, a->h, a->w)) {
        skinny_run(c, &p, a->w->dtype);
        return;
    }
    if (project_apart(c, a))
        return;
    matmul_run(o, a->wide, a->h, a->w, a->bias);
    for (int i = 0; i < a->n_out; i++) {
        size_t from = i ? (size_t)p.upto[i - 1] * elt : 0, width = (size_t)p.upto[i] * elt - from;
        o->copy_rows(o, a->out[i].data, width, (const char *)a->wide.data + from, row, width, T);
    }
}

void matmul_add(struct ops *o, struct tensor x, struct tensor y, const struct weight *w, const float *bias,
                struct tensor h)
{
    struct skinny p = skinny_of(h, y.data, w, bias);
    p.out[0] = NULL;
    p.sum = x.data;
    if (y.n[0] && fused(&p, y, w) && x.dtype == h.dtype) {
        skinny_run(cuda_of(o), &p, w->dtype);
        return;
    }
    if (y.n[0] >= ADD_ROWS && !bias && w->dtype != DT_F32 && y.dtype == w->dtype && x.dtype == w->dtype) {
        // the product adds, with one rounding fewer than the steps
        multiply(cuda_of(o), x.data, x.dtype, y.data, w->packed, w->dtype, y.n[0], w->n_out, w->n_in, true);
        return;
    }
    matmul_run(o, h, y, w, bias);
    rows_add(o, x, h);
}

void matmul_mlp(struct ops *o, const struct mlp_args *a)
{
    struct skinny p = skinny_of(a->wide, a->h.data, a->gate_up, NULL);
    p.out[0] = NULL;
    p.mid = a->mid.data;
    rows_rmsnorm(o, a->h, a->x, a->norm, a->eps, a->w_add);
    if (a->x.n[0] && a->gate_up->dtype != DT_F32 && fused(&p, a->h, a->gate_up) &&
        a->mid.dtype == a->h.dtype) {
        skinny_run(cuda_of(o), &p, a->gate_up->dtype);
    } else {
        matmul_run(o, a->wide, a->h, a->gate_up, NULL);
        rows_swiglu(o, a->mid, a->wide);
    }
    matmul_add(o, a->x, a->mid, a->down, NULL, a->h);
}

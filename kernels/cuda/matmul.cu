// Products: weights lie as they are, row-major [n_out, n_in]; skinny.cu multiplies few rows, products.cu the
// others. Activations of another dtype than the weights are rounded to it first (f32 activations against f16
// or bf16 weights).
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
}

// out [T,N] = sum [T,N] + bias [N]; sum may be out.
KERNEL bias_kernel(struct tensor out, const float *sum, const float *bias, int64_t n)
{
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
    p.out = out.data;
    p.out_dtype = out.dtype;
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
    cuda_flush(c);
    product_run(c, sum, direct ? out.dtype : DT_F32, in, w->packed, w->dtype, T, w->n_out, w->n_in);
    if (!direct) {
        unsigned blocks = blocks_of(n, THREADS);
        LAUNCH(c, bias_kernel, blocks < 8192 ? blocks : 8192, THREADS, 0, out, (const float *)sum, bias, n);
    }
}

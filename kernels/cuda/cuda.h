/* Inside of the CUDA backend: the device handle, launching, and small device functions that several kernels
 * share. The same files compile without nvcc as plain C++ against tests/shim (KVS_SHIM), where the threads of
 * a block are fibers: so kernels use the words of this header (KERNEL, LAUNCH, BLOCK_SHARED) and sum in a
 * fixed order.
 *
 * The module is built with -fmad=false: a*b+c rounds twice, as in the plain loops; fmaf() asks for one
 * rounding.
 */
#ifndef KVS_KERNELS_CUDA_CUDA_H
#define KVS_KERNELS_CUDA_CUDA_H

#ifdef KVS_SHIM
#include <cuda_shim.h>
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <stddef.h>
#include <stdint.h>
#include <utility>

extern "C" {
#include "base/err.h"
#include "kernels/host.h"
}

/* ------------------------------------------------------------------ the device handle */

struct pool;  /* pool.cu */
struct queue; /* queue.cu */

/* The backend's own memory for one purpose; it grows, old content is lost. */
enum scratch {
    SCRATCH_X,
    SCRATCH_OUT,
    SCRATCH_SPLIT,
    SCRATCH_SCORES,
    SCRATCH_SELECT,
    SCRATCH_PICK,
    SCRATCH_N
};

struct cuda {
    struct host host; /* first: ops.c looks there (fail_at) */
    struct ops ops;
    int (*error)(int code, const char *text); /* sets the program's error text, returns code */
    cudaStream_t stream;
    struct pool *pool[PLACE_N];
    struct {
        void *data;
        size_t bytes;
    } scratch[SCRATCH_N];
    /* Arguments of launches: written on the host, sent with the launches that are queued, used once. Behind
       arg_sent they wait. */
    char *arg_host, *arg_dev;
    size_t arg_at, arg_sent;
    struct queue *queue;
    struct product *product; /* products.cu */
    int ordinal, n_sm;
    bool wgmma;         /* prompts by hopper.cu (asked for, and the GPU has these instructions) */
    bool early;         /* kernels of a graph may begin before the one ahead has ended (grid_begin) */
    bool wait;          /* after every launch: a fault then names its kernel */
    const char *kernel; /* the latest launched */
};

static inline struct cuda *cuda_of(const struct ops *o)
{
    return (struct cuda *)o->impl;
}

/* Latches the first error until sync(). */
void cuda_fail(struct cuda *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* True if rc is success; otherwise latches "what: text of rc". */
bool cuda_ok(struct cuda *c, cudaError_t rc, const char *what);
/* After every launch: latches what went wrong with it (rc: what launching said). */
void cuda_launched(struct cuda *c, const char *kernel, cudaError_t rc);
/* The backend's own memory, at least `bytes`; NULL and a latched ERR_NOMEM if there is none. */
void *cuda_scratch(struct cuda *c, enum scratch which, size_t bytes);
/* Copies `bytes` of arguments (at most 1 MiB) to the device; valid for the next launch. */
const void *cuda_args(struct cuda *c, const void *args, size_t bytes);

/* queue.cu: LAUNCH puts kernels into a queue; cuda_flush gives it to the stream. Whoever uses the stream
 * directly, waits for it or gives memory back to the driver flushes first. */
struct queue *queue_open(void);
void queue_close(struct queue *q);
void cuda_flush(struct cuda *c);
void cuda_send_args(struct cuda *c); /* device.cu: for cuda_flush */
/* One launch: added, its arguments one by one, done. */
void queue_add(struct cuda *c, const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared);
void queue_arg(struct cuda *c, const void *arg, size_t bytes);
void queue_done(struct cuda *c);

/* pool.cu: memory from the driver in big pieces, given out and taken back without it. All work of the backend
 * runs on one stream, so a block may be given out again at once. */
struct pool *pool_open(enum mem_place place, struct cuda *c);
void pool_close(struct pool *p);
void *pool_take(struct pool *p, size_t bytes); /* 256-byte aligned, content undefined; NULL: none */
void pool_give(struct pool *p, void *data);
void pool_trim(
    struct pool *p); /* slabs that nobody uses go back to the driver, behind what the stream does */
/* What a block was taken for; NULL if the pool has no such block. */
struct pool_block {
    size_t bytes; /* as asked for */
    int32_t kind;
};
struct pool_block *pool_find(struct pool *p, const void *data);
bool pool_owns(const struct pool *p, const void *data); /* any address inside */

/* products.cu: out [T,n_out] = x [T,n_in] w^T (add: out += it, rounded once), row-major; x and w of dtype
 * `in`, out of dtype f32 or `in`; f32 accumulation, f32 operands are not cut to tf32. False: the library has
 * no such product, nothing was done. */
struct product *product_open(struct cuda *c);
void product_close(struct product *p);
bool product_run(struct cuda *c, void *out, enum dtype out_dtype, const void *x, const void *w, enum dtype in,
                 int64_t T, int64_t n_out, int64_t n_in, bool add);
void product_version(char *text, size_t size);

/* Values of any float dtype -> values of another one. */
void rows_convert(struct cuda *c, void *dst, enum dtype to, const void *src, enum dtype from, int64_t n);

/* Members of the backend, by file. */
void rows_embed(struct ops *o, struct tensor out, const struct tensor *table, const int32_t *ids,
                float scale);
void rows_rmsnorm(struct ops *o, struct tensor out, struct tensor x, const float *w, float eps, float w_add);
void rows_layernorm(struct ops *o, struct tensor out, struct tensor x, const float *w, const float *b,
                    float eps);
void rows_add(struct ops *o, struct tensor x, struct tensor y);
void rows_swiglu(struct ops *o, struct tensor out, struct tensor gate_up);
void rows_gelu(struct ops *o, struct tensor out, struct tensor x);
void rows_rope(struct ops *o, const struct rope_args *a, int n);
void quant_run(struct ops *o, const struct quant_args *a, int n);
size_t matmul_pack_bytes(struct ops *o, int64_t n_out, int64_t n_in, enum dtype dtype);
void matmul_pack(struct ops *o, struct weight *w, const struct tensor *src);
void matmul_run(struct ops *o, struct tensor out, struct tensor x, const struct weight *w, const float *bias);
void matmul_project(struct ops *o, const struct project_args *a);
void matmul_add(struct ops *o, struct tensor x, struct tensor y, const struct weight *w, const float *bias,
                struct tensor h);
void matmul_mlp(struct ops *o, const struct mlp_args *a);
void attend_run(struct ops *o, const struct attend_args *a, int n);
void choose_select(struct ops *o, const struct select_args *a, int n);
void choose_gather(struct ops *o, const struct gather_args *a, int n);
void choose_mean(struct ops *o, struct tensor out, struct tensor x);
void choose_dots(struct ops *o, float *out, struct tensor rows, const float *x);
void choose_norms(struct ops *o, float *out, int64_t ld, struct tensor x, float factor);
void pick_run(struct ops *o, const struct pick_args *a);
void mix_backend(struct ops *o); /* the entries of kernels/mix.h: mix.cu */

/* ------------------------------------------------------------------ launching */

template <typename P> static inline void queue_value(struct cuda *c, P arg)
{
    queue_arg(c, &arg, sizeof arg);
}
template <typename... P, typename... A>
static inline void cuda_launch(struct cuda *c, const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                               size_t shared, A &&...a)
{
#ifdef KVS_SHIM
    shim_know(kernel, name);
#endif
    queue_add(c, name, (const void *)kernel, grid, block, shared);
    (queue_value<P>(c, std::forward<A>(a)), ...);
    queue_done(c);
}
#define LAUNCH(c, kernel, grid, block, shared, ...)                                                          \
    cuda_launch(c, #kernel, kernel, grid, block, shared, __VA_ARGS__)
#ifdef KVS_SHIM
#define BLOCK_SHARED(type, name) type *name = (type *)shim_shared()
#else
/* The block's dynamic shared memory. */
#define BLOCK_SHARED(type, name)                                                                             \
    extern __shared__ __align__(16) char block_shared_bytes[];                                               \
    type *name = (type *)block_shared_bytes
#endif
#define KERNEL static __global__ void
#define DEVICE static __device__ __forceinline__
#define BOTH   static inline __host__ __device__ /* for the host and for kernels */

/* First in every kernel, before anything that other kernels write is read and before anything is written: the
 * threads may have begun while the kernel ahead is still running (queue.cu); here they wait for its end, and
 * let the next one begin. */
DEVICE void grid_begin(void)
{
#ifdef KVS_SHIM
    shim_grid_begin();
#elif defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* What no kernel writes, weights and arguments, may be read before grid_begin: so much of a kernel's latency
 * then passes while the one ahead ends. */
template <typename T> DEVICE T load_early(const T *p)
{
#ifdef KVS_SHIM
    return *p;
#else
    return __ldcs(p);
#endif
}
/* A block's arguments -> shared memory; bytes: a multiple of 16. Visible after the block's next barrier. */
DEVICE void args_early(void *to, const void *from, int32_t bytes)
{
    for (int32_t i = (int32_t)threadIdx.x; i < bytes / 16; i += (int32_t)blockDim.x)
        ((uint4 *)to)[i] = load_early((const uint4 *)from + i);
}

static inline unsigned blocks_of(int64_t n, int64_t per)
{
    int64_t b = (n + per - 1) / per;
    return (unsigned)(b < 1 ? 1 : b);
}

/* ------------------------------------------------------------------ one value */

#ifdef KVS_SHIM
DEVICE float half_value(uint16_t h)
{
    return f16_to_f32(h);
}
DEVICE uint16_t half_bits(float x)
{
    return f16_from_f32(x);
}
DEVICE float brain_value(uint16_t h)
{
    return bf16_to_f32(h);
}
DEVICE uint16_t brain_bits(float x)
{
    return bf16_from_f32(x);
}
#else
DEVICE float half_value(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}
DEVICE uint16_t half_bits(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}
DEVICE float brain_value(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}
DEVICE uint16_t brain_bits(float x)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
#endif

/* x rounded to f16: one op of fp16 arithmetic. */
DEVICE float half_round(float x)
{
    return half_value(half_bits(x));
}

DEVICE float load(const void *p, enum dtype t, int64_t i)
{
    if (t == DT_F32)
        return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return t == DT_F16 ? half_value(h) : brain_value(h);
}

DEVICE void store(void *p, enum dtype t, int64_t i, float x)
{
    if (t == DT_F32)
        ((float *)p)[i] = x;
    else
        ((uint16_t *)p)[i] = t == DT_F16 ? half_bits(x) : brain_bits(x);
}

/* Code number i of `bits` bits, low bits first (the twin of host_code). */
DEVICE uint32_t code_at(const uint8_t *p, int64_t i, int32_t bits)
{
    int64_t at = i * bits;
    uint32_t w = p[at >> 3];
    if ((at & 7) + bits > 8)
        w |= (uint32_t)p[(at >> 3) + 1] << 8;
    return (w >> (at & 7)) & ((1U << bits) - 1U);
}

/* The value of a code as the run defines it (the twin of host_dequant). */
DEVICE float dequant(const struct kv_run *run, float scale, float min, uint32_t code)
{
    float p = run->inverse ? (float)code / scale : scale * (float)code;
    return run->inverse || run->f16_values ? half_round(half_round(p) + min) : p + min;
}

/* Channel c of row r, head h of a run (the twin of host_kv). */
DEVICE float run_value(const struct kv_run *run, int64_t r, int64_t h, int64_t c, int64_t n_head, int64_t d)
{
    const uint8_t *codes = (const uint8_t *)run->data;
    if (run->layout == QUANT_NONE) {
        int64_t row = run->index ? run->index[r] : r;
        return load(run->data, run->dtype, (row * n_head + h) * d + c);
    }
    int64_t s;
    uint32_t code;
    if (run->layout == QUANT_TOKEN) {
        s = (r * n_head + h) * (d / run->group) + c / run->group;
        code = code_at(codes + (r * n_head + h) * d * run->bits / 8, c, run->bits);
    } else {
        s = ((r / run->group) * n_head + h) * d + c;
        code = code_at(codes + s * run->group * run->bits / 8, r % run->group, run->bits);
    }
    return dequant(run, half_value(run->scale[s]), half_value(run->min[s]), code);
}

/* ------------------------------------------------------------------ sums of a block */

#define WARP 32
#define FULL 0xffffffffU

template <typename T> DEVICE T lane_xor(T v, int step)
{
    return __shfl_xor_sync(FULL, v, step);
}
template <typename T> DEVICE T sum_of(T a, T b)
{
    return a + b;
}
DEVICE float larger_of(float a, float b)
{
    return fmaxf(a, b);
}

/* Every lane gets PICK over all lanes, pair by pair. */
template <typename T, T PICK(T, T)> DEVICE T warp_fold(T v)
{
    for (int step = 16; step > 0; step /= 2)
        v = PICK(v, lane_xor(v, step));
    return v;
}
/* Every thread gets PICK over all, warps in their order; blockDim.x is a multiple of 32. `part`: 32 values of
 * shared memory, free again after the next barrier of the caller. */
template <typename T, T PICK(T, T)> DEVICE T block_fold(T v, T *part)
{
    v = warp_fold<T, PICK>(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = v;
    __syncthreads();
    v = part[0];
    for (unsigned i = 1; i < blockDim.x / WARP; i++)
        v = PICK(v, part[i]);
    return v;
}

DEVICE float warp_sum(float v)
{
    return warp_fold<float, sum_of<float>>(v);
}
template <typename T> DEVICE T block_sum(T v, T *part)
{
    return block_fold<T, sum_of<T>>(v, part);
}
DEVICE float block_max(float v, float *part)
{
    return block_fold<float, larger_of>(v, part);
}

#endif

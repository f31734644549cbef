/* Just enough of CUDA for the kernels of kernels/cuda to run on a CPU: the threads of a block are
 * fibers of one thread, blocks run one after the other, __shared__ is a static, device memory is memory of
 * the host (filled with a pattern where the real one is undefined), streams do everything at once (copies of
 * pinned memory when the next call comes). Warps are
 * 32 neighbouring threads; a thread that returned no longer counts at barriers. Exchanges of a warp demand
 * all of its threads. */
#ifndef KVS_TESTS_CUDA_SHIM_H
#define KVS_TESTS_CUDA_SHIM_H

#include <functional>
#include <initializer_list>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__      static
#define __align__(n)    alignas(n)
#define __launch_bounds__(...)
#define __restrict__

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
    {
    }
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/* Runs the body for every thread of every block. */
void shim_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);
void *shim_shared(void); /* the block's dynamic shared memory, 1024-byte aligned */
void shim_barrier(void); /* of the block */
void shim_warp_barrier(void);
/* Every lane gives `bytes` (at most 64) and gets those of all 32 lanes, lane by lane; valid until the next
 * exchange. */
const void *shim_exchange(const void *mine, size_t bytes);
unsigned shim_lane(void);
/* Copies of one thread that are done when it waits for them (src NULL: zeros), in groups. */
void shim_async_copy(void *dst, const void *src, size_t bytes);
void shim_async_group(void);
void shim_async_wait(unsigned left); /* until at most that many groups are left */
/* Device memory cannot be touched by the host: only between these two (kernels, copies, products). */
void shim_device_begin(void);
void shim_device_end(void);

/* Work of one thread that is done when it waits for it, in groups, apart from its copies. */
void shim_defer(const std::function<void()> &work);
void shim_defer_group(void);
void shim_defer_wait(unsigned left);
/* Every thread of every kernel must come here. */
void shim_grid_begin(void);
/* Other threads go first. */
void shim_yield(void);
/* Barrier `id` (1 to 15) of `threads` threads. */
void shim_part_barrier(unsigned id, unsigned threads);

static inline void __syncthreads(void)
{
    shim_barrier();
}
static inline void __syncwarp(unsigned mask = 0xffffffffU)
{
    (void)mask;
    shim_warp_barrier();
}
template <typename T> static inline T shim_from(T v, unsigned lane)
{
    T all[32];
    memcpy(all, shim_exchange(&v, sizeof v), sizeof all);
    return all[lane];
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T v, int mask)
{
    return shim_from(v, (shim_lane() ^ (unsigned)mask) & 31U);
}
template <typename T> static inline T __shfl_sync(unsigned, T v, int lane)
{
    return shim_from(v, (unsigned)lane & 31U);
}
template <typename T> static inline T __shfl_down_sync(unsigned, T v, int step)
{
    unsigned at = shim_lane() + (unsigned)step;
    return shim_from(v, at < 32U ? at : shim_lane());
}
static inline unsigned __ballot_sync(unsigned, int p)
{
    int all[32];
    unsigned bits = 0;
    memcpy(all, shim_exchange(&p, sizeof p), sizeof all);
    for (unsigned i = 0; i < 32; i++)
        bits |= all[i] ? 1U << i : 0U;
    return bits;
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline uint32_t __float_as_uint(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float __uint_as_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* ------------------------------------------------------------------ runtime */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorUnsupportedPtxVersion = 222,
    cudaErrorIllegalAddress = 700,
    cudaErrorNotReady = 600
};
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum { cudaStreamNonBlocking = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
typedef struct shim_stream *cudaStream_t;
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t sharedMemPerBlockOptin;
    struct {
        char bytes[16];
    } uuid;
};
/* Kernels are launched by address, as with the runtime: the shim must have seen them with their types. */
struct shim_kernel {
    std::function<void(void **)> call;
    std::vector<size_t> bytes; /* of the arguments */
    std::string name;
};
bool shim_knows(const void *kernel);
void shim_learn(const void *kernel, const shim_kernel &k);
template <typename P> static inline P shim_arg(const void *at)
{
    alignas(P) char room[sizeof(P)];
    memcpy(room, at, sizeof room);
    return *(P *)(void *)room;
}
template <typename... P, size_t... I>
static inline void shim_call(void (*kernel)(P...), void **args, std::index_sequence<I...>)
{
    (void)args;
    kernel(shim_arg<P>(args[I])...);
}
template <typename... P> static inline void shim_know(void (*kernel)(P...), const char *name)
{
    if (!shim_knows((const void *)kernel))
        shim_learn((const void *)kernel,
                   {[kernel](void **args) { shim_call(kernel, args, std::index_sequence_for<P...>()); },
                    {sizeof(P)...},
                    name});
}
/* Whoever runs kernels in another way than as these functions (tests/ptx). */
extern void (*shim_launcher)(const void *kernel, dim3 grid, dim3 block, void **args,
                             const std::vector<size_t> &arg_bytes, size_t shared);
/* Is it memory that kernels reach, the device's or pinned? Then from where to where. */
bool shim_reachable(const void *p, const char **from, const char **to);
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **args, size_t shared,
                             cudaStream_t s);
/* Graphs of kernels: every node keeps a copy of its arguments. Edges must lead from earlier nodes to later
 * ones. */
typedef struct shim_graph *cudaGraph_t;
typedef struct shim_exec *cudaGraphExec_t;
typedef struct shim_node *cudaGraphNode_t;
struct cudaKernelNodeParams {
    void *func;
    dim3 gridDim, blockDim;
    unsigned sharedMemBytes;
    void **kernelParams, **extra;
};
cudaError_t cudaGraphCreate(cudaGraph_t *g, unsigned flags);
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *node, cudaGraph_t g, const cudaGraphNode_t *after,
                                   size_t n_after, const cudaKernelNodeParams *p);
/* How a node follows another: with the port and type of programmatic launches before its end. */
enum { cudaGraphKernelNodePortProgrammatic = 1, cudaGraphDependencyTypeProgrammatic = 1 };
struct cudaGraphEdgeData {
    unsigned char from_port, to_port, type, reserved[5];
};
cudaError_t cudaGraphAddDependencies(cudaGraph_t g, const cudaGraphNode_t *from, const cudaGraphNode_t *to,
                                     const cudaGraphEdgeData *edge, size_t n);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams *p);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
/* What went to the device so far, for tests: found by its name in the module. */
struct shim_counts {
    long launches, graphs, nodes,
        nodes_set; /* kernels one by one; graphs, their kernels, kernels changed in them */
    long to_device, to_host, inside, memsets, waits;
};
extern "C" __attribute__((visibility("default"))) void shim_count(struct shim_counts *out);
struct shim_held {
    size_t device_bytes, device_most; /* from cudaMalloc, now and at most */
    int last_error;                   /* that cudaGetLastError would tell */
};
extern "C" __attribute__((visibility("default"))) void shim_memory(struct shim_held *out);

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t rows, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t rc);
const char *cudaGetErrorName(cudaError_t rc);
cudaError_t cudaDriverGetVersion(int *v);
cudaError_t cudaRuntimeGetVersion(int *v);
/* Of a kernel's code. KVS_SHIM_CODE=80: as where a GPU takes what was compiled for 8.0. */
struct cudaFuncAttributes {
    int ptxVersion;
};
int shim_code(void);
template <typename F> static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, F)
{
    a->ptxVersion = shim_code();
    return cudaSuccess;
}
/* The most dynamic shared memory that a kernel may be launched with; 0: nobody has said. */
void shim_allow(const void *kernel, size_t shared);
size_t shim_allowed(const void *kernel);
template <typename F> static inline cudaError_t cudaFuncSetAttribute(F kernel, cudaFuncAttribute, int shared)
{
    shim_allow((const void *)kernel, (size_t)shared);
    return cudaSuccess;
}

#endif

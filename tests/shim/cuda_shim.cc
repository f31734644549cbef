// The shim's fibers and its runtime (cuda_shim.h).
#include "cuda_shim.h"

#include <deque>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace
{

const size_t STACK = 256 << 10, SHARED_MOST = 256 << 10, LANE_BYTES = 64;

/* ------------------------------------------------------------------ switching */

#ifdef __x86_64__
// Saves what a call must keep on the stack and goes on where the other fiber left off.
extern "C" void shim_switch(void **save, void *load);
asm(".text\n.globl shim_switch\n.hidden shim_switch\nshim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
#endif

struct copy {
    void *dst;
    const void *src;
    size_t bytes;
};
struct fiber {
    std::deque<std::vector<copy>> under_way; // groups of copies, the last still open
    std::deque<std::vector<std::function<void()>>> deferred;
    char *stack;
#ifdef __x86_64__
    void *sp;
#else
    ucontext_t at;
#endif
    bool alive, began; // began: it has waited for the kernel ahead
    dim3 index;
};

struct warp {
    alignas(16) char give[32][LANE_BYTES]; // what lanes brought
    alignas(16) char all[2][32 * LANE_BYTES];
    unsigned arrived, size, alive, turn; // turn: exchanges so far
};

std::vector<fiber> fibers;
std::vector<warp> warps;
#ifdef __x86_64__
void *main_sp;
#else
ucontext_t main_at;
#endif
const std::function<void()> *body;
unsigned n_threads, n_alive, arrived, current;
unsigned long phase; // barriers of the block so far
unsigned part_arrived[16], part_phase[16];
unsigned long yields; // since the launch began, to notice threads that wait for each other
alignas(1024) char shared_bytes[SHARED_MOST];

[[noreturn]] void die(const char *text)
{
    fprintf(stderr, "cuda shim: %s (block %u %u %u, thread %u)\n", text, blockIdx.x, blockIdx.y, blockIdx.z,
            current);
    abort();
}

void go(unsigned from, unsigned to)
{
    if (from == to)
        return;
    current = to;
    threadIdx = fibers[to].index;
#ifdef __x86_64__
    shim_switch(&fibers[from].sp, fibers[to].sp);
#else
    swapcontext(&fibers[from].at, &fibers[to].at);
#endif
}

// The next living thread after `from`, around.
unsigned next_alive(unsigned from)
{
    for (unsigned i = 1; i <= n_threads; i++)
        if (fibers[(from + i) % n_threads].alive)
            return (from + i) % n_threads;
    return n_threads;
}

void give_way(void)
{
    go(current, next_alive(current));
}

void back_to_main(void)
{
#ifdef __x86_64__
    void *lost;
    shim_switch(&lost, main_sp);
#else
    setcontext(&main_at);
#endif
}

void fiber_main(void)
{
    (*body)();
    unsigned me = current;
    if (!fibers[me].began)
        die("a kernel that does not wait for the one ahead of it");
    for (const std::vector<copy> &group : fibers[me].under_way)
        if (!group.empty())
            die("a thread ends with copies under way");
    fibers[me].under_way.clear();
    for (const std::vector<std::function<void()>> &group : fibers[me].deferred)
        if (!group.empty())
            die("a thread ends with work under way");
    fibers[me].deferred.clear();
    fibers[me].alive = false;
    n_alive--;
    warps[me / 32].alive--;
    if (n_alive && arrived == n_alive) { // the others wait at a barrier for this one
        arrived = 0;
        phase++;
    }
    unsigned next = next_alive(me);
    if (next == n_threads)
        back_to_main();
    else
        go(me, next);
    die("a finished thread went on");
}

void prepare(fiber *f)
{
    if (!f->stack) {
        f->stack = (char *)mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (f->stack == MAP_FAILED)
            die("no memory for a stack");
        mprotect(f->stack, 4096, PROT_NONE);
    }
#ifdef __x86_64__
    void **top = (void **)(void *)(f->stack + STACK - 64);
    *--top = NULL; // fiber_main never returns
    *--top = (void *)&fiber_main;
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    f->sp = top;
#else
    getcontext(&f->at);
    f->at.uc_stack.ss_sp = f->stack;
    f->at.uc_stack.ss_size = STACK;
    f->at.uc_link = NULL;
    makecontext(&f->at, fiber_main, 0);
#endif
    f->alive = true;
    f->began = false;
}

void run_block(void)
{
    n_alive = n_threads;
    arrived = 0;
    yields = 0;
    for (unsigned i = 0; i < n_threads; i++) {
        prepare(&fibers[i]);
        fibers[i].index = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
    }
    for (unsigned w = 0; w * 32 < n_threads; w++) {
        unsigned size = n_threads - w * 32 < 32 ? n_threads - w * 32 : 32;
        warps[w].arrived = warps[w].turn = 0;
        warps[w].size = warps[w].alive = size;
    }
    current = 0;
    threadIdx = fibers[0].index;
#ifdef __x86_64__
    shim_switch(&main_sp, fibers[0].sp);
#else
    swapcontext(&main_at, &fibers[0].at);
#endif
}

} // namespace

void shim_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &f)
{
    unsigned threads = block.x * block.y * block.z;
    if (!threads || threads > 1024 || shared > SHARED_MOST || grid.y > 65535 || grid.z > 65535 || !grid.x ||
        !grid.y || !grid.z)
        die("a launch that no GPU would take");
    body = &f;
    gridDim = grid;
    blockDim = block;
    n_threads = threads;
    if (fibers.size() < n_threads)
        fibers.resize(n_threads);
    if (warps.size() < (n_threads + 31) / 32)
        warps.resize((n_threads + 31) / 32);
    shim_device_begin();
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                memset(shared_bytes, 0xcb, shared); // undefined on a GPU
                run_block();
            }
    shim_device_end();
}

void shim_grid_begin(void)
{
    fibers[current].began = true;
}

void *shim_shared(void)
{
    return shared_bytes;
}

unsigned shim_lane(void)
{
    return current % 32;
}

void shim_barrier(void)
{
    unsigned long mine = phase;
    if (++arrived == n_alive) {
        arrived = 0;
        phase++;
        return;
    }
    while (phase == mine)
        give_way();
}

const void *shim_exchange(const void *bytes, size_t n)
{
    warp *w = &warps[current / 32];
    unsigned me = current, mine = w->turn;
    if (n > LANE_BYTES || w->size != 32 || w->alive != 32)
        die("an exchange of an incomplete warp");
    memcpy(w->give[me % 32], bytes, n);
    if (++w->arrived == 32) {
        char *all = w->all[mine % 2];
        for (unsigned i = 0; i < 32; i++)
            memcpy(all + i * n, w->give[i], n);
        w->arrived = 0;
        w->turn++;
    }
    while (w->turn == mine)
        give_way();
    return w->all[mine % 2];
}

void shim_warp_barrier(void)
{
    char nothing = 0;
    shim_exchange(&nothing, 1);
}

void shim_async_copy(void *dst, const void *src, size_t bytes)
{
    std::deque<std::vector<copy>> &q = fibers[current].under_way;
    if ((uintptr_t)dst % bytes || (uintptr_t)src % bytes)
        die("a copy that is not aligned");
    if (q.empty())
        q.emplace_back();
    q.back().push_back(copy{dst, src, bytes});
}

void shim_async_group(void)
{
    std::deque<std::vector<copy>> &q = fibers[current].under_way;
    if (q.empty())
        q.emplace_back();
    q.emplace_back();
}

void shim_async_wait(unsigned left)
{
    std::deque<std::vector<copy>> &q = fibers[current].under_way;
    for (; q.size() > left + 1; q.pop_front())
        for (const copy &c : q.front())
            if (c.src)
                memcpy(c.dst, c.src, c.bytes);
            else
                memset(c.dst, 0, c.bytes);
}

void shim_defer(const std::function<void()> &work)
{
    std::deque<std::vector<std::function<void()>>> &q = fibers[current].deferred;
    if (q.empty())
        q.emplace_back();
    q.back().push_back(work);
}

void shim_defer_group(void)
{
    std::deque<std::vector<std::function<void()>>> &q = fibers[current].deferred;
    if (q.empty())
        q.emplace_back();
    q.emplace_back();
}

void shim_defer_wait(unsigned left)
{
    std::deque<std::vector<std::function<void()>>> &q = fibers[current].deferred;
    for (; q.size() > left + 1; q.pop_front())
        for (const std::function<void()> &work : q.front())
            work();
}

void shim_yield(void)
{
    if (++yields > 100000000UL)
        die("threads wait for each other");
    give_way();
}

void shim_part_barrier(unsigned id, unsigned threads)
{
    unsigned mine = part_phase[id];
    if (++part_arrived[id] == threads) {
        part_arrived[id] = 0;
        part_phase[id]++;
        return;
    }
    while (part_phase[id] == mine)
        shim_yield();
}

/* ------------------------------------------------------------------ runtime */

static cudaError_t last_error;

/* What went wrong is also said by the next cudaGetLastError(), as by the runtime. */
static cudaError_t wrong(cudaError_t rc)
{
    return last_error = rc;
}

/* KVS_SHIM_GPUS GPUs (one unless told otherwise), of which CUDA_VISIBLE_DEVICES shows some, in its order.
 */
static int visible_gpu(int ordinal)
{
    const char *gpus = getenv("KVS_SHIM_GPUS"), *visible = getenv("CUDA_VISIBLE_DEVICES");
    int n = gpus ? atoi(gpus) : 1;
    if (!visible)
        return ordinal < n ? ordinal : -1;
    for (; ordinal > 0 && visible; ordinal--)
        visible = (visible = strchr(visible, ',')) ? visible + 1 : NULL;
    int gpu = visible && *visible ? atoi(visible) : -1;
    return gpu < n ? gpu : -1;
}

/* KVS_SHIM_FAULT=driver, old, none or code: what a host without a driver, with one that is too old, without a
 * GPU, or with a GPU that the module holds no code for answers. graph, start: no memory for making or
 * starting graphs. KVS_SHIM_FAULT=NAME: a kernel whose name
 * begins so accesses memory that is not there, at its first launch; nothing works from then on, and it is
 * told to whoever waits. */
static bool fault_is(const char *what)
{
    const char *fault = getenv("KVS_SHIM_FAULT");
    return fault && !strcmp(fault, what);
}
static bool faulted;

static cudaError_t health(void)
{
    return faulted ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 0;
    if (fault_is("driver") || fault_is("old"))
        return cudaErrorInsufficientDriver;
    if (fault_is("none"))
        return cudaErrorNoDevice;
    for (*n = 0; visible_gpu(*n) >= 0;)
        ++*n;
    return *n ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device)
{
    return visible_gpu(device) >= 0 ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    memset(p, 0, sizeof *p);
    p->uuid.bytes[15] = (char)visible_gpu(device);
    snprintf(p->name, sizeof p->name, "CUDA shim (no GPU)");
    p->multiProcessorCount = 4;
    p->sharedMemPerBlockOptin = 227 << 10;
    return cudaSuccess;
}
/* KVS_SHIM_KIB: a GPU with so much free memory. The size does not depend on what the machine has left at the
 * moment, so that tests say the same on a busy one. */
static size_t gpu_bytes(void)
{
    const char *kib = getenv("KVS_SHIM_KIB");
    return kib ? (size_t)atol(kib) << 10 : (size_t)16 << 30;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = *free_bytes = gpu_bytes();
    return cudaSuccess;
}
/* Device memory lies behind a protection key where the CPU has them, else behind page protection: host
 * code that touches it dies, as it would with a GPU. */
namespace
{
std::map<char *, size_t> device_blocks, pinned_blocks;
size_t device_bytes, device_most; // of them, now and at most
std::function<void()> pending;    // a copy of pinned memory
int key = -2;                     // -2: not asked yet, -1: none
int depth;

void protect(bool open)
{
    if (key >= 0) {
        pkey_set(key, open ? 0 : PKEY_DISABLE_ACCESS);
        return;
    }
    for (auto &b : device_blocks)
        mprotect(b.first, b.second, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}
} // namespace

/* A copy between the device and pinned memory is done when the next call comes to the stream, not at once: so
 * that a host shows that does not wait. */
static void settle(void)
{
    if (pending) {
        std::function<void()> copy;
        copy.swap(pending);
        copy();
    }
}

void shim_device_begin(void)
{
    settle();
    if (depth++ == 0)
        protect(true);
}

void shim_device_end(void)
{
    if (--depth == 0)
        protect(false);
}

/* The same for the libraries beside this one (nccl_shim.cc). */
extern "C" __attribute__((visibility("default"))) void kvs_shim_device(int open)
{
    if (open)
        shim_device_begin();
    else
        shim_device_end();
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    if (faulted)
        return health();
    size_t room = (bytes + 4095) / 4096 * 4096;
    if (key == -2)
        key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    room = room ? room : 4096;
    if (room < bytes || room > gpu_bytes() || device_bytes > gpu_bytes() - room)
        return wrong(cudaErrorMemoryAllocation);
    *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*p == MAP_FAILED)
        return wrong(cudaErrorMemoryAllocation);
    if (key >= 0)
        pkey_mprotect(*p, room, PROT_READ | PROT_WRITE, key);
    else if (depth == 0)
        mprotect(*p, room, PROT_NONE);
    device_blocks[(char *)*p] = room;
    device_bytes += room;
    device_most = device_bytes > device_most ? device_bytes : device_most;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    size_t room = (bytes + 255) / 256 * 256;
    if (room < bytes || !(*p = aligned_alloc(256, room ? room : 256)))
        return wrong(cudaErrorMemoryAllocation);
    pinned_blocks[(char *)*p] = room;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    settle();
    auto b = device_blocks.find((char *)p);
    if (b != device_blocks.end()) {
        munmap(p, b->second);
        device_bytes -= b->second;
        device_blocks.erase(b);
    }
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p)
{
    settle();
    pinned_blocks.erase((char *)p);
    free(p);
    return cudaSuccess;
}
namespace
{
shim_counts counts;

bool within(const std::map<char *, size_t> &blocks, const void *p, const char **from, const char **to)
{
    auto b = blocks.upper_bound((char *)(uintptr_t)p);
    if (b == blocks.begin())
        return false;
    --b;
    *from = b->first;
    *to = b->first + b->second;
    return (const char *)p < *to;
}

bool on_device(const void *p)
{
    const char *from, *to;
    return within(device_blocks, p, &from, &to);
}

bool is_pinned(const void *p)
{
    const char *from, *to;
    return within(pinned_blocks, p, &from, &to);
}

void copy_rows(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t rows)
{
    bool device = on_device(dst) || on_device(src);
    if (device)
        shim_device_begin();
    for (size_t i = 0; i < rows; i++)
        memmove((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
    if (device)
        shim_device_end();
}

void count_copy(const void *dst, const void *src)
{
    (on_device(src) ? on_device(dst) ? counts.inside : counts.to_host : counts.to_device)++;
}
} // namespace

bool shim_reachable(const void *p, const char **from, const char **to)
{
    return within(device_blocks, p, from, to) || within(pinned_blocks, p, from, to);
}

extern "C" void shim_count(struct shim_counts *out)
{
    *out = counts;
}

extern "C" void shim_memory(struct shim_held *out)
{
    *out = shim_held{device_bytes, device_most, (int)last_error};
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t rows, cudaMemcpyKind, cudaStream_t)
{
    if (!dst || !src)
        return wrong(cudaErrorInvalidValue);
    if (on_device(dst) || on_device(src)) // between host and host nothing is waited for
        settle();
    count_copy(dst, src);
    if (faulted)
        return health();
    if (on_device(dst) != on_device(src) && (is_pinned(dst) || is_pinned(src)))
        pending = [=] { copy_rows(dst, dst_pitch, src, src_pitch, width, rows); };
    else
        copy_rows(dst, dst_pitch, src, src_pitch, width, rows);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    return cudaMemcpy2DAsync(dst, bytes, src, bytes, bytes, 1, kind, s);
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t)
{
    counts.memsets++;
    shim_device_begin();
    memset(p, value, bytes);
    shim_device_end();
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = NULL;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    settle();
    counts.waits++;
    return health();
}
cudaError_t cudaStreamQuery(cudaStream_t)
{
    settle();
    return health();
}
cudaError_t cudaStreamDestroy(cudaStream_t)
{
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void)
{
    if (depth == 0 && fault_is("code"))
        return cudaErrorNoKernelImageForDevice;
    cudaError_t rc = faulted ? health() : last_error;
    last_error = cudaSuccess;
    return rc;
}
const char *cudaGetErrorString(cudaError_t rc)
{
    return rc == cudaErrorInvalidDevice    ? "invalid device ordinal"
           : rc == cudaErrorNoDevice       ? "no CUDA-capable device is detected"
           : rc == cudaErrorIllegalAddress ? "an illegal memory access was encountered"
           : rc == cudaSuccess             ? "no error"
                                           : "error";
}
const char *cudaGetErrorName(cudaError_t rc)
{
    return rc == cudaErrorInvalidDevice            ? "cudaErrorInvalidDevice"
           : rc == cudaErrorNoDevice               ? "cudaErrorNoDevice"
           : rc == cudaErrorInsufficientDriver     ? "cudaErrorInsufficientDriver"
           : rc == cudaErrorNoKernelImageForDevice ? "cudaErrorNoKernelImageForDevice"
           : rc == cudaErrorIllegalAddress         ? "cudaErrorIllegalAddress"
           : rc == cudaSuccess                     ? "cudaSuccess"
                                                   : "cudaError";
}
cudaError_t cudaDriverGetVersion(int *v)
{
    *v = fault_is("driver") ? 0 : 11040;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = 12060;
    return cudaSuccess;
}

/* ------------------------------------------------------------------ launching by address, graphs */

struct shim_node {
    const void *kernel;
    dim3 grid, block;
    size_t shared;
    std::vector<std::vector<char>> args;
};
struct shim_graph {
    std::vector<shim_node *> nodes;
    size_t edges = 0;
};
struct shim_exec {
    std::map<shim_node *, shim_node> nodes; // as they were when the graph was made ready, or set since
    std::vector<shim_node *> order;
};

void (*shim_launcher)(const void *kernel, dim3 grid, dim3 block, void **args,
                      const std::vector<size_t> &arg_bytes, size_t shared);

int shim_code(void)
{
    const char *code = getenv("KVS_SHIM_CODE");
    return code ? atoi(code) : 90;
}

static std::map<const void *, size_t> &allowed(void)
{
    static std::map<const void *, size_t> all;
    return all;
}
void shim_allow(const void *kernel, size_t shared)
{
    allowed()[kernel] = shared;
}
size_t shim_allowed(const void *kernel)
{
    auto found = allowed().find(kernel);
    return found == allowed().end() ? 0 : found->second;
}

namespace
{
std::map<const void *, shim_kernel> kernels;

const shim_kernel &known(const void *kernel)
{
    auto k = kernels.find(kernel);
    if (k == kernels.end())
        die("a kernel that was never named");
    return k->second;
}

void node_fill(shim_node *n, const cudaKernelNodeParams *p)
{
    n->kernel = p->func;
    n->grid = p->gridDim;
    n->block = p->blockDim;
    n->shared = p->sharedMemBytes;
    n->args.clear();
    size_t i = 0;
    for (size_t bytes : known(p->func).bytes) {
        const char *at = (const char *)p->kernelParams[i++];
        n->args.emplace_back(at, at + bytes);
    }
}

void run(const void *kernel, dim3 grid, dim3 block, void **args, size_t shared)
{
    const shim_kernel &k = known(kernel);
    const char *fault = getenv("KVS_SHIM_FAULT");
    faulted = faulted || (fault && *fault && !strncmp(k.name.c_str(), fault, strlen(fault)));
    if (faulted)
        return;
    if (shim_launcher) {
        shim_launcher(kernel, grid, block, args, k.bytes, shared);
        return;
    }
    shim_launch(grid, block, shared, [&] { k.call(args); });
}
} // namespace

bool shim_knows(const void *kernel)
{
    return kernels.count(kernel) != 0;
}

void shim_learn(const void *kernel, const shim_kernel &k)
{
    kernels[kernel] = k;
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **args, size_t shared,
                             cudaStream_t)
{
    counts.launches++;
    run(kernel, grid, block, args, shared);
    return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t *g, unsigned)
{
    *g = new shim_graph;
    return cudaSuccess;
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *node, cudaGraph_t g, const cudaGraphNode_t *after,
                                   size_t n_after, const cudaKernelNodeParams *p)
{
    (void)after;
    if (n_after)
        die("a node with edges of its own: they are to be added afterwards");
    g->nodes.push_back(new shim_node);
    node_fill(g->nodes.back(), p);
    *node = g->nodes.back();
    return cudaSuccess;
}

cudaError_t cudaGraphAddDependencies(cudaGraph_t g, const cudaGraphNode_t *from, const cudaGraphNode_t *to,
                                     const cudaGraphEdgeData *edge, size_t n)
{
    // A GPU may run at the same time what no edge separates: only chains are run in order here.
    size_t at = ++g->edges;
    bool early = edge && edge->from_port;
    if (n != 1 || at >= g->nodes.size() || *from != g->nodes[at - 1] || *to != g->nodes[at])
        die("a graph that is no chain");
    if (early && (edge->from_port != cudaGraphKernelNodePortProgrammatic ||
                  edge->type != cudaGraphDependencyTypeProgrammatic))
        die("an edge that no GPU knows");
    if (early && shim_code() < 90)
        die("an early launch of code that does not wait for the kernel ahead");
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long)
{
    if (g->edges + 1 != g->nodes.size())
        die("a graph that is no chain");
    if (fault_is("graph"))
        return cudaErrorMemoryAllocation;
    *exec = new shim_exec;
    for (shim_node *n : g->nodes) {
        (*exec)->nodes[n] = *n;
        (*exec)->order.push_back(n);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams *p)
{
    counts.nodes_set++;
    node_fill(&exec->nodes.at(node), p);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t)
{
    if (fault_is("start"))
        return cudaErrorMemoryAllocation;
    counts.graphs++;
    for (shim_node *which : exec->order) {
        shim_node &n = exec->nodes.at(which);
        std::vector<void *> args;
        for (auto &a : n.args)
            args.push_back(a.data());
        counts.nodes++;
        run(n.kernel, n.grid, n.block, args.data(), n.shared);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    for (shim_node *n : g->nodes)
        delete n;
    delete g;
    return cudaSuccess;
}

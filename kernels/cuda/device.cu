// The CUDA backend: opening a GPU, counted memory, copies in order with kernels, latched errors.
#include "kernels/comm_nccl.h"

#include <new>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

namespace
{
const size_t ARG_BYTES = (size_t)16 << 20, ARG_MOST = (size_t)1 << 20;
const size_t RESERVE = (size_t)512 << 20; // of the GPU, for the libraries' own memory
} // namespace

// The module carries its own: it links nothing of the program.
extern "C" size_t dtype_bytes(enum dtype t)
{
    return t == DT_U8 ? 1 : t == DT_F16 || t == DT_BF16 ? 2 : 4;
}

void cuda_fail(struct cuda *c, int code, const char *fmt, ...)
{
    if (c->host.error)
        return;
    va_list ap;
    va_start(ap, fmt);
    c->host.error = code;
    vsnprintf(c->host.error_text, sizeof c->host.error_text, fmt, ap);
    va_end(ap);
}

// Whoever asks next hears of a kernel that failed before: without waiting after each, the last one launched
// is all that can be told.
bool cuda_ok(struct cuda *c, cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess)
        return true;
    (void)cudaGetLastError(); // it is said once: the runtime would say it again at the next launch
    bool full = rc == cudaErrorMemoryAllocation;
    char kernel[80] = "";
    if (!full && c->kernel)
        snprintf(kernel, sizeof kernel, "%s%skernel %s", *what ? ", " : "", c->wait ? "" : "up to ",
                 c->kernel);
    cuda_fail(c, full ? ERR_NOMEM : ERR_DEVICE, "%s%s: %s (%s)", what, kernel, cudaGetErrorString(rc),
              cudaGetErrorName(rc));
    return false;
}

void cuda_launched(struct cuda *c, const char *kernel, cudaError_t rc)
{
    c->kernel = kernel;
    if (rc == cudaSuccess && c->wait)
        rc = cudaStreamSynchronize(c->stream);
    cuda_ok(c, rc, "");
}

/* ------------------------------------------------------------------ memory */

static void *backend_alloc(struct ops *o, size_t bytes, enum mem_kind kind, enum mem_place place)
{
    struct cuda *c = cuda_of(o);
    struct host *h = &c->host;
    if (h->fail_at > 0 && --h->fail_at == 0)
        return NULL;
    size_t used = host_device_used(h);
    if (bytes > SIZE_MAX / 2 || (place == PLACE_DEVICE && (used > h->limit || bytes > h->limit - used)))
        return NULL;
    void *p = pool_take(c->pool[place], bytes);
    if (!p)
        return NULL;
    cuda_flush(c);
    if (place == PLACE_DEVICE) {
        cuda_ok(c, cudaMemsetAsync(p, 0, bytes, c->stream), "clearing memory");
    } else {
        cuda_ok(c, cudaStreamSynchronize(c->stream), "waiting for host memory"); // a copy may still read it
        memset(p, 0, bytes);
    }
    pool_find(c->pool[place], p)->kind = (int32_t)kind;
    h->used[kind][place] += bytes;
    host_note_peak(h);
    return p;
}

static void backend_free(struct ops *o, void *p)
{
    struct cuda *c = cuda_of(o);
    for (int place = 0; p && place < PLACE_N; place++) {
        struct pool_block *b = pool_find(c->pool[place], p);
        if (!b)
            continue;
        c->host.used[b->kind][place] -= b->bytes;
        pool_give(c->pool[place], p);
        return;
    }
}

static size_t backend_used(const struct ops *o, enum mem_kind kind, enum mem_place place)
{
    return cuda_of(o)->host.used[kind][place];
}

static size_t backend_peak(struct ops *o, bool reset)
{
    struct host *h = &cuda_of(o)->host;
    size_t p = h->peak;
    if (reset) {
        h->peak = 0;
        host_note_peak(h);
    }
    return p;
}

static size_t backend_limit(const struct ops *o)
{
    return cuda_of(o)->host.limit;
}

static void drop_scratch(struct cuda *c, int which)
{
    if (!c->scratch[which].data)
        return;
    pool_give(c->pool[PLACE_DEVICE], c->scratch[which].data);
    c->host.scratch -= c->scratch[which].bytes;
    c->scratch[which].data = NULL;
    c->scratch[which].bytes = 0;
}

static void backend_trim(struct ops *o)
{
    for (int i = 0; i < SCRATCH_N; i++)
        drop_scratch(cuda_of(o), i);
}

void *cuda_scratch(struct cuda *c, enum scratch which, size_t bytes)
{
    if (bytes <= c->scratch[which].bytes && c->scratch[which].data)
        return c->scratch[which].data;
    size_t want = bytes + bytes / 4 + 256; // few steps when contexts grow token by token
    drop_scratch(c, which);
    size_t used = host_device_used(&c->host);
    void *p =
        used > c->host.limit || want > c->host.limit - used ? NULL : pool_take(c->pool[PLACE_DEVICE], want);
    if (!p) {
        cuda_fail(c, ERR_NOMEM, "no device memory for %zu bytes of a kernel's own", want);
        return NULL;
    }
    c->scratch[which].data = p;
    c->scratch[which].bytes = want;
    c->host.scratch += want;
    host_note_peak(&c->host);
    return p;
}

const void *cuda_args(struct cuda *c, const void *args, size_t bytes)
{
    if (bytes > ARG_MOST) {
        cuda_fail(c, ERR_INTERNAL, "%zu bytes of arguments for one launch", bytes);
        return NULL;
    }
    size_t room = (bytes + 255) / 256 * 256;
    if (c->arg_at + room > ARG_BYTES) { // once around: what was written first must have been read
        cuda_flush(c);
        if (!cuda_ok(c, cudaStreamSynchronize(c->stream), "waiting for arguments"))
            return NULL;
        c->arg_at = c->arg_sent = 0;
    }
    const void *dev = c->arg_dev + c->arg_at;
    memcpy(c->arg_host + c->arg_at, args, bytes);
    c->arg_at += room;
    return dev;
}

void cuda_send_args(struct cuda *c)
{
    size_t from = c->arg_sent;
    c->arg_sent = c->arg_at;
    if (c->arg_at > from)
        cuda_ok(c,
                cudaMemcpyAsync(c->arg_dev + from, c->arg_host + from, c->arg_at - from,
                                cudaMemcpyHostToDevice, c->stream),
                "copying arguments");
}

// Memory of the pools is touched by the host behind a sync alone; other host memory at once.
static bool in_pools(const struct cuda *c, const void *p)
{
    return pool_owns(c->pool[PLACE_DEVICE], p) || pool_owns(c->pool[PLACE_HOST], p);
}

static void end_copy(struct cuda *c, const void *dst, const void *src, cudaError_t rc)
{
    if (rc == cudaSuccess && !(in_pools(c, dst) && in_pools(c, src)))
        rc = cudaStreamSynchronize(c->stream);
    cuda_ok(c, rc, "copy");
}

// Between two places of the host the driver would not wait for what the stream still does to them. True if
// the host is to copy, now.
static bool on_host(struct cuda *c, const void *dst, const void *src)
{
    if (pool_owns(c->pool[PLACE_DEVICE], dst) || pool_owns(c->pool[PLACE_DEVICE], src))
        return false;
    cuda_ok(c, cudaStreamSynchronize(c->stream), "waiting for host memory");
    return true;
}

static void backend_copy(struct ops *o, void *dst, const void *src, size_t bytes)
{
    struct cuda *c = cuda_of(o);
    cuda_flush(c);
    if (!bytes)
        return;
    if (on_host(c, dst, src))
        memmove(dst, src, bytes);
    else
        end_copy(c, dst, src, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, c->stream));
}

static void backend_copy_rows(struct ops *o, void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, int64_t rows)
{
    struct cuda *c = cuda_of(o);
    cuda_flush(c);
    if (!width || rows < 1)
        return;
    if (!on_host(c, dst, src)) {
        end_copy(c, dst, src,
                 cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, width, (size_t)rows, cudaMemcpyDefault,
                                   c->stream));
        return;
    }
    for (size_t i = 0; i < (size_t)rows; i++)
        memmove((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
}

static int backend_sync(struct ops *o)
{
    struct cuda *c = cuda_of(o);
    cuda_flush(c);
    cudaError_t rc = cudaStreamSynchronize(c->stream);
    c->arg_at = c->arg_sent = 0; // all have been read: the next step's lie where this step's lay
    char text[sizeof c->host.error_text + 16];
    cuda_ok(c, rc, c->kernel ? "" : "waiting for the GPU");
    if (!c->host.error)
        return 0;
    int code = c->host.error;
    c->host.error = 0;
    snprintf(text, sizeof text, "cuda: %s", c->host.error_text);
    return c->error(code, text);
}

/* ------------------------------------------------------------------ opening */

static void backend_close(struct ops *o)
{
    struct cuda *c = cuda_of(o);
    cuda_flush(c);
    if (c->stream)
        (void)cudaStreamSynchronize(c->stream);
    queue_close(c->queue);
    product_close(c->product);
    if (c->arg_host)
        (void)cudaFreeHost(c->arg_host);
    if (c->arg_dev)
        (void)cudaFree(c->arg_dev);
    for (int i = 0; i < PLACE_N; i++)
        pool_close(c->pool[i]);
    if (c->stream)
        (void)cudaStreamDestroy(c->stream);
    delete c;
}

static void fill_backend(struct ops *o)
{
    o->close = backend_close;
    o->alloc = backend_alloc;
    o->free = backend_free;
    o->used = backend_used;
    o->peak = backend_peak;
    o->limit = backend_limit;
    o->trim = backend_trim;
    o->copy = backend_copy;
    o->copy_rows = backend_copy_rows;
    o->sync = backend_sync;
    o->pack_bytes = matmul_pack_bytes;
    o->pack = matmul_pack;
    o->matmul = matmul_run;
    o->project = matmul_project;
    o->matmul_add = matmul_add;
    o->mlp = matmul_mlp;
    o->embed = rows_embed;
    o->rmsnorm = rows_rmsnorm;
    o->add = rows_add;
    o->swiglu = rows_swiglu;
    o->rope = rows_rope;
    o->attend = attend_run;
    o->quant = quant_run;
    o->select = choose_select;
    o->gather = choose_gather;
    o->mean = choose_mean;
    o->dots = choose_dots;
    o->norms = choose_norms;
    o->pick = pick_run;
    o->layernorm = rows_layernorm;
    o->gelu = rows_gelu;
    mix_backend(o);
#ifdef KVS_NCCL
    o->join = comm_nccl_join;
#endif
}

KERNEL probe_kernel(int *out)
{
    grid_begin();
    *out = 1;
}

/* Does the GPU run this module's code? */
static cudaError_t probe(struct cuda *c)
{
    int *p = (int *)c->arg_dev;
#ifdef KVS_SHIM
    shim_launch(1, 1, 0, [&] { probe_kernel(p); });
#else
    probe_kernel<<<1, 1, 0, c->stream>>>(p);
#endif
    cudaError_t rc = cudaGetLastError();
    return rc == cudaSuccess ? cudaStreamSynchronize(c->stream) : rc;
}

/* May kernels begin before the one ahead has ended? Only if the code that this GPU runs has grid_begin's
 * wait: a GPU that the module holds no own code for takes that for 8.0, which has none. */
static bool may_begin_early(void)
{
    struct cudaFuncAttributes code;
    cudaError_t rc = cudaFuncGetAttributes(&code, probe_kernel);
    if (rc != cudaSuccess)
        (void)cudaGetLastError();
    return rc == cudaSuccess && code.ptxVersion >= 90;
}

static cudaError_t open_gpu(struct cuda *c, struct cudaDeviceProp *prop)
{
    size_t free_bytes = 0, total = 0;
    cudaError_t rc = cudaSetDevice(c->ordinal);
    if (rc == cudaSuccess)
        rc = cudaGetDeviceProperties(prop, c->ordinal);
    if (rc == cudaSuccess)
        rc = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaMallocHost((void **)&c->arg_host, ARG_BYTES);
    if (rc == cudaSuccess)
        rc = cudaMalloc((void **)&c->arg_dev, ARG_BYTES);
    if (rc == cudaSuccess)
        rc = probe(c);
    if (rc == cudaSuccess)
        rc = cudaMemGetInfo(&free_bytes, &total);
    c->host.limit = free_bytes > RESERVE ? free_bytes - RESERVE : 0;
    return rc;
}

/* As nvidia-smi writes it. */
static void name_gpu(char text[48], const char id[16])
{
    size_t at = (size_t)snprintf(text, 48, "GPU");
    for (int i = 0; i < 16; i++)
        at += (size_t)snprintf(text + at, 48 - at, "%s%02x",
                               i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                               (unsigned char)id[i]);
}

/* The kernel module's version where the system shows it, and the newest CUDA that the driver knows. */
static void name_driver(char *text, size_t n, int cuda)
{
    char line[256] = "", module[32] = "";
    FILE *f = fopen("/proc/driver/nvidia/version", "r");
    if (f) {
        if (fgets(line, sizeof line, f) == NULL)
            line[0] = 0;
        fclose(f);
    }
    for (char *p = line; *p && !module[0]; p++) /* "NVRM version: NVIDIA UNIX … Kernel Module  570.86.15  Fri …" */
        if (*p == ' ' && p[1] >= '0' && p[1] <= '9' && sscanf(p, " %31[0-9.]", module) == 1 && !strchr(module, '.'))
            module[0] = 0;
    snprintf(text, n, "%s%s%sCUDA %d.%d", module[0] ? "NVIDIA " : "", module, module[0] ? ", " : "", cuda / 1000,
             cuda % 1000 / 10);
}

static void describe(struct cuda *c, const struct cudaDeviceProp *prop)
{
    struct ops *o = &c->ops;
    int driver = 0, runtime = 0;
    char product[64];
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    product_version(product, sizeof product);
    c->n_sm = prop->multiProcessorCount;
    o->name = "cuda";
    snprintf(o->device, sizeof o->device, "%.95s", prop->name);
    snprintf(o->isa, sizeof o->isa, "sm_%d%d", prop->major, prop->minor);
    name_gpu(o->gpu, prop->uuid.bytes);
    name_driver(o->driver, sizeof o->driver, driver);
    snprintf(o->libraries, sizeof o->libraries, "CUDA %d.%d, driver %d.%d, %s", runtime / 1000,
             runtime % 1000 / 10, driver / 1000, driver % 1000 / 10, product);
}

/* Prompts by hopper.cu, if the GPU can. */
static bool take_wgmma(struct cuda *c, const struct cudaDeviceProp *prop)
{
#ifdef KVS_SHIM
    (void)prop;
#else
    if (prop->major != 9 || prop->minor != 0)
        return false;
#endif
    size_t at = strlen(c->ops.isa);
    snprintf(c->ops.isa + at, sizeof c->ops.isa - at, ", wgmma");
    return c->wgmma = true;
}

/* One line for people: what is wrong with the driver or the GPU. ERR_INPUT: there is none. */
static int refuse(struct cuda *c, int (*error)(int, const char *), cudaError_t rc)
{
    char text[256], name[32], why[128];
    int driver = 0, runtime = 0;
    snprintf(name, sizeof name, "%s", cudaGetErrorName(rc));
    snprintf(why, sizeof why, "device %d: %s", c->ordinal, cudaGetErrorString(rc));
    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    bool old = rc == cudaErrorInsufficientDriver && driver;
    if (old)
        snprintf(why, sizeof why, "the NVIDIA driver knows CUDA up to %d.%d, this module needs %d.%d",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (rc == cudaErrorInsufficientDriver)
        snprintf(why, sizeof why, "no NVIDIA driver on this host");
    else if (rc == cudaErrorNoKernelImageForDevice || rc == cudaErrorUnsupportedPtxVersion)
        snprintf(why, sizeof why, "device %d: this module holds no code for this GPU's architecture",
                 c->ordinal);
    snprintf(text, sizeof text, "cuda: %s (%s)", why, name);
    backend_close(&c->ops);
    return error(rc == cudaErrorNoDevice || (rc == cudaErrorInsufficientDriver && !old) ? ERR_INPUT
                                                                                        : ERR_DEVICE,
                 text);
}

extern "C" __attribute__((visibility("default"))) int kvs_cuda_open(struct ops **out,
                                                                    const struct ops_options *opt,
                                                                    size_t ops_bytes,
                                                                    int (*error)(int code, const char *text))
{
    *out = NULL;
    if (ops_bytes != sizeof(struct ops))
        return error(ERR_DEVICE, "cuda: libkvs_cuda.so is of another version than this program");
    struct cuda *c = new cuda();
    c->error = error;
    c->ordinal = opt->device;
    c->wait = opt->wait;
    c->ops.impl = c;
    c->ops.act = opt->act;
    c->ops.threads = 1;
    c->ops.plain_weights = true;
    c->ops.chunk =
        2048; // four rounds of blocks for attention with 8 key heads; 0.3 GB of workspace (8B models)
    for (int i = 0; i < PLACE_N; i++)
        c->pool[i] = pool_open((enum mem_place)i, c);
    c->queue = queue_open();
    struct cudaDeviceProp prop;
    int n = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc == cudaSuccess && n < 1)
        rc = cudaErrorNoDevice;
    if (rc == cudaSuccess)
        c->ordinal %=
            n; // ranks of a node count through its GPUs; where each sees its own, all take the first
    if (rc == cudaSuccess)
        rc = open_gpu(c, &prop);
    if (rc != cudaSuccess)
        return refuse(c, error, rc);
    c->product = product_open(c);
    if (!c->product) {
        int code = backend_sync(&c->ops);
        backend_close(&c->ops);
        return code;
    }
    describe(c, &prop);
    c->early = may_begin_early() && !(opt->isa && strstr(opt->isa, "serial"));
    if (opt->isa && strstr(opt->isa, "wgmma") && !take_wgmma(c, &prop)) {
        backend_close(&c->ops);
        return error(ERR_DEVICE, "cuda: wgmma needs a GPU of compute capability 9.0");
    }
    fill_backend(&c->ops);
    *out = &c->ops;
    return 0;
}

/* Opening backends by name, dtype names, and what the CPU backends share (host.h). */
#include "kernels/ops.h"

#include <assert.h>
#include <dlfcn.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "kernels/host.h"

static const char *const dtype_names[DT_N] = {"f32", "f16", "bf16", "i32", "u8"};

size_t dtype_bytes(enum dtype t)
{
    static const size_t bytes[DT_N] = {4, 2, 2, 4, 1};
    return bytes[t];
}

const char *dtype_name(enum dtype t)
{
    return dtype_names[t];
}

int dtype_parse(const char *name, enum dtype *t)
{
    for (int i = 0; i <= DT_BF16; i++) {
        if (strcmp(name, dtype_names[i]) == 0) {
            *t = (enum dtype)i;
            return 0;
        }
    }
    return err_set(ERR_INPUT, "unknown dtype '%s' (allowed: f32, f16, bf16)", name);
}

const char *mem_kind_name(enum mem_kind k)
{
    static const char *const names[MEM_KIND_N] = {"weights", "codes", "scales",   "window",
                                                  "index",   "state", "workspace"};
    return names[k];
}

const char *mem_place_name(enum mem_place p)
{
    return p == PLACE_DEVICE ? "device" : "host";
}

/* ------------------------------------------------------------------ memory */

#define BLOCK_HEAD 64
#define BIG_BLOCK  ((size_t)4 << 20)
#define HUGE_PAGE  ((size_t)2 << 20)

/* Sits in the 64 bytes before every block. */
struct block {
    size_t bytes;
    int32_t kind, place;
};

void *host_map(size_t bytes)
{
    if (bytes < BIG_BLOCK) {
        void *p = aligned_alloc(BLOCK_HEAD, (bytes + BLOCK_HEAD - 1) & ~(size_t)(BLOCK_HEAD - 1));
        return p ? memset(p, 0, bytes) : NULL;
    }
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    /* Weights and caches are read in full every step: small pages would cost a table walk per 4 KiB. Only
     * whole huge pages are asked for, so resident bytes stay near the counted ones. */
    uintptr_t at = ((uintptr_t)p + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    uintptr_t end = ((uintptr_t)p + bytes) & ~(uintptr_t)(HUGE_PAGE - 1);
    if (end > at)
        (void)madvise((void *)at, end - at, MADV_HUGEPAGE);
    return p;
}

void host_unmap(void *p, size_t bytes)
{
    if (bytes < BIG_BLOCK)
        free(p);
    else
        munmap(p, bytes);
}

static void *host_alloc(struct ops *o, size_t bytes, enum mem_kind kind, enum mem_place place)
{
    struct host *h = o->impl;
    if (h->fail_at > 0 && --h->fail_at == 0)
        return NULL;
    size_t used = host_device_used(h);
    if (bytes > SIZE_MAX / 2 || used > h->limit || bytes > h->limit - used)
        return NULL;
    char *p = host_map(bytes + BLOCK_HEAD);
    if (!p)
        return NULL;
    *(struct block *)(void *)p = (struct block){bytes, (int32_t)kind, (int32_t)place};
    h->used[kind][place] += bytes;
    host_note_peak(h);
    return p + BLOCK_HEAD;
}

static void host_free(struct ops *o, void *p)
{
    if (!p)
        return;
    struct host *h = o->impl;
    struct block *b = (struct block *)(void *)((char *)p - BLOCK_HEAD);
    assert(h->used[b->kind][b->place] >= b->bytes);
    h->used[b->kind][b->place] -= b->bytes;
    host_unmap(b, b->bytes + BLOCK_HEAD);
}

bool host_grow(struct host *h, struct host_buf *b, size_t bytes)
{
    if (bytes <= b->bytes)
        return true;
    size_t want = bytes + bytes / 4; /* few steps when contexts grow token by token */
    host_drop(h, b);
    size_t used = host_device_used(h);
    if (used > h->limit || want > h->limit - used || !(b->data = host_map(want))) {
        host_fail(h, ERR_NOMEM, "no memory for a kernel's scratch buffer");
        return false;
    }
    b->bytes = want;
    h->scratch += want;
    host_note_peak(h);
    return true;
}

void host_drop(struct host *h, struct host_buf *b)
{
    if (b->data) {
        h->scratch -= b->bytes;
        host_unmap(b->data, b->bytes);
    }
    *b = (struct host_buf){0};
}

static size_t host_used(const struct ops *o, enum mem_kind kind, enum mem_place place)
{
    return ((const struct host *)o->impl)->used[kind][place];
}

static size_t host_peak(struct ops *o, bool reset)
{
    struct host *h = o->impl;
    size_t p = h->peak;
    if (reset) {
        h->peak = 0;
        host_note_peak(h);
    }
    return p;
}

static size_t host_limit(const struct ops *o)
{
    return ((const struct host *)o->impl)->limit;
}

static void host_copy(struct ops *o, void *dst, const void *src, size_t bytes)
{
    (void)o;
    if (bytes)
        memmove(dst, src, bytes);
}

static void host_copy_rows(struct ops *o, void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                           size_t width, int64_t rows)
{
    (void)o;
    for (int64_t i = 0; i < rows; i++)
        memcpy((char *)dst + (size_t)i * dst_pitch, (const char *)src + (size_t)i * src_pitch, width);
}

void host_fail(struct host *h, int code, const char *text)
{
    if (h->error)
        return;
    h->error = code;
    snprintf(h->error_text, sizeof h->error_text, "%s", text);
}

static int host_sync(struct ops *o)
{
    struct host *h = o->impl;
    if (!h->error)
        return 0;
    int code = h->error;
    h->error = 0;
    return err_set(code, "%s: %s", o->name, h->error_text);
}

/* MemAvailable of /proc/meminfo in bytes; 0 if it is not said. */
static size_t memory_available(void)
{
    char line[128];
    size_t kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && kib == 0 && fgets(line, sizeof line, f))
        (void)sscanf(line, "MemAvailable: %zu", &kib);
    if (f)
        fclose(f);
    return kib * 1024;
}

void host_init(struct host *h)
{
    struct cgroup_limits groups;
    memset(h, 0, sizeof *h);
    h->limit = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    size_t available = memory_available();
    h->limit = available && available < h->limit ? available : h->limit;
    cgroup_limits(&groups, "");
    h->limit = groups.memory < h->limit ? (size_t)groups.memory : h->limit;
}

static void device_name(char *name, size_t size)
{
    char line[512];
    snprintf(name, size, "unknown CPU");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(name, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

void host_backend(struct ops *o)
{
    o->act = DT_F32;
    o->alloc = host_alloc;
    o->free = host_free;
    o->used = host_used;
    o->peak = host_peak;
    o->limit = host_limit;
    o->copy = host_copy;
    o->copy_rows = host_copy_rows;
    o->sync = host_sync;
    device_name(o->device, sizeof o->device);
}

void ops_fail_alloc(struct ops *o, int64_t nth)
{
    ((struct host *)o->impl)->fail_at = nth;
}

/* ------------------------------------------------------------------ quantised runs */

float host_kv(const struct kv_run *run, int64_t r, int32_t h, int32_t c, int32_t n_head, int32_t d)
{
    const uint8_t *codes = run->data;
    if (run->layout == QUANT_NONE) {
        int64_t row = run->index ? run->index[r] : r;
        return host_get(run->data, run->dtype, (row * n_head + h) * d + c);
    }
    int64_t s;
    uint32_t code;
    if (run->layout == QUANT_TOKEN) {
        s = (r * n_head + h) * (d / run->group) + c / run->group;
        code = host_code(codes + (r * n_head + h) * d * run->bits / 8, c, run->bits);
    } else {
        s = ((r / run->group) * n_head + h) * d + c;
        code = host_code(codes + s * run->group * run->bits / 8, r % run->group, run->bits);
    }
    return host_dequant(run, f16_to_f32(run->scale[s]), f16_to_f32(run->min[s]), code);
}

void host_quant_scale(const struct quant_args *a, const float *x, uint16_t *scale, uint16_t *min)
{
    float mn = x[0], mx = x[0], top = (float)((1 << a->bits) - 1);
    for (int32_t i = 1; i < a->group; i++) {
        mn = x[i] < mn ? x[i] : mn;
        mx = x[i] > mx ? x[i] : mx;
    }
    float range = f16_round(mx - mn);
    *scale = f16_from_f32(a->inverse ? f16_round(1.0f / range) * top : range / top);
    *min = f16_from_f32(mn);
}

uint8_t host_quant_code(const struct quant_args *a, float x, float scale, float min)
{
    float top = (float)((1 << a->bits) - 1), above = f16_round(x - min);
    float q = f16_round(a->inverse ? above * scale : above / scale);
    q = q > 0.0f ? q : 0.0f; /* NaN too: 0 / 0, 0 * inf, and inf / inf where mx - mn overflows */
    q = q < top ? q : top;
    uint32_t n = (uint32_t)q; /* half to even by hand: no dependence on the rounding mode */
    float rest = q - (float)n;
    n += rest > 0.5f || (rest == 0.5f && (n & 1U)) ? 1U : 0U;
    return (uint8_t)n;
}

void host_pack_codes(uint8_t *out, const uint8_t *code, int32_t n, int32_t bits)
{
    uint32_t word = 0;
    int32_t held = 0;
    for (int32_t i = 0; i < n; i++) {
        word |= (uint32_t)code[i] << held;
        for (held += bits; held >= 8; held -= 8, word >>= 8)
            *out++ = (uint8_t)word;
    }
}

/* ------------------------------------------------------------------ best logits */

static float rank_of(float x)
{
    return x != x ? -INFINITY : x;
}

void host_pick_insert(int32_t *id, float *logit, int32_t K, int32_t n, float x)
{
    int32_t at = n < K ? n : K;
    if (at == K && rank_of(x) <= rank_of(logit[K - 1]))
        return;
    at = at == K ? K - 1 : at;
    for (; at > 0 && rank_of(x) > rank_of(logit[at - 1]); at--) {
        id[at] = id[at - 1];
        logit[at] = logit[at - 1];
    }
    id[at] = n;
    logit[at] = x;
}

/* ------------------------------------------------------------------ backends by name */

#define CUDA_MODULE "libkvs_cuda.so"

/* Where the module is looked for: the loader's own places, beside the program, and where it is installed. */
static void *open_module(void)
{
    char path[1024];
    void *lib = dlopen(CUDA_MODULE, RTLD_NOW | RTLD_LOCAL);
    ssize_t n =
        lib ? 0 : readlink("/proc/self/exe", path, sizeof path - sizeof "/../lib/kvsweep/" CUDA_MODULE);
    if (lib || n <= 0)
        return lib;
    path[n] = 0;
    char *end = strrchr(path, '/');
    static const char *const tail[] = {"/" CUDA_MODULE, "/kernels/cuda/" CUDA_MODULE,
                                       "/../lib/kvsweep/" CUDA_MODULE};
    for (size_t i = 0; i < sizeof tail / sizeof *tail; i++) {
        strcpy(end, tail[i]);
        if (access(path, F_OK) == 0) /* there: what dlerror() says then is about this file */
            return dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return NULL;
}

static int module_error(int code, const char *text)
{
    return err_set(code, "%s", text);
}

/* The CUDA backend lives in a module, so that hosts without CUDA libraries can run the same program.
 * ERR_INPUT: there is no module or no GPU; ERR_DEVICE: there is, and it cannot be used. */
static int ops_open_cuda(struct ops **o, const struct ops_options *opt)
{
    void *lib = open_module();
    if (!lib)
        return err_set(ERR_INPUT, "cuda: %s", dlerror());
    int (*start)(struct ops **, const struct ops_options *, size_t, int (*)(int, const char *));
    void *symbol = dlsym(lib, "kvs_cuda_open");
    if (!symbol) {
        dlclose(lib);
        return err_set(ERR_DEVICE, "cuda: " CUDA_MODULE " is not this program's module (no kvs_cuda_open)");
    }
    memcpy(&start, &symbol, sizeof start);
    return start(o, opt, sizeof **o, module_error); /* the module stays loaded until the process ends */
}

static int ops_open_auto(struct ops **o, const struct ops_options *opt)
{
    int rc = ops_open_cuda(o, opt);
    if (rc == 0)
        return 0;
    (rc == ERR_INPUT ? log_debug : log_warn)("%s: the CPU computes", err_text());
    return ops_open_cpu(o, opt);
}

void ops_set_act(struct ops *o, enum dtype act)
{
    if (!o->on_host)
        o->act = act;
}

const char *const *ops_names(void)
{
    static const char *const names[] = {"ref", "cpu", "cuda", "auto", NULL};
    return names;
}

/* ------------------------------------------------------------------ several in one */

void ops_project(struct ops *o, const struct project_args *a)
{
    size_t elt = dtype_bytes(o->act), at = 0, row = (size_t)a->wide.n[1] * elt;
    o->rmsnorm(o, a->h, a->x, a->norm, a->eps, a->w_add);
    o->matmul(o, a->wide, a->h, a->w, a->bias);
    for (int i = 0; i < a->n_out; i++) {
        size_t width = (size_t)(a->out[i].n[1] * a->out[i].n[2]) * elt;
        o->copy_rows(o, a->out[i].data, width, (const char *)a->wide.data + at, row, width, a->x.n[0]);
        at += width;
    }
}

void ops_matmul_add(struct ops *o, struct tensor x, struct tensor y, const struct weight *w,
                    const float *bias, struct tensor h)
{
    o->matmul(o, h, y, w, bias);
    o->add(o, x, h);
}

void ops_mlp(struct ops *o, const struct mlp_args *a)
{
    o->rmsnorm(o, a->h, a->x, a->norm, a->eps, a->w_add);
    o->matmul(o, a->wide, a->h, a->gate_up, NULL);
    o->swiglu(o, a->mid, a->wide);
    o->matmul_add(o, a->x, a->mid, a->down, NULL, a->h);
}

static void fill_in(struct ops *o)
{
    o->project = o->project ? o->project : ops_project;
    o->matmul_add = o->matmul_add ? o->matmul_add : ops_matmul_add;
    o->mlp = o->mlp ? o->mlp : ops_mlp;
    o->chunk = o->chunk ? o->chunk : 512;
}

/* ------------------------------------------------------------------ opening */

static int open_named(struct ops **o, const char *name, const struct ops_options *opt)
{
    if (opt->threads < 0 || opt->threads > 4096)
        return err_set(ERR_INPUT, "threads: %d (allowed: 0 to 4096; 0 means all CPU cores)", opt->threads);
    if (strcmp(name, "ref") == 0)
        return ops_open_ref(o, opt);
    if (strcmp(name, "cpu") == 0)
        return ops_open_cpu(o, opt);
    if (strcmp(name, "cuda") == 0)
        return ops_open_cuda(o, opt);
    if (strcmp(name, "auto") == 0)
        return ops_open_auto(o, opt);
    const char *near = str_nearest(name, ops_names());
    return err_set(ERR_INPUT, "unknown backend '%s'%s%s%s (allowed: ref, cpu, cuda, auto)", name,
                   near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

int ops_open(struct ops **o, const char *name, const struct ops_options *opt)
{
    static const struct ops_options plain = {0};
    *o = NULL;
    TRY(open_named(o, name, opt ? opt : &plain));
    fill_in(*o);
    return 0;
}

/* CPUs that the process may run on. A machine may have more of them than a cpu_set_t holds. */
static int allowed_processors(void)
{
    for (int room = CPU_SETSIZE; room <= 1 << 20; room *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)room);
        size_t bytes = CPU_ALLOC_SIZE((size_t)room);
        int n = set && sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (n > 0)
            return n;
    }
    return 1;
}

int ops_threads(int asked)
{
    struct cgroup_limits groups;
    if (asked > 0)
        return asked;
    cgroup_limits(&groups, "");
    return cgroup_threads(groups.cpus, allowed_processors());
}

void ops_close(struct ops *o)
{
    if (o)
        o->close(o);
}

#include "kernels/cpu/onednn.h"

#ifndef KVS_ONEDNN
struct dn *dn_open(const char *isa, int threads, char *version, size_t size)
{
    (void)isa, (void)threads, (void)version, (void)size;
    return NULL;
}
void dn_close(struct dn *d)
{
    (void)d;
}
const struct dn_plan *dn_get(struct dn *d, enum dtype dtype, int64_t m, int64_t k, int64_t n, int64_t ldx)
{
    (void)d, (void)dtype, (void)m, (void)k, (void)n, (void)ldx;
    return NULL;
}
size_t dn_scratch(const struct dn_plan *p)
{
    (void)p;
    return 0;
}
int dn_run(struct dn *d, const struct dn_plan *p, int thread, float *y, const void *x, const void *w,
           void *scratch)
{
    (void)d, (void)p, (void)thread, (void)y, (void)x, (void)w, (void)scratch;
    return -1;
}
double dn_time(enum dtype dtype, int64_t m, int64_t k, int64_t n, int threads, double seconds)
{
    (void)dtype, (void)m, (void)k, (void)n, (void)threads, (void)seconds;
    return 0;
}
#else

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Memory objects are per thread: their handles change with every call. */
struct dn_plan {
    enum dtype dtype;
    int64_t m, k, n, ldx;
    dnnl_primitive_t prim;
    size_t scratch;
    dnnl_memory_t (*mem)[4]; /* [threads]: x, w, y, scratchpad */
};

struct dn {
    dnnl_engine_t engine;
    dnnl_stream_t *stream; /* [threads] */
    int threads;
    struct dn_plan **plan;
    size_t n, cap;
};

struct dn *dn_open(const char *isa, int threads, char *version, size_t size)
{
    const dnnl_version_t *v = dnnl_version();
    if (v->major != DNNL_VERSION_MAJOR)
        return NULL; /* another library than the one this was compiled for */
    /* Narrowing is only possible before the library is first used; later this backend does without it. */
    if (strcmp(isa, "auto") != 0) {
        dnnl_cpu_isa_t most = strcmp(isa, "avx2") == 0 ? dnnl_cpu_isa_avx2 : dnnl_cpu_isa_avx512_core_bf16;
        if (dnnl_set_max_cpu_isa(most) != dnnl_success && dnnl_get_effective_cpu_isa() > most)
            return NULL;
    }
    struct dn *d = mem_alloc(1, sizeof *d);
    d->threads = threads;
    d->stream = mem_alloc((size_t)threads, sizeof *d->stream);
    bool ok = dnnl_engine_create(&d->engine, dnnl_cpu, 0) == dnnl_success;
    for (int i = 0; i < threads && ok; i++)
        ok = dnnl_stream_create(&d->stream[i], d->engine, dnnl_stream_default_flags) == dnnl_success;
    if (!ok) {
        dn_close(d);
        return NULL;
    }
    snprintf(version, size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return d;
}

static void plan_free(struct dn *d, struct dn_plan *p)
{
    for (int t = 0; p->mem && t < d->threads; t++)
        for (int i = 0; i < 4; i++)
            if (p->mem[t][i])
                dnnl_memory_destroy(p->mem[t][i]);
    if (p->prim)
        dnnl_primitive_destroy(p->prim);
    free(p->mem);
    free(p);
}

void dn_close(struct dn *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n; i++)
        plan_free(d, d->plan[i]);
    for (int i = 0; i < d->threads; i++)
        if (d->stream[i])
            dnnl_stream_destroy(d->stream[i]);
    if (d->engine)
        dnnl_engine_destroy(d->engine);
    free(d->stream);
    free(d->plan);
    free(d);
}

/* The descriptors of x, w and y. Version 2 passes them by value, 3 by handle. */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t md_t;
#define MD_REF(m) (m)
static bool md_strided(md_t *m, int64_t rows, int64_t cols, int64_t ld, dnnl_data_type_t t)
{
    return dnnl_memory_desc_create_with_strides(m, 2, (dnnl_dims_t){rows, cols}, t, (dnnl_dims_t){ld, 1}) ==
           dnnl_success;
}
static bool md_tagged(md_t *m, int64_t rows, int64_t cols, dnnl_data_type_t t, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(m, 2, (dnnl_dims_t){rows, cols}, t, tag) == dnnl_success;
}
static bool pd_create(dnnl_primitive_desc_t *pd, struct dn *d, md_t md[3], dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, d->engine, md[0], md[1], NULL, md[2], attr) == dnnl_success;
}
static size_t md_bytes(const_dnnl_memory_desc_t m)
{
    return dnnl_memory_desc_get_size(m);
}
static void md_free(md_t md[3])
{
    for (int i = 0; i < 3; i++)
        if (md[i])
            dnnl_memory_desc_destroy(md[i]);
}
#else
typedef dnnl_memory_desc_t md_t;
typedef const dnnl_memory_desc_t *const_dnnl_memory_desc_t;
#define MD_REF(m) (&(m))
static bool md_strided(md_t *m, int64_t rows, int64_t cols, int64_t ld, dnnl_data_type_t t)
{
    return dnnl_memory_desc_init_by_strides(m, 2, (dnnl_dims_t){rows, cols}, t, (dnnl_dims_t){ld, 1}) ==
           dnnl_success;
}
static bool md_tagged(md_t *m, int64_t rows, int64_t cols, dnnl_data_type_t t, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(m, 2, (dnnl_dims_t){rows, cols}, t, tag) == dnnl_success;
}
static bool pd_create(dnnl_primitive_desc_t *pd, struct dn *d, md_t md[3], dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t desc;
    return dnnl_matmul_desc_init(&desc, &md[0], &md[1], NULL, &md[2]) == dnnl_success &&
           dnnl_primitive_desc_create(pd, &desc, attr, d->engine, NULL) == dnnl_success;
}
static size_t md_bytes(const_dnnl_memory_desc_t m)
{
    return dnnl_memory_desc_get_size(m);
}
static void md_free(md_t md[3])
{
    (void)md;
}
#endif

static bool plan_make(struct dn *d, struct dn_plan *p, md_t md[3], dnnl_primitive_attr_t attr)
{
    dnnl_primitive_desc_t pd = NULL;
    bool bf16 = p->dtype == DT_BF16;
    dnnl_data_type_t t = bf16 ? dnnl_bf16 : dnnl_f32;
    /* Panels of 64 columns, as cpu_pack writes them. */
    bool ok = md_strided(&md[0], p->m, p->k, p->ldx, t) &&
              md_tagged(&md[1], p->k, p->n, t, bf16 ? dnnl_BA16a64b2a : dnnl_BA16a64b) &&
              md_strided(&md[2], p->m, p->n, p->n, dnnl_f32) && pd_create(&pd, d, md, attr);
    if (!ok)
        return false;
    const char *name = "ref"; /* plain loops are slower than ours */
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
    if (strncmp(name, "ref", 3) == 0) {
        dnnl_primitive_desc_destroy(pd);
        return false;
    }
    const_dnnl_memory_desc_t scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    p->scratch = md_bytes(scratch);
    ok = dnnl_primitive_create(&p->prim, pd) == dnnl_success;
    p->mem = mem_alloc((size_t)d->threads, sizeof *p->mem);
    for (int i = 0; i < d->threads && ok; i++) {
        for (int j = 0; j < 3 && ok; j++)
            ok =
                dnnl_memory_create(&p->mem[i][j], MD_REF(md[j]), d->engine, DNNL_MEMORY_NONE) == dnnl_success;
        ok = ok && dnnl_memory_create(&p->mem[i][3], scratch, d->engine, DNNL_MEMORY_NONE) == dnnl_success;
    }
    dnnl_primitive_desc_destroy(pd);
    return ok;
}

const struct dn_plan *dn_get(struct dn *d, enum dtype dtype, int64_t m, int64_t k, int64_t n, int64_t ldx)
{
    for (size_t i = 0; i < d->n; i++) {
        struct dn_plan *p = d->plan[i];
        if (p->dtype == dtype && p->m == m && p->k == k && p->n == n && p->ldx == ldx)
            return p->prim ? p : NULL;
    }
    struct dn_plan *p = mem_alloc(1, sizeof *p);
    *p = (struct dn_plan){.dtype = dtype, .m = m, .k = k, .n = n, .ldx = ldx};
    /* oneDNN decides how to cut the work from the number of threads at creation: it must see one. */
    int before = omp_get_max_threads();
    omp_set_num_threads(1);
    md_t md[3];
    memset(md, 0, sizeof md);
    dnnl_primitive_attr_t attr = NULL;
    bool ok = dnnl_primitive_attr_create(&attr) == dnnl_success &&
              dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success &&
              plan_make(d, p, md, attr);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    md_free(md);
    omp_set_num_threads(before);
    if (!ok && p->prim) {
        dnnl_primitive_destroy(p->prim);
        p->prim = NULL;
    }
    *MEM_PUSH(d->plan, d->n, d->cap) = p; /* a refusal is remembered too */
    return p->prim ? p : NULL;
}

size_t dn_scratch(const struct dn_plan *p)
{
    return p->scratch;
}

int dn_run(struct dn *d, const struct dn_plan *p, int thread, float *y, const void *x, const void *w,
           void *scratch)
{
    dnnl_memory_t *m = p->mem[thread];
    void *data[4] = {(void *)(uintptr_t)x, (void *)(uintptr_t)w, y, scratch};
    for (int i = 0; i < 4; i++)
        if (dnnl_memory_set_data_handle(m[i], data[i]) != dnnl_success)
            return -1;
    dnnl_exec_arg_t args[4] = {
        {DNNL_ARG_SRC, m[0]}, {DNNL_ARG_WEIGHTS, m[1]}, {DNNL_ARG_DST, m[2]}, {DNNL_ARG_SCRATCHPAD, m[3]}};
    return dnnl_primitive_execute(p->prim, d->stream[thread], 4, args) == dnnl_success ? 0 : -1;
}

/* ------------------------------------------------------------------ oneDNN by itself */

/* Memory of a descriptor, allocated by oneDNN and zeroed. */
static bool own_memory(dnnl_memory_t *m, const_dnnl_memory_desc_t md, dnnl_engine_t e)
{
    void *p = NULL;
    if (dnnl_memory_create(m, md, e, DNNL_MEMORY_ALLOCATE) != dnnl_success ||
        dnnl_memory_get_data_handle(*m, &p) != dnnl_success)
        return false;
    memset(p, 0, md_bytes(md));
    return true;
}

static double time_best(dnnl_primitive_t prim, dnnl_stream_t stream, dnnl_memory_t m[3], double seconds)
{
    dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, m[0]}, {DNNL_ARG_WEIGHTS, m[1]}, {DNNL_ARG_DST, m[2]}};
    double best = 0, end = omp_get_wtime() + seconds;
    for (int i = 0; i < 3 || omp_get_wtime() < end; i++) {
        double start = omp_get_wtime();
        if (dnnl_primitive_execute(prim, stream, 3, args) != dnnl_success ||
            dnnl_stream_wait(stream) != dnnl_success)
            return 0;
        double s = omp_get_wtime() - start;
        best = best == 0 || s < best ? s : best;
    }
    return best;
}

double dn_time(enum dtype dtype, int64_t m, int64_t k, int64_t n, int threads, double seconds)
{
    dnnl_data_type_t t = dtype == DT_BF16 ? dnnl_bf16 : dnnl_f32;
    struct dn d = {0};
    dnnl_stream_t stream = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t prim = NULL;
    dnnl_memory_t mem[3] = {NULL};
    md_t md[3];
    double best = 0;
    memset(md, 0, sizeof md);
    int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    if (dnnl_engine_create(&d.engine, dnnl_cpu, 0) == dnnl_success &&
        dnnl_stream_create(&stream, d.engine, dnnl_stream_default_flags) == dnnl_success &&
        md_strided(&md[0], m, k, k, t) && md_tagged(&md[1], k, n, t, dnnl_format_tag_any) &&
        md_strided(&md[2], m, n, n, dnnl_f32) && pd_create(&pd, &d, md, NULL) &&
        dnnl_primitive_create(&prim, pd) == dnnl_success &&
        own_memory(&mem[0], dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0), d.engine) &&
        own_memory(&mem[1], dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0), d.engine) &&
        own_memory(&mem[2], dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0), d.engine))
        best = time_best(prim, stream, mem, seconds);
    omp_set_num_threads(before);
    for (int i = 0; i < 3; i++)
        if (mem[i])
            dnnl_memory_destroy(mem[i]);
    if (prim)
        dnnl_primitive_destroy(prim);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    md_free(md);
    if (stream)
        dnnl_stream_destroy(stream);
    if (d.engine)
        dnnl_engine_destroy(d.engine);
    return best;
}
#endif

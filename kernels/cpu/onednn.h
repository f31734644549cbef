/* Products of one thread by oneDNN. Only onednn.c includes dnnl.h; it works with versions 2.x and 3.x, and is
 * empty without the library. */
#ifndef KVS_KERNELS_CPU_ONEDNN_H
#define KVS_KERNELS_CPU_ONEDNN_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

struct dn;
struct dn_plan;

/* NULL if the library is not there. isa: "avx512" (no AMX) or "avx2" narrow it for the whole process, "auto"
 * does not. version: "oneDNN 2.6.3". */
struct dn *dn_open(const char *isa, int threads, char *version, size_t size);
void dn_close(struct dn *d);

/* y [m,n] (dense, f32) = x [m,k] (row stride ldx) times packed panels; dtype f32 or bf16 of x and
 * weights. Cached; call it from one thread. NULL if oneDNN has no fast
 * kernel for it. */
const struct dn_plan *dn_get(struct dn *d, enum dtype dtype, int64_t m, int64_t k, int64_t n, int64_t ldx);
size_t dn_scratch(const struct dn_plan *p);
/* Runs in the calling thread; `thread` numbers it. 0 or a negative code. */
int dn_run(struct dn *d, const struct dn_plan *p, int thread, float *y, const void *x, const void *w,
           void *scratch);

/* Seconds of one product with the layout and the threads that oneDNN chooses itself, the best of runs that
 * fill `seconds`; 0 without oneDNN. For comparison only. */
double dn_time(enum dtype dtype, int64_t m, int64_t k, int64_t n, int threads, double seconds);

#endif

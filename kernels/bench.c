#include "kernels/bench.h"
#include "base/clock.h"
#include "base/mem.h"

#include <omp.h>
#include <stdlib.h>

#include "kernels/cpu/onednn.h"
#include "kernels/host.h"

/* Four sums, so that additions do not wait for each other. */
static uint64_t read_all(const uint64_t *p, size_t n)
{
    typedef uint64_t wide __attribute__((vector_size(64)));
    wide s[4] = {0};
    for (size_t i = 0; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++)
            s[j] += *(const wide *)(const void *)(p + i + 8 * j);
    s[0] += s[1] + s[2] + s[3];
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++)
        sum += s[0][i];
    return sum;
}

double bench_read_rate(int threads)
{
    size_t bytes = (size_t)512 << 20, words = bytes / sizeof(uint64_t);
    uint64_t *p = host_map(bytes), sum = 0;
    double best = 0;
    if (!p)
        return 0;
    for (int pass = 0; pass < 5; pass++) { /* the first writes: memory comes into being */
        double start = clock_now();
#pragma omp parallel num_threads(threads) reduction(+ : sum)
        {
            size_t part = words / (size_t)omp_get_num_threads() & ~(size_t)63;
            uint64_t *mine = p + part * (size_t)omp_get_thread_num();
            if (pass == 0)
                for (size_t i = 0; i < part; i++)
                    mine[i] = i;
            else
                sum += read_all(mine, part);
        }
        double rate = (double)bytes / (clock_now() - start);
        best = pass && rate > best ? rate : best;
    }
    host_unmap(p, bytes);
    return sum == 1 ? 0 : best; /* the sum is used, so that it is computed */
}

double bench_product_rate(const struct bench_product *p, int n, enum dtype dtype, int threads, double seconds)
{
    double flops = 0, time = 0;
    if (n && dtype == DT_BF16 && dn_time(dtype, 1, p[0].k, 16, threads, 0) <= 0)
        dtype = DT_F32; /* the library has no such products on this processor */
    for (int i = 0; i < n; i++) {
        double s = dn_time(dtype, p[i].m, p[i].k, p[i].n, threads, seconds / n);
        if (s <= 0)
            return 0;
        flops += 2.0 * (double)p[i].m * (double)p[i].k * (double)p[i].n * (double)p[i].count;
        time += s * (double)p[i].count;
    }
    return time > 0 ? flops / time : 0;
}

/* ------------------------------------------------------------------ any backend */

double bench_copy_rate(struct ops *o)
{
    size_t bytes = (size_t)512 << 20, room = o->limit(o) / 8;
    bytes = bytes < room ? bytes : room;
    void *a = o->alloc(o, bytes, MEM_WORKSPACE, PLACE_DEVICE),
         *b = o->alloc(o, bytes, MEM_WORKSPACE, PLACE_DEVICE);
    double best = 0, end = clock_now() + 0.1;
    const int n = 4;
    for (int pass = 0; a && b && (pass < 3 || clock_now() < end); pass++) {
        double start = clock_now();
        for (int i = 0; i < n; i++)
            o->copy(o, b, a, bytes);
        if (o->sync(o) < 0)
            break;
        double rate = 2.0 * n * (double)bytes / (clock_now() - start);
        best = pass && rate > best ? rate : best;
    }
    o->free(o, a);
    o->free(o, b);
    return best;
}

void *bench_random(struct ops *o, int64_t n, enum dtype t)
{
    size_t bytes = (size_t)n * dtype_bytes(t), chunk = (size_t)4 << 20;
    char *p = o->alloc(o, bytes, MEM_WORKSPACE, PLACE_DEVICE);
    uint64_t keep = t == DT_F32   ? UINT64_C(0x807fffff807fffff)
                    : t == DT_F16 ? UINT64_C(0x83ff83ff83ff83ff)
                                  : UINT64_C(0x80ff80ff80ff80ff),
             add = t == DT_F32   ? UINT64_C(0x3f0000003f000000)
                   : t == DT_F16 ? UINT64_C(0x3800380038003800)
                                 : UINT64_C(0x3f003f003f003f00),
             x = 88172645463325252U, *host = mem_alloc(chunk, 1);
    for (size_t i = 0; i < chunk / 8; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        host[i] = (x & keep) | add;
    }
    for (size_t at = 0; p && at < bytes; at += chunk)
        o->copy(o, p + at, host, bytes - at < chunk ? bytes - at : chunk);
    free(host);
    return p;
}

/* Seconds of one product, the best of runs of some milliseconds; 0 if it failed. */
static double backend_time(struct ops *o, struct tensor y, struct tensor x, const struct weight *w)
{
    double best = 0;
    for (int pass = 0, n = 1; pass < 6; pass++) {
        double start = clock_now();
        for (int i = 0; i < n; i++)
            o->matmul(o, y, x, w, NULL);
        if (o->sync(o) < 0)
            return 0;
        double s = (clock_now() - start) / n;
        best = pass && (best == 0 || s < best) ? s : best;
        if (pass == 1)
            n = s < 0.01 ? (int)(0.01 / s) : 1;
    }
    return best;
}

static double backend_flops(struct ops *o, const struct bench_product *p, enum dtype t, double *flops)
{
    const int64_t most = 8192;
    struct weight w = {.n_out = p->n, .n_in = p->k, .dtype = t, .bytes = o->pack_bytes(o, p->n, p->k, t)};
    struct tensor src = {bench_random(o, p->n * p->k, t), t, {p->n, p->k, 1, 1}};
    double s = 0;
    *flops = 0;
    w.packed = o->alloc(o, w.bytes, MEM_WORKSPACE, PLACE_DEVICE);
    if (src.data && w.packed)
        o->pack(o, &w, &src);
    o->free(o, src.data);
    for (int64_t m = p->m; w.packed && src.data && (m == p->m || m <= most) && s < 1e-3; m *= 2) {
        struct tensor x = {bench_random(o, m * p->k, o->act), o->act, {m, p->k, 1, 1}};
        struct tensor y = {o->alloc(o, (size_t)(m * p->n) * dtype_bytes(o->act), MEM_WORKSPACE, PLACE_DEVICE),
                           o->act,
                           {m, p->n, 1, 1}};
        s = x.data && y.data ? backend_time(o, y, x, &w) : 0;
        *flops = s > 0 ? 2.0 * (double)m * (double)p->k * (double)p->n : 0;
        o->free(o, x.data);
        o->free(o, y.data);
        if (s <= 0)
            break;
    }
    o->free(o, w.packed);
    return s;
}

double bench_backend_product_rate(struct ops *o, const struct bench_product *p, int n, enum dtype dtype)
{
    double flops = 0, time = 0;
    for (int i = 0; i < n; i++) {
        double f, s = backend_flops(o, &p[i], dtype, &f),
                  own = (double)p[i].m * (double)p[i].k * (double)p[i].n;
        if (s <= 0)
            return 0;
        own *= 2.0 * (double)p[i].count;
        flops += own;
        time += own * s / f;
    }
    return time > 0 ? flops / time : 0;
}

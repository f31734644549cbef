#include "kernels/bench.h"
#include "base/clock.h"

#include <omp.h>

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
    for (int i = 0; i < n; i++) {
        double s = dn_time(dtype, p[i].m, p[i].k, p[i].n, threads, seconds / n);
        if (s <= 0)
            return 0;
        flops += 2.0 * (double)p[i].m * (double)p[i].k * (double)p[i].n * (double)p[i].count;
        time += s * (double)p[i].count;
    }
    return time > 0 ? flops / time : 0;
}

/* The CUDA backend's memory and copies, on a GPU that the shim says is small: how much is taken from the
 * driver, what goes back, what the host may read when. */
#include "base/err.h"
#include "base/mem.h"
#include "kernels/ops.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT_MIB = 640, RESERVE_MIB = 512, SPARE_MIB = 128, OWN_MIB = 20 };
#define MIB ((size_t)1 << 20)

/* As in cuda_shim.h. */
struct shim_held {
    size_t device_bytes, device_most;
    int last_error;
};

static int failed, passed;

static void check(bool ok, const char *what)
{
    ok ? passed++ : failed++;
    if (!ok)
        printf("FAILED: %s\n", what);
}

static struct shim_held memory(void)
{
    struct shim_held m = {0};
    void (*ask)(struct shim_held *) = NULL;
    void *lib = dlopen("libkvs_cuda.so", RTLD_NOW | RTLD_NOLOAD), *at = lib ? dlsym(lib, "shim_memory") : NULL;
    memcpy(&ask, &at, sizeof ask);
    if (ask)
        ask(&m);
    return m;
}

static void *take(struct ops *o, size_t bytes)
{
    return o->alloc(o, bytes, MEM_CODES, PLACE_DEVICE);
}

/* A small block that stays must not keep a big slab from going back. */
static void test_slabs_go_back(struct ops *o)
{
    void *big = take(o, 600 * MIB);
    check(big != NULL, "a big block");
    o->free(o, big);
    void *small = take(o, 1000), *bigger = take(o, 620 * MIB);
    check(small && bigger, "a bigger block beside a small one that stays");
    check(!take(o, 40 * MIB), "more than the limit");
    o->free(o, bigger);
    void *middle = take(o, 20 * MIB);
    bigger = take(o, 610 * MIB);
    check(middle && bigger, "a bigger block beside one of middle size that stays");
    o->free(o, bigger);
    o->free(o, middle);
    o->free(o, small);
}

/* Blocks of many sizes come and go: whatever is used is within the limit, and so is what is not used. */
static void test_slabs_within_limit(struct ops *o)
{
    enum { N = 24 };
    void *p[N] = {NULL};
    size_t bytes[N] = {0}, used = 0;
    unsigned seed = 7;
    int refused = 0;
    for (int i = 0; i < 1500; i++) {
        seed = seed * 1103515245U + 12345U;
        unsigned k = (seed >> 16) % N, kind = (seed >> 8) % 4;
        size_t want = kind ? (size_t)((seed >> 12) % 60 + 1) * (MIB / 16) : (size_t)((seed >> 12) % 70 + 1) * MIB;
        if (p[k]) {
            o->free(o, p[k]);
            used -= bytes[k];
            p[k] = NULL;
        } else if (used + want < LIMIT_MIB * MIB / 2) {
            p[k] = take(o, want);
            bytes[k] = p[k] ? want : 0;
            used += bytes[k];
            refused += !p[k];
        }
    }
    check(refused == 0, "no block is refused while half of the GPU is free");
    check(memory().device_most <= (LIMIT_MIB + SPARE_MIB + OWN_MIB) * MIB, "slabs stay within the limit");
    for (int k = 0; k < N; k++)
        o->free(o, p[k]);
}

/* What a copy of the pool's host memory is good for after a sync, and other host memory at once. */
static void test_copies(struct ops *o)
{
    char here[64], there[64] = {0}, *dev = take(o, 64), *host = o->alloc(o, 64, MEM_CODES, PLACE_HOST);
    char *other = o->alloc(o, 64, MEM_CODES, PLACE_HOST);
    for (int i = 0; i < 64; i++)
        here[i] = (char)(3 * i + 1);
    o->copy(o, dev, here, 64);
    o->copy(o, host, dev, 64);
    o->copy(o, there, host, 64); /* by the host alone, behind what the stream does to it */
    check(memcmp(there, here, 64) == 0, "host to host waits for the stream");
    memset(there, 0, 64);
    o->copy(o, other, host, 64);
    o->copy_rows(o, there, 8, other, 16, 8, 4);
    check(memcmp(there, here, 8) == 0 && memcmp(there + 24, here + 48, 8) == 0, "rows from host to host");
    memset(host, 5, 64);
    o->copy(o, dev, host, 64);
    check(o->sync(o) == 0, "sync");
    memset(host, 6, 64);
    o->copy(o, there, dev, 64);
    check(there[0] == 5 && there[63] == 5, "a host side may change after a sync");
    o->free(o, dev);
    o->free(o, host);
    o->free(o, other);
}

/* A failure is said once. */
static void test_errors(struct ops *o)
{
    void *dev = take(o, 64);
    o->copy(o, dev, (void *)0, 64);
    check(memory().last_error == 0, "the runtime has nothing left to say");
    check(o->sync(o) == ERR_DEVICE && o->sync(o) == 0, "a failure is said once");
    o->free(o, dev);
}

int main(void)
{
    char kib[32];
    struct ops *o;
    snprintf(kib, sizeof kib, "%d", (LIMIT_MIB + RESERVE_MIB) * 1024);
    setenv("KVS_SHIM_KIB", kib, 1);
    if (ops_open(&o, "cuda", NULL) < 0) {
        printf("%s\n", err_text());
        return 1;
    }
    check(o->chunk == 2048 && o->plain_weights, "prefill chunks and weights as a GPU likes them");
    test_slabs_go_back(o);
    test_slabs_within_limit(o);
    test_copies(o);
    test_errors(o);
    ops_close(o);
    check(memory().device_bytes == 0, "everything goes back");
    printf("backend: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}

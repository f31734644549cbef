/* Drives a harness without libFuzzer: fuzz_X SECONDS FILE…. Every file as it is, then seeded changes of them
 * until the time is up: flipped bits, bytes of interest, cuts, repeated and moved parts, parts of another
 * file. The input that kills is left in fuzz-crash, and its number in the last line. */
#include "fuzz.h"

#include <sanitizer/common_interface_defs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 1 << 20 };
struct input {
    uint8_t *data;
    size_t n;
};

static uint64_t seed = 0x9e3779b97f4a7c15U;
static uint64_t below(uint64_t n)
{
    seed += 0x9e3779b97f4a7c15U;
    uint64_t x = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9U;
    x = (x ^ x >> 27) * 0x94d049bb133111ebU;
    return n ? (x ^ x >> 31) % n : 0;
}
static struct input load(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct input in = {malloc(MOST), 0};
    if (!f || !in.data) {
        perror(path);
        exit(1);
    }
    in.n = fread(in.data, 1, MOST, f);
    fclose(f);
    return in;
}
/* Heads are where most of a format is decided. */
static size_t place(size_t n)
{
    return (size_t)below(below(4) && n > 2048 ? 2048 : n);
}
static void change(struct input *x, const struct input *all, int n_all)
{
    static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, '"', '{', '}', '[', ',', ':', '\n', '-', '9', 'e'};
    const struct input *other = &all[below((uint64_t)n_all)];
    size_t at = place(x->n), n = (size_t)below(16) + 1;
    switch (x->n ? below(7) : 6) {
    case 0:
        x->data[at] ^= (uint8_t)(1U << below(8));
        break;
    case 1:
        x->data[at] = odd[below(sizeof odd)];
        break;
    case 2:
        x->n = at;
        break;
    case 3: /* a part is left out */
        n = n < x->n - at ? n : x->n - at;
        memmove(x->data + at, x->data + at + n, x->n - at - n);
        x->n -= n;
        break;
    case 4: /* a part comes twice */
        n = n < x->n - at ? n : x->n - at;
        n = x->n + n <= MOST ? n : 0;
        memmove(x->data + at + n, x->data + at, x->n - at);
        x->n += n;
        break;
    case 5: /* a number of 8 bytes */
        for (size_t i = 0; i < 8 && at + i < x->n; i++)
            x->data[at + i] = i < n ? (uint8_t)(0xffU - below(2)) : 0;
        break;
    default:
        n = other->n < n * 8 ? other->n : n * 8;
        at = at + n <= MOST ? at : 0;
        memcpy(x->data + at, other->data + place(other->n - n + 1), n);
        x->n = at + n > x->n ? at + n : x->n;
    }
}
static const struct input *running;
static void keep_it(void)
{
    FILE *f = running ? fopen("fuzz-crash", "wb") : NULL;
    if (!f)
        return;
    fwrite(running->data, 1, running->n, f);
    fclose(f);
}
/* An abort counts as a finding too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "handle_abort=1";
}
static void run(const struct input *x)
{
    uint8_t *own = malloc(x->n ? x->n : 1); /* its end is watched */
    running = x;
    memcpy(own, x->data, x->n);
    LLVMFuzzerTestOneInput(own, x->n);
    running = NULL;
    free(own);
}
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s SECONDS FILE...\n", argv[0]);
        return 2;
    }
    int n_all = argc - 2;
    struct input *all = calloc((size_t)n_all, sizeof *all), x = {malloc(MOST), 0};
    long n_run = 0;
    __sanitizer_set_death_callback(keep_it);
    for (int i = 0; i < n_all; i++, n_run++) {
        all[i] = load(argv[2 + i]);
        run(&all[i]);
    }
    const double end = now() + atof(argv[1]);
    for (; now() < end; n_run++) {
        const struct input *from = &all[below((uint64_t)n_all)];
        memcpy(x.data, from->data, x.n = from->n);
        for (uint64_t k = below(6) + 1; k > 0; k--)
            change(&x, all, n_all);
        run(&x);
    }
    printf("%ld inputs\n", n_run);
    for (int i = 0; i < n_all; i++)
        free(all[i].data);
    free(all);
    free(x.data);
    return 0;
}

/* What the two CPU backends share: the counted allocator and the error latch. `impl` of every CPU backend
 * begins with a struct host. */
#ifndef KVS_KERNELS_HOST_H
#define KVS_KERNELS_HOST_H

#include "kernels/half.h"
#include "kernels/ops.h"

struct host {
    size_t used[MEM_KIND_N][PLACE_N];
    size_t scratch;  /* the backend's own buffers: counted in the peak, not in used() */
    size_t peak;     /* device, without weights */
    size_t limit;    /* device bytes that may be used, weights included */
    int64_t fail_at; /* alloc returns NULL when this counts down to 0 */
    int error;       /* latched: enum kvs_err or 0 */
    char error_text[160];
};

/* Device bytes in use, the backend's own buffers too. */
static inline size_t host_device_used(const struct host *h)
{
    size_t sum = h->scratch;
    for (int k = 0; k < MEM_KIND_N; k++)
        sum += h->used[k][PLACE_DEVICE];
    return sum;
}
static inline void host_note_peak(struct host *h)
{
    size_t now = host_device_used(h) - h->used[MEM_WEIGHTS][PLACE_DEVICE];
    if (now > h->peak)
        h->peak = now;
}

void host_init(struct host *h);
/* Fills the members of `o` that are alike for CPU backends: alloc, free, used, peak, limit, copy, sync,
 * device.
 */
void host_backend(struct ops *o);
/* Latches the first error until sync(). */
void host_fail(struct host *h, int code, const char *text);
/* A backend's own buffer: grows to `bytes`, old content is lost. False and a latched ERR_NOMEM if there is
 * none. */
struct host_buf {
    void *data;
    size_t bytes;
};
bool host_grow(struct host *h, struct host_buf *b, size_t bytes);
void host_drop(struct host *h, struct host_buf *b);

/* 64-byte aligned, zero-filled, not counted. Big blocks ask for huge pages. */
void *host_map(size_t bytes);
void host_unmap(void *p, size_t bytes);

/* One element of any float dtype. */
static inline float host_get(const void *p, enum dtype t, int64_t i)
{
    if (t == DT_F32)
        return ((const float *)p)[i];
    return t == DT_F16 ? f16_to_f32(((const uint16_t *)p)[i]) : bf16_to_f32(((const uint16_t *)p)[i]);
}
static inline void host_put(void *p, enum dtype t, int64_t i, float x)
{
    if (t == DT_F32)
        ((float *)p)[i] = x;
    else
        ((uint16_t *)p)[i] = t == DT_F16 ? f16_from_f32(x) : bf16_from_f32(x);
}

/* Code number `i` of `bits` bits, packed low bits first. */
static inline uint32_t host_code(const uint8_t *p, int64_t i, int32_t bits)
{
    int64_t at = i * bits;
    uint32_t w = p[at >> 3];
    if ((at & 7) + bits > 8)
        w |= (uint32_t)p[(at >> 3) + 1] << 8;
    return (w >> (at & 7)) & ((1U << bits) - 1U);
}

/* The value of a code as the run defines it. */
static inline float host_dequant(const struct kv_run *run, float scale, float min, uint32_t code)
{
    float p = run->inverse ? (float)code / scale : scale * (float)code;
    return run->inverse || run->f16_values ? f16_round(f16_round(p) + min) : p + min;
}
/* Channel c of row r, head h of a run. */
float host_kv(const struct kv_run *run, int64_t r, int32_t h, int32_t c, int32_t n_head, int32_t d);
/* Scale and minimum of one group of a->group values (already rounded to f16). */
void host_quant_scale(const struct quant_args *a, const float *x, uint16_t *scale, uint16_t *min);
/* Code of one value of that group. */
uint8_t host_quant_code(const struct quant_args *a, float x, float scale, float min);
/* n codes of `bits` bits, low bits first, into n * bits / 8 bytes. */
void host_pack_codes(uint8_t *out, const uint8_t *code, int32_t n, int32_t bits);
#define QUANT_MAX_GROUP 512

/* Keeps the K best so far, best first; equal logits keep the lower id, which came first. NaN ranks lowest.
 * `n` is the id of x, counted from 0. */
void host_pick_insert(int32_t *id, float *logit, int32_t K, int32_t n, float x);

void ref_mix_table(struct ops *o); /* the entries of mix.h: ref_mix.c */
int ops_open_ref(struct ops **o, const struct ops_options *opt);
int ops_open_cpu(struct ops **o, const struct ops_options *opt);

#endif

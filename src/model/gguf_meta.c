/* Values of a GGUF header's keys. */
#include "base/err.h"
#include "base/mem.h"
#include "model/gguf_int.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct gguf_kv *find(const struct gguf *g, const char *key)
{
    struct gguf_kv k = {.key = {key, strlen(key)}};
    return g->n_kv ? bsearch(&k, g->kv, (size_t)g->n_kv, sizeof *g->kv, gguf_kv_order) : NULL;
}

static int get(const struct gguf *g, const char *key, const struct gguf_kv **kv)
{
    *kv = find(g, key);
    return *kv ? 0 : err_set(ERR_INPUT, "%s: key '%s' is missing", g->path, key);
}

static int wrong_type(const struct gguf *g, const char *key, const struct gguf_kv *kv, const char *want)
{
    bool arr = kv->type == V_ARRAY;
    return err_set(ERR_INPUT, "%s: key '%s' is %s%s, expected %s", g->path, key, arr ? "an array of " : "",
                   gguf_value_name[arr ? kv->elem : kv->type], want);
}

/* One stored number: as an integer where it is one, and as a double. */
struct number {
    bool is_int;
    bool too_big; /* does not fit int64_t */
    int64_t i;
    double d;
};

#define LOAD(T)                                                                                              \
    T v;                                                                                                     \
    memcpy(&v, p, sizeof v)
#define INT_CASE(V, T)                                                                                       \
    case V: {                                                                                                \
        LOAD(T);                                                                                             \
        *out = (struct number){true, false, (int64_t)v, (double)v};                                          \
        return true;                                                                                         \
    }

static bool load_number(const unsigned char *p, uint32_t type, struct number *out)
{
    switch (type) {
        INT_CASE(V_U8, uint8_t)
        INT_CASE(V_I8, int8_t)
        INT_CASE(V_U16, uint16_t)
        INT_CASE(V_I16, int16_t)
        INT_CASE(V_U32, uint32_t)
        INT_CASE(V_I32, int32_t)
        INT_CASE(V_I64, int64_t)
    case V_U64: {
        LOAD(uint64_t);
        *out = (struct number){true, v > INT64_MAX, (int64_t)(v & INT64_MAX), (double)v};
        return true;
    }
    case V_F32: {
        LOAD(float);
        *out = (struct number){.d = (double)v};
        return true;
    }
    case V_F64: {
        LOAD(double);
        *out = (struct number){.d = v};
        return true;
    }
    default:
        return false;
    }
}

bool gguf_has(const struct gguf *g, const char *key)
{
    return find(g, key) != NULL;
}

int gguf_int(const struct gguf *g, const char *key, int64_t *v)
{
    const struct gguf_kv *kv;
    struct number x;
    TRY(get(g, key, &kv));
    if (!load_number(g->map.data + kv->at, kv->type, &x) || !x.is_int)
        return wrong_type(g, key, kv, "an integer");
    if (x.too_big)
        return err_set(ERR_INPUT, "%s: key '%s' is %.17g, more than 2^63 - 1", g->path, key, x.d);
    *v = x.i;
    return 0;
}

int gguf_real(const struct gguf *g, const char *key, double *v)
{
    const struct gguf_kv *kv;
    struct number x;
    TRY(get(g, key, &kv));
    if (!load_number(g->map.data + kv->at, kv->type, &x))
        return wrong_type(g, key, kv, "a number");
    *v = x.d;
    return 0;
}

int gguf_bool(const struct gguf *g, const char *key, bool *v)
{
    const struct gguf_kv *kv;
    TRY(get(g, key, &kv));
    if (kv->type != V_BOOL)
        return wrong_type(g, key, kv, "a bool");
    *v = g->map.data[kv->at] != 0;
    return 0;
}

/* A string whose length was checked when the header was read. */
static struct gguf_text text_at(const struct gguf *g, size_t at)
{
    uint64_t n;
    memcpy(&n, g->map.data + at, sizeof n);
    return (struct gguf_text){(const char *)g->map.data + at + sizeof n, (size_t)n};
}

int gguf_text(const struct gguf *g, const char *key, struct gguf_text *v)
{
    const struct gguf_kv *kv;
    TRY(get(g, key, &kv));
    if (kv->type != V_STR)
        return wrong_type(g, key, kv, "a string");
    *v = text_at(g, kv->at);
    return 0;
}

int64_t gguf_count(const struct gguf *g, const char *key)
{
    const struct gguf_kv *kv = find(g, key);
    return kv && kv->type == V_ARRAY ? (int64_t)kv->n : -1;
}

int gguf_array_text(const struct gguf *g, const char *key, struct gguf_text **v, int64_t *n)
{
    const struct gguf_kv *kv;
    TRY(get(g, key, &kv));
    if (kv->type != V_ARRAY || kv->elem != V_STR)
        return wrong_type(g, key, kv, "an array of strings");
    *v = mem_alloc((size_t)kv->n + 1, sizeof **v);
    *n = (int64_t)kv->n;
    size_t at = kv->at;
    for (int64_t i = 0; i < *n; i++) {
        (*v)[i] = text_at(g, at);
        at += sizeof(uint64_t) + (*v)[i].n;
    }
    return 0;
}

int gguf_array_i32(const struct gguf *g, const char *key, int32_t **v, int64_t *n)
{
    const struct gguf_kv *kv;
    struct number x;
    TRY(get(g, key, &kv));
    if (kv->type != V_ARRAY || gguf_value_bytes[kv->elem] == 0 || kv->elem == V_F32 || kv->elem == V_F64 ||
        kv->elem == V_BOOL)
        return wrong_type(g, key, kv, "an array of integers");
    int32_t *a = mem_alloc((size_t)kv->n + 1, sizeof *a);
    for (uint64_t i = 0; i < kv->n; i++) {
        load_number(g->map.data + kv->at + i * gguf_value_bytes[kv->elem], kv->elem, &x);
        if (x.too_big || x.i < INT32_MIN || x.i > INT32_MAX) {
            free(a);
            return err_set(ERR_INPUT, "%s: key '%s' element %" PRIu64 " does not fit 32 bits", g->path, key,
                           i);
        }
        a[i] = (int32_t)x.i;
    }
    *v = a;
    *n = (int64_t)kv->n;
    return 0;
}

int gguf_array_f32(const struct gguf *g, const char *key, float **v, int64_t *n)
{
    const struct gguf_kv *kv;
    struct number x;
    TRY(get(g, key, &kv));
    if (kv->type != V_ARRAY || gguf_value_bytes[kv->elem] == 0 || kv->elem == V_BOOL)
        return wrong_type(g, key, kv, "an array of numbers");
    float *a = mem_alloc((size_t)kv->n + 1, sizeof *a);
    for (uint64_t i = 0; i < kv->n; i++) {
        load_number(g->map.data + kv->at + i * gguf_value_bytes[kv->elem], kv->elem, &x);
        a[i] = (float)x.d;
    }
    *v = a;
    *n = (int64_t)kv->n;
    return 0;
}

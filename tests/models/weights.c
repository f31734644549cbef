#include "weights.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "run/record.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void weights_init(struct weights *w, enum weight_type type, uint64_t seed)
{
    *w = (struct weights){.type = type, .state = seed};
}

void weights_free(struct weights *w)
{
    for (int i = 0; i < w->n; i++) {
        free(w->v[i].name);
        if (w->v[i].same < 0)
            free(w->v[i].data);
    }
    free(w->v);
    *w = (struct weights){0};
}

/* splitmix64; a number in [0, 1) of 24 bits, which every float type sums exactly. */
static double uniform(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ z >> 31) >> 40) / (1 << 24);
}

/* Sum of twelve: mean 0, deviation 1. */
static double normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += uniform(state);
    return sum;
}

double weight_scale(int64_t n_in)
{
    double root = 1;
    for (int i = 0; i < 40; i++) /* Newton */
        root = 0.5 * (root + (double)n_in / root);
    return 1.3 / root;
}

static uint16_t bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void put_value(struct made_tensor *t, size_t i, float x)
{
    if (t->type == WEIGHT_F32)
        ((float *)t->data)[i] = x;
    else
        ((uint16_t *)t->data)[i] = t->type == WEIGHT_F16 ? half_from_float(x) : bf16(x);
}

void weights_add(struct weights *w, enum weight_type type, struct weight_shape shape, struct spread s,
                 const char *name, ...)
{
    char text[256];
    va_list args;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    struct made_tensor *t = MEM_PUSH(w->v, w->n, w->cap);
    *t = (struct made_tensor){.name = mem_strdup(text), .type = type, .same = -1};
    size_t count = 1;
    for (; t->n_dim < 4 && shape.n[t->n_dim]; t->n_dim++)
        count *= (size_t)(t->n[t->n_dim] = shape.n[t->n_dim]);
    size_t size = type == WEIGHT_F32 ? 4 : 2;
    t->data = mem_alloc(count, size);
    t->bytes = count * size;
    for (size_t i = 0; i < count; i++)
        put_value(t, i, (float)(s.mean + s.spread * (s.uniform ? uniform(&w->state) : normal(&w->state))));
}

void weights_alias(struct weights *w, const char *name, const char *of)
{
    int i = 0;
    while (strcmp(w->v[i].name, of) != 0)
        i++;
    struct made_tensor t = w->v[i];
    t.name = mem_strdup(name);
    t.same = i;
    *MEM_PUSH(w->v, w->n, w->cap) = t;
}

static void write_all(const char *path, const struct str *s)
{
    if (file_write_atomic(path, s->data, s->n) == 0)
        return;
    fprintf(stderr, "%s\n", err_text());
    exit(1);
}

/* ---- safetensors ---- */

static void add_entry(struct str *s, const struct made_tensor *t, size_t at)
{
    static const char *const types[] = {"F32", "F16", "BF16"};
    str_printf(s, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", s->n > 1 ? "," : "", t->name, types[t->type]);
    for (int i = 0; i < t->n_dim; i++)
        str_printf(s, "%s%" PRId64, i ? "," : "", t->n[i]);
    str_printf(s, "],\"data_offsets\":[%zu,%zu]}", at, at + t->bytes);
}

void weights_safetensors(const struct weights *w, const char *path)
{
    struct str head = {0}, s = {0};
    size_t at = 0;
    str_add(&head, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < w->n; i++)
        if (w->v[i].same < 0) {
            add_entry(&head, &w->v[i], at);
            at += w->v[i].bytes;
        }
    str_addc(&head, '}');
    while (head.n % 8)
        str_addc(&head, ' ');
    const uint64_t n = head.n;
    str_addn(&s, &n, 8);
    str_addn(&s, head.data, head.n);
    for (int i = 0; i < w->n; i++)
        if (w->v[i].same < 0)
            str_addn(&s, w->v[i].data, w->v[i].bytes);
    write_all(path, &s);
    str_free(&head);
    str_free(&s);
}

/* ---- torch.save: the pickle ---- */

static void put32(struct str *s, uint32_t v)
{
    str_addn(s, &v, 4);
}

static void pickle_text(struct str *s, const char *text) /* BINUNICODE */
{
    str_addc(s, 'X');
    put32(s, (uint32_t)strlen(text));
    str_add(s, text);
}

static void pickle_int(struct str *s, int64_t v)
{
    if (v >= 0 && v < 256) { /* BININT1 */
        str_addc(s, 'K');
        str_addc(s, (char)v);
    } else { /* BININT */
        str_addc(s, 'J');
        put32(s, (uint32_t)v);
    }
}

static void pickle_ordered_dict(struct str *s)
{
    str_add(s, "ccollections\nOrderedDict\n)R"); /* GLOBAL, EMPTY_TUPLE, REDUCE */
}

/* (sizes…) or their strides */
static void pickle_sizes(struct str *s, const struct made_tensor *t, int strides)
{
    str_addc(s, '(');
    for (int i = 0; i < t->n_dim; i++) {
        int64_t v = strides ? 1 : t->n[i];
        for (int k = i + 1; strides && k < t->n_dim; k++)
            v *= t->n[k];
        pickle_int(s, v);
    }
    str_addc(s, 't');
}

/* name: _rebuild_tensor_v2(persistent id, 0, size, stride, False, OrderedDict()) */
static void pickle_tensor(struct str *s, const struct made_tensor *t, int key)
{
    static const char *const storage[] = {"FloatStorage", "HalfStorage", "BFloat16Storage"};
    char number[16];
    snprintf(number, sizeof number, "%d", key);
    pickle_text(s, t->name);
    str_add(s, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(s, "storage");
    str_printf(s, "ctorch\n%s\n", storage[t->type]);
    pickle_text(s, number);
    pickle_text(s, "cpu");
    pickle_int(s, (int64_t)(t->bytes / (t->type == WEIGHT_F32 ? 4 : 2)));
    str_add(s, "tQ"); /* TUPLE, BINPERSID */
    pickle_int(s, 0);
    pickle_sizes(s, t, 0);
    pickle_sizes(s, t, 1);
    str_addc(s, '\x89'); /* NEWFALSE */
    pickle_ordered_dict(s);
    str_add(s, "tR");
}

static void pickle_all(struct str *s, const struct weights *w, int state_dict)
{
    str_add(s, "\x80\x02");
    if (state_dict)
        pickle_ordered_dict(s);
    else
        str_addc(s, '}');
    str_addc(s, '(');
    for (int i = 0; i < w->n; i++)
        pickle_tensor(s, &w->v[i], w->v[i].same < 0 ? i : w->v[i].same);
    str_addc(s, 'u'); /* SETITEMS */
    if (state_dict) { /* its attributes: BUILD with {"_metadata": OrderedDict()} */
        str_addc(s, '}');
        pickle_text(s, "_metadata");
        pickle_ordered_dict(s);
        str_add(s, "sb");
    }
    str_addc(s, '.');
}

/* ---- torch.save: the archive ---- */

enum { ALIGN = 64 };

static uint32_t crc32_of(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

static void put16(struct str *s, uint32_t v)
{
    str_addc(s, (char)(v & 0xff));
    str_addc(s, (char)(v >> 8));
}

struct archive {
    struct str file, directory;
    const char *prefix;
    int n;
};

/* What the local header and the directory have in common: versions, flags, method 0, time, sums and sizes. */
static void put_entry(struct str *s, uint32_t crc, size_t n, size_t n_name, size_t n_extra)
{
    const uint32_t words[] = {0, 0, 0, 0, 0x21}; /* version, flags, method, time, date: 1 January 1980 */
    for (int i = 0; i < 5; i++)
        put16(s, words[i]);
    put32(s, crc);
    put32(s, (uint32_t)n);
    put32(s, (uint32_t)n);
    put16(s, (uint32_t)n_name);
    put16(s, (uint32_t)n_extra);
}

static void archive_add(struct archive *a, const char *name, const void *data, size_t n)
{
    char *whole = mem_printf("%s/%s", a->prefix, name);
    const size_t n_name = strlen(whole), at = a->file.n, begin = at + 30 + n_name + 4;
    const size_t pad = (ALIGN - begin % ALIGN) % ALIGN;
    const uint32_t crc = crc32_of(data, n);
    str_add(&a->file, "PK\x03\x04");
    put_entry(&a->file, crc, n, n_name, 4 + pad);
    str_add(&a->file, whole);
    str_add(&a->file, "FB"); /* torch's padding field */
    put16(&a->file, (uint32_t)pad);
    for (size_t i = 0; i < pad; i++)
        str_addc(&a->file, 'Z');
    str_addn(&a->file, data, n);
    str_add(&a->directory, "PK\x01\x02");
    put16(&a->directory, 0);
    put_entry(&a->directory, crc, n, n_name, 0);
    for (int i = 0; i < 5; i++) /* comment, disk, attributes inside and (two words) outside */
        put16(&a->directory, 0);
    put32(&a->directory, (uint32_t)at);
    str_add(&a->directory, whole);
    a->n++;
    free(whole);
}

static void archive_end(struct archive *a)
{
    const size_t at = a->file.n;
    str_addn(&a->file, a->directory.data, a->directory.n);
    str_add(&a->file, "PK\x05\x06");
    put32(&a->file, 0);
    put16(&a->file, (uint32_t)a->n);
    put16(&a->file, (uint32_t)a->n);
    put32(&a->file, (uint32_t)a->directory.n);
    put32(&a->file, (uint32_t)at);
    put16(&a->file, 0);
}

void weights_torch(const struct weights *w, const char *path, const char *prefix, int state_dict)
{
    struct archive a = {.prefix = prefix};
    struct str pickle = {0};
    pickle_all(&pickle, w, state_dict);
    archive_add(&a, "data.pkl", pickle.data, pickle.n);
    archive_add(&a, "byteorder", "little", 6);
    for (int i = 0; i < w->n; i++) {
        char name[32];
        snprintf(name, sizeof name, "data/%d", i);
        if (w->v[i].same < 0)
            archive_add(&a, name, w->v[i].data, w->v[i].bytes);
    }
    archive_add(&a, "version", "3\n", 2);
    archive_end(&a);
    write_all(path, &a.file);
    str_free(&a.file);
    str_free(&a.directory);
    str_free(&pickle);
}

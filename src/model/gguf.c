#include "model/gguf_int.h"

#include "base/err.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place");

const char *const gguf_value_name[V_N] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                          "bool", "string", "array", "u64", "i64", "f64"};
const uint8_t gguf_value_bytes[V_N] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct gguf_shown gguf_show(struct gguf_text t)
{
    struct gguf_shown r;
    size_t n = t.n < sizeof r.s - 4 ? t.n : sizeof r.s - 4;
    for (size_t i = 0; i < n; i++)
        r.s[i] = t.s[i] >= 0x20 && t.s[i] < 0x7f ? t.s[i] : '?';
    strcpy(r.s + n, n < t.n ? "..." : "");
    return r;
}

/* Reading position; `at` never passes the end. */
struct cursor {
    const struct gguf *g;
    size_t at;
};

static size_t left(const struct cursor *c)
{
    return c->g->map.bytes - c->at;
}

static int take(struct cursor *c, void *out, size_t bytes, const char *what)
{
    if (left(c) < bytes)
        return err_set(ERR_INPUT, "%s: truncated in %s at byte %zu", c->g->path, what, c->at);
    memcpy(out, c->g->map.data + c->at, bytes);
    c->at += bytes;
    return 0;
}

static int take_text(struct cursor *c, struct gguf_text *t, const char *what)
{
    uint64_t n = 0;
    TRY(take(c, &n, sizeof n, what));
    if (n > left(c))
        return err_set(ERR_INPUT,
                       "%s: %s at byte %zu is %" PRIu64 " bytes long, but only %zu are left in the file",
                       c->g->path, what, c->at, n, left(c));
    *t = (struct gguf_text){(const char *)c->g->map.data + c->at, (size_t)n};
    c->at += (size_t)n;
    return 0;
}

static int skip_array(struct cursor *c, struct gguf_kv *kv)
{
    TRY(take(c, &kv->elem, sizeof kv->elem, "an array type"));
    TRY(take(c, &kv->n, sizeof kv->n, "an array length"));
    kv->at = c->at;
    if (kv->elem >= V_N || kv->elem == V_ARRAY)
        return err_set(ERR_INPUT, "%s: key '%s' is an array of type %" PRIu32 ", which cannot be read",
                       c->g->path, gguf_show(kv->key).s, kv->elem);
    size_t each = kv->elem == V_STR ? sizeof(uint64_t) : gguf_value_bytes[kv->elem];
    if (kv->n > left(c) / each)
        return err_set(ERR_INPUT,
                       "%s: key '%s' has %" PRIu64 " elements, more than the %zu bytes left in the file",
                       c->g->path, gguf_show(kv->key).s, kv->n, left(c));
    if (kv->elem != V_STR) {
        c->at += (size_t)kv->n * each;
        return 0;
    }
    struct gguf_text t;
    for (uint64_t i = 0; i < kv->n; i++)
        TRY(take_text(c, &t, "an array string"));
    return 0;
}

static int take_kv(struct cursor *c, struct gguf_kv *kv)
{
    struct gguf_text t;
    TRY(take_text(c, &kv->key, "a key"));
    TRY(take(c, &kv->type, sizeof kv->type, "a value type"));
    kv->at = c->at;
    kv->n = 1;
    if (kv->type >= V_N)
        return err_set(ERR_INPUT, "%s: key '%s' has type %" PRIu32 "; the format knows 0 to %d", c->g->path,
                       gguf_show(kv->key).s, kv->type, V_N - 1);
    if (kv->type == V_STR)
        return take_text(c, &t, "a string value");
    if (kv->type == V_ARRAY)
        return skip_array(c, kv);
    uint64_t raw;
    return take(c, &raw, gguf_value_bytes[kv->type], "a value");
}

static int unreadable(const struct gguf *g, const struct gguf_tensor *t)
{
    char list[128] = "";
    for (int i = 0; ggml_type_at(i) >= 0; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "",
                 ggml_type_name(ggml_type_at(i)));
    return err_set(ERR_INPUT, "%s: tensor '%s' has type %d (%s); readable are %s", g->path, t->name, t->type,
                   ggml_type_name(t->type), list);
}

/* Bytes of a tensor from its shape; every product is checked. */
static int tensor_size(const struct gguf *g, struct gguf_tensor *t)
{
    int64_t values, bytes, rows = 1;
    if (!ggml_type_block(t->type, &values, &bytes))
        return unreadable(g, t);
    for (int i = 0; i < 4; i++)
        if (t->n[i] < 1 || (i && __builtin_mul_overflow(rows, t->n[i], &rows)))
            return err_set(ERR_INPUT, "%s: tensor '%s' has an impossible shape (dimension %d is %" PRId64 ")",
                           g->path, t->name, i, t->n[i]);
    if (t->n[0] % values)
        return err_set(ERR_INPUT,
                       "%s: tensor '%s' of type %s has rows of %" PRId64
                       " values, not a multiple of %" PRId64,
                       g->path, t->name, ggml_type_name(t->type), t->n[0], values);
    int64_t total;
    if (__builtin_mul_overflow(t->n[0] / values, bytes, &total) ||
        __builtin_mul_overflow(total, rows, &total))
        return err_set(ERR_INPUT, "%s: tensor '%s' has a shape whose bytes overflow", g->path, t->name);
    t->bytes = (size_t)total;
    return 0;
}

static int take_tensor(struct cursor *c, struct gguf_tensor *t)
{
    struct gguf_text name;
    uint32_t n_dim, type;
    uint64_t at;
    TRY(take_text(c, &name, "a tensor name"));
    struct gguf_shown s = gguf_show(name);
    bool plain = name.n > 0 && name.n <= 255;
    for (size_t i = 0; plain && i < name.n; i++)
        plain = name.s[i] >= 0x20 && name.s[i] < 0x7f;
    if (!plain)
        return err_set(ERR_INPUT, "%s: tensor name '%s' is not 1 to 255 plain ASCII characters", c->g->path,
                       s.s);
    t->name = mem_strndup(name.s, name.n);
    TRY(take(c, &n_dim, sizeof n_dim, "a tensor header"));
    if (n_dim > 4)
        return err_set(ERR_INPUT, "%s: tensor '%s' has %" PRIu32 " dimensions, at most 4 are possible",
                       c->g->path, s.s, n_dim);
    t->n_dim = (int32_t)n_dim;
    for (int i = 0; i < 4; i++) {
        uint64_t n = 1;
        if (i < t->n_dim)
            TRY(take(c, &n, sizeof n, "a tensor shape"));
        t->n[i] = n > INT64_MAX ? -1 : (int64_t)n;
    }
    TRY(take(c, &type, sizeof type, "a tensor type"));
    TRY(take(c, &at, sizeof at, "a tensor offset"));
    t->type = type > INT32_MAX ? -1 : (int32_t)type;
    t->at = at;
    return 0;
}

static int text_cmp(struct gguf_text a, struct gguf_text b)
{
    int r = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);
    return r ? r : (a.n > b.n) - (a.n < b.n);
}

int gguf_kv_order(const void *a, const void *b)
{
    return text_cmp(((const struct gguf_kv *)a)->key, ((const struct gguf_kv *)b)->key);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static int read_kvs(struct gguf *g, struct cursor *c, uint64_t n)
{
    /* the smallest entry has 8 + 4 + 1 bytes, so that a count cannot ask for more memory than the file has */
    if (n > left(c) / 13)
        return err_set(ERR_INPUT, "%s: announces %" PRIu64 " metadata keys, more than the file can hold",
                       g->path, n);
    g->kv = mem_alloc((size_t)n + 1, sizeof *g->kv);
    for (uint64_t i = 0; i < n; i++) {
        TRY(take_kv(c, &g->kv[i]));
        g->n_kv++;
    }
    qsort(g->kv, (size_t)n, sizeof *g->kv, gguf_kv_order);
    for (uint64_t i = 1; i < n; i++)
        if (gguf_kv_order(&g->kv[i - 1], &g->kv[i]) == 0)
            return err_set(ERR_INPUT, "%s: key '%s' occurs twice", g->path, gguf_show(g->kv[i].key).s);
    return 0;
}

static int read_tensors(struct gguf *g, struct cursor *c, uint64_t n)
{
    if (n > left(c) / 24)
        return err_set(ERR_INPUT, "%s: announces %" PRIu64 " tensors, more than the file can hold", g->path,
                       n);
    g->t = mem_alloc((size_t)n + 1, sizeof *g->t);
    for (uint64_t i = 0; i < n; i++) {
        g->n_t++; /* before reading: a name may be owned by a half-read entry */
        TRY(take_tensor(c, &g->t[i]));
        TRY(tensor_size(g, &g->t[i]));
    }
    return gguf_sort_tensors(g);
}

int gguf_sort_tensors(struct gguf *g)
{
    if (g->n_t)
        qsort(g->t, (size_t)g->n_t, sizeof *g->t, by_name);
    for (int64_t i = 1; i < g->n_t; i++)
        if (by_name(&g->t[i - 1], &g->t[i]) == 0)
            return err_set(ERR_INPUT, "%s: tensor '%s' occurs twice", g->path, g->t[i].name);
    return 0;
}

static int read_alignment(struct gguf *g)
{
    int64_t a = 32;
    if (gguf_has(g, "general.alignment"))
        TRY(gguf_int(g, "general.alignment", &a));
    if (a < 8 || a > 1 << 20 || (a & (a - 1)))
        return err_set(ERR_INPUT,
                       "%s: general.alignment is %" PRId64 ", allowed are powers of two from 8 to 1048576",
                       g->path, a);
    g->alignment = (uint64_t)a;
    return 0;
}

/* Offsets count from the aligned end of the header. */
static int place_tensors(struct gguf *g, size_t header)
{
    size_t pad = (size_t)(-header & (g->alignment - 1));
    size_t room = g->map.bytes - header;
    room = room > pad ? room - pad : 0;
    for (int64_t i = 0; i < g->n_t; i++) {
        struct gguf_tensor *t = &g->t[i];
        if (t->at % g->alignment)
            return err_set(ERR_INPUT,
                           "%s: tensor '%s' is at offset %zu, not a multiple of the alignment %" PRIu64,
                           g->path, t->name, t->at, g->alignment);
        if (t->at > room || t->bytes > room - t->at)
            return err_set(ERR_INPUT,
                           "%s: tensor '%s' needs %zu bytes at offset %zu, but the data section has %zu "
                           "(truncated file?)",
                           g->path, t->name, t->bytes, t->at, room);
        t->at += header + pad;
    }
    return 0;
}

static int read_header(struct gguf *g)
{
    struct cursor c = {g, 0};
    char magic[4] = {0};
    uint32_t version;
    uint64_t n_tensor, n_kv;
    if (left(&c) >= 4)
        TRY(take(&c, magic, 4, "the magic"));
    if (memcmp(magic, "GGUF", 4) != 0)
        return err_set(ERR_INPUT, "%s: not a GGUF file (it does not begin with 'GGUF')", g->path);
    TRY(take(&c, &version, sizeof version, "the version"));
    if (version != 2 && version != 3)
        return err_set(ERR_INPUT, "%s: GGUF version %" PRIu32 "%s; readable are 2 and 3, little-endian",
                       g->path, version, version & 0xffff ? "" : " (big-endian?)");
    TRY(take(&c, &n_tensor, sizeof n_tensor, "the tensor count"));
    TRY(take(&c, &n_kv, sizeof n_kv, "the key count"));
    TRY(read_kvs(g, &c, n_kv));
    TRY(read_alignment(g));
    TRY(read_tensors(g, &c, n_tensor));
    return place_tensors(g, c.at);
}

static int finish_open(struct gguf **out, struct gguf *g)
{
    int rc = file_stand_in(g->path, g->map.data, g->map.bytes);
    if (rc == 0)
        rc = read_header(g);
    if (rc < 0) {
        gguf_close(g);
        g = NULL;
    }
    *out = g;
    return rc;
}

int gguf_open_part(struct gguf **out, const char *path)
{
    *out = NULL;
    struct file_map map;
    TRY(file_map(&map, path));
    struct gguf *g = mem_alloc(1, sizeof *g);
    g->path = mem_strdup(path);
    g->map = map;
    g->own_map = true;
    return finish_open(out, g);
}

int gguf_open(struct gguf **out, const char *path)
{
    TRY(gguf_open_part(out, path));
    int rc = gguf_open_parts(*out);
    if (rc < 0) {
        gguf_close(*out);
        *out = NULL;
    }
    return rc;
}

int gguf_open_bytes(struct gguf **out, const void *data, size_t bytes, const char *path)
{
    struct gguf *g = mem_alloc(1, sizeof *g);
    g->path = mem_strdup(path);
    g->map = (struct file_map){data, bytes};
    return finish_open(out, g);
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (int64_t i = 0; i < g->n_t; i++)
        free((void *)(uintptr_t)g->t[i].name);
    for (int i = 0; i < g->n_part; i++)
        gguf_close(g->part[i]);
    free(g->part);
    free(g->t);
    free(g->kv);
    if (g->own_map)
        file_unmap(&g->map);
    free(g->path);
    free(g);
}

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

int gguf_n_map(const struct gguf *g)
{
    return 1 + g->n_part;
}

const struct file_map *gguf_map(const struct gguf *g, int i)
{
    return i == 0 ? &g->map : &g->part[i - 1]->map;
}

const char *gguf_map_path(const struct gguf *g, int i)
{
    return i == 0 ? g->path : g->part[i - 1]->path;
}

int64_t gguf_n_tensor(const struct gguf *g)
{
    return g->n_t;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int64_t i)
{
    return &g->t[i];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    struct gguf_tensor key = {.name = name};
    return g->n_t ? bsearch(&key, g->t, (size_t)g->n_t, sizeof *g->t, by_name) : NULL;
}

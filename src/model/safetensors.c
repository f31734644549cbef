/* safetensors: 8 bytes header length, a JSON object {name: {dtype, shape, data_offsets}}, then the data
 * (github.com/huggingface/safetensors, "Format"). */
#include "base/err.h"
#include "base/mem.h"
#include "model/file_int.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MAX 100000000 /* bytes, the format's own limit */

struct st_type {
    const char *name;
    int32_t type; /* -1: known size, but not readable as weights */
    int64_t bytes;
};
static const struct st_type types[] = {
    {"F32", GGML_F32, 4}, {"F16", GGML_F16, 2}, {"BF16", GGML_BF16, 2}, {"F64", -1, 8},
    {"I64", -1, 8},       {"U64", -1, 8},       {"I32", -1, 4},         {"U32", -1, 4},
    {"I16", -1, 2},       {"U16", -1, 2},       {"I8", -1, 1},          {"U8", -1, 1},
    {"BOOL", -1, 1},      {"F8_E4M3", -1, 1},   {"F8_E5M2", -1, 1},
};

static const struct st_type *find_type(const char *name)
{
    for (size_t i = 0; name && i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, name))
            return &types[i];
    return NULL;
}

static int read_shape(const json_t *shape, struct model_tensor *t, const char *path, const char *name,
                      int64_t *count)
{
    char s[80];
    size_t n = json_array_size(shape);
    if (!json_is_array(shape) || n > 4)
        return err_set(ERR_INPUT, "%s: tensor '%s': 'shape' must be an array of at most 4 numbers", path,
                       file_shown(s, name));
    *count = 1;
    t->n_dim = (int32_t)n;
    for (size_t i = 0; i < 4; i++) {
        const json_t *v = i < n ? json_array_get(shape, i) : NULL;
        t->n[i] = v ? json_integer_value(v) : 1;
        if ((v && !json_is_integer(v)) || t->n[i] < 0 || __builtin_mul_overflow(*count, t->n[i], count))
            return err_set(ERR_INPUT, "%s: tensor '%s' has an impossible shape", path, file_shown(s, name));
    }
    return 0;
}

static int read_entry(struct model_file *f, const struct file_map *m, int map, size_t data, const char *path,
                      const char *name, const json_t *v)
{
    char s[80];
    struct file_tensor ft = {.map = map};
    int64_t count = 0, bytes = 0, room = (int64_t)(m->bytes - data);
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    const json_t *off = json_object_get(v, "data_offsets");
    const struct st_type *type = find_type(dtype);
    for (const char *p = name; *p; p++)
        if (*p < 0x20 || *p > 0x7e)
            return err_set(ERR_INPUT, "%s: tensor name '%s' has characters that are not plain ASCII", path,
                           file_shown(s, name));
    if (!type)
        return err_set(ERR_INPUT, "%s: tensor '%s' has dtype '%.20s', which is unknown", path,
                       file_shown(s, name), dtype ? dtype : "none");
    TRY(read_shape(json_object_get(v, "shape"), &ft.t, path, name, &count));
    const json_t *a = json_array_get(off, 0), *b = json_array_get(off, 1);
    int64_t from = json_integer_value(a), to = json_integer_value(b);
    if (json_array_size(off) != 2 || !json_is_integer(a) || !json_is_integer(b) || from < 0 || to < from)
        return err_set(ERR_INPUT, "%s: tensor '%s': 'data_offsets' must be two rising numbers", path,
                       file_shown(s, name));
    if (to > room)
        return err_set(ERR_INPUT,
                       "%s: tensor '%s' ends at byte %" PRId64 " of the data, but there are %" PRId64
                       " (truncated file?)",
                       path, file_shown(s, name), to, room);
    if (__builtin_mul_overflow(count, type->bytes, &bytes) || bytes != to - from)
        return err_set(ERR_INPUT,
                       "%s: tensor '%s': shape and dtype need other bytes than data_offsets give (%" PRId64
                       ")",
                       path, file_shown(s, name), to - from);
    ft.t.data = m->data + data + from;
    ft.t.bytes = (size_t)bytes;
    ft.t.type = type->type;
    ft.name = mem_strdup(name);
    file_tensor_add(f, &ft);
    return 0;
}

static int read_header(struct model_file *f, const struct file_map *m, int map, size_t data, const char *path,
                       const json_t *root)
{
    const char *name;
    json_t *v;
    if (!json_is_object(root))
        return err_set(ERR_INPUT, "%s: the header is no JSON object", path);
    json_object_foreach((json_t *)(uintptr_t)root, name, v)
    {
        if (strcmp(name, "__metadata__") != 0)
            TRY(read_entry(f, m, map, data, path, name, v));
    }
    return 0;
}

int safetensors_add(struct model_file *f, const struct file_map *m, int map, const char *path)
{
    uint64_t n = 0;
    TRY(file_stand_in(path, m->data, m->bytes));
    if (m->bytes < 8)
        return err_set(ERR_INPUT, "%s: not a safetensors file (%zu bytes)", path, m->bytes);
    memcpy(&n, m->data, 8);
    if (n > HEADER_MAX || n > m->bytes - 8)
        return err_set(ERR_INPUT, "%s: header of %" PRIu64 " bytes in a file of %zu (limit %d)", path, n,
                       m->bytes, HEADER_MAX);
    json_error_t e;
    json_t *root = json_loadb((const char *)m->data + 8, (size_t)n, JSON_REJECT_DUPLICATES, &e);
    char s[80];
    int rc = root ? read_header(f, m, map, 8 + (size_t)n, path, root)
                  : err_set(ERR_INPUT, "%s: header is not JSON: %s", path, file_shown(s, e.text));
    json_decref(root);
    return rc;
}

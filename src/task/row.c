#include "task/row.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/json_line.h"

#include <limits.h>
#include <string.h>

int rows_open(struct rows *r, const char *path)
{
    *r = (struct rows){.path = path};
    TRY(file_map(&r->map, path));
    r->at = json_bom(r->map.data, r->map.bytes);
    int rc = file_stand_in(path, r->map.data, r->map.bytes);
    if (rc == 0 && r->map.bytes >= 2 &&
        (memcmp(r->map.data, "\xff\xfe", 2) == 0 || memcmp(r->map.data, "\xfe\xff", 2) == 0))
        rc = err_set(ERR_INPUT, "%s is UTF-16 text; it must be UTF-8", path);
    if (rc < 0)
        rows_close(r);
    return rc;
}

void rows_close(struct rows *r)
{
    file_unmap(&r->map);
}

static bool is_blank(const char *s, size_t n)
{
    while (n > 0 && strchr(" \t\r\f\v", s[n - 1]) && s[n - 1])
        n--;
    return n == 0;
}

static int parse(const struct rows *r, const char *text, size_t n, json_t **object)
{
    int rc = json_line(text, n, object);
    if (rc < 0)
        return err_prefix(rc, "%s:%d", r->path, r->line);
    if (json_is_object(*object))
        return 1;
    json_decref(*object);
    *object = NULL;
    return err_set(ERR_INPUT, "%s:%d: the line is not a JSON object", r->path, r->line);
}

int rows_next(struct rows *r, json_t **object)
{
    while (r->at < r->map.bytes) {
        const char *text = (const char *)r->map.data + r->at;
        const char *end = memchr(text, '\n', r->map.bytes - r->at);
        size_t n = end ? (size_t)(end - text) : r->map.bytes - r->at;
        r->at += n + (end != NULL);
        if (r->line == INT_MAX)
            return err_set(ERR_INPUT, "%s: too many lines", r->path);
        r->line++;
        if (!is_blank(text, n))
            return parse(r, text, n, object);
    }
    return 0;
}

int row_wrong(const struct rows *r, const json_t *v, const char *key, const char *wanted)
{
    return err_set(ERR_INPUT, "%s:%d: %s '%s'; it must be %s", r->path, r->line,
                   v ? "wrong type of" : "missing", key, wanted);
}

/* Prompts and answers are texts that end at a NUL. */
static int copy(const struct rows *r, struct task *t, const char *key, const json_t *string,
                const char **text)
{
    size_t n = json_string_length(string);
    if (memchr(json_string_value(string), 0, n))
        return err_set(ERR_INPUT,
                       "%s:%d: '%s' holds the character U+0000 (\\u0000); remove it, no prompt can hold it",
                       r->path, r->line, key);
    *text = task_own(t, mem_strndup(json_string_value(string), n));
    return 0;
}

int row_text(const struct rows *r, struct task *t, const json_t *object, const char *key, const char **text)
{
    const json_t *v = json_object_get(object, key);
    if (!json_is_string(v))
        return row_wrong(r, v, key, "a string");
    return copy(r, t, key, v, text);
}

int row_texts(const struct rows *r, struct task *t, const json_t *object, const char *key, bool need_one,
              const char *const **texts, int *n)
{
    static const char wanted[] = "a list of strings";
    const json_t *v = json_object_get(object, key);
    size_t count = json_array_size(v);
    if (!json_is_array(v) || count > INT_MAX)
        return row_wrong(r, v, key, wanted);
    if (need_one && count == 0)
        return err_set(ERR_INPUT, "%s:%d: '%s' is empty", r->path, r->line, key);
    const char **list = task_own(t, mem_alloc(count + 1, sizeof *list));
    for (size_t i = 0; i < count; i++) {
        const json_t *s = json_array_get(v, i);
        if (!json_is_string(s))
            return row_wrong(r, v, key, wanted);
        TRY(copy(r, t, key, s, &list[i]));
    }
    *texts = list;
    *n = (int)count;
    return 0;
}

int row_int(const struct rows *r, const json_t *object, const char *key, int32_t *v)
{
    const json_t *j = json_object_get(object, key);
    if (!json_is_integer(j) || json_integer_value(j) < 0 || json_integer_value(j) > INT32_MAX)
        return row_wrong(r, j, key, "a whole number from 0 to 2147483647");
    *v = (int32_t)json_integer_value(j);
    return 0;
}

/* Which layers a method acts on: those that keep all tokens, without skip_layers, and with window_layers=1
 * those with a window too. */
#include "base/err.h"
#include "kv/method.h"

#include <stdlib.h>
#include <string.h>

bool kv_spec_acts(const struct kv_spec *s, const struct seq_shape *shape, int32_t layer)
{
    const struct layer_kind *k = shape_kind(shape, layer);
    const bool sees = k->compress || (s->layers.windows && k->mixer == MIX_ATTENTION && k->window);
    return kv_acts(s->method) && sees && !s->layers.skip[layer];
}

uint64_t kv_spec_acted_bytes(const struct kv_spec *s, const struct seq_shape *shape, int64_t n)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < shape->n_layer; i++)
        sum += kv_spec_acts(s, shape, i) ? shape_layer_bytes(shape, i, n) : 0;
    return sum;
}

/* "30" or "0-1" at *at; *at moves behind it. */
static bool read_range(const char **at, long *from, long *to)
{
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    *from = *to = strtol(*at, &end, 10);
    if (*end == '-') {
        *at = end + 1;
        if (**at < '0' || **at > '9')
            return false;
        *to = strtol(*at, &end, 10);
    }
    *at = end;
    return *from <= *to && *to < SHAPE_LAYERS;
}

static int set_skip(struct kv_layers *l, const char *list, const char *where)
{
    for (const char *at = list;; at++) {
        long from, to;
        if (!read_range(&at, &from, &to) || (*at && *at != ';'))
            return err_set(
                ERR_INPUT,
                "%s: skip_layers=%s is not allowed; use layers from 0 to %d and ranges of them with "
                "';' between, as in 0-1;30",
                where, list, SHAPE_LAYERS - 1);
        for (long i = from; i <= to; i++)
            l->skip[i] = true;
        if (!*at)
            return 0;
    }
}

static int refuse_windows(const char *where)
{
    struct str able = {0};
    const struct kv_method *m;
    for (int i = 0; (m = kv_method_at(i)); i++)
        if (m->windows)
            str_printf(&able, "%s%s", able.n ? ", " : "", m->name);
    int rc = err_set(ERR_INPUT,
                     "%s: window_layers=1 is not allowed: it cannot act on layers with a window (%s can)",
                     where, str_c(&able));
    str_free(&able);
    return rc;
}

int kv_layers_set(struct kv_spec *s, const char *item, const char *where)
{
    const char *value = strchr(item, '=') + 1;
    if (!kv_acts(s->method))
        return err_set(ERR_INPUT, "%s: it has no '%.*s': it leaves the cache of every layer full", where,
                       (int)(value - item - 1), item);
    if (!strncmp(item, "skip_layers", 11))
        return set_skip(&s->layers, value, where);
    if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
        return err_set(ERR_INPUT, "%s: window_layers=%s is not allowed; use 0 or 1", where, value);
    s->layers.windows = *value == '1';
    return s->layers.windows && !s->method->windows ? refuse_windows(where) : 0;
}

void kv_layers_text(const struct kv_layers *l, struct str *out)
{
    bool any = false;
    for (int32_t i = 0, end; i < SHAPE_LAYERS; i = end) {
        for (end = i; end < SHAPE_LAYERS && l->skip[end]; end++)
            ;
        if (end == i) {
            end++;
            continue;
        }
        str_add(out, any ? ";" : out->n ? ",skip_layers=" : "skip_layers=");
        str_printf(out, "%d", (int)i);
        if (end > i + 1)
            str_printf(out, "-%d", (int)end - 1);
        any = true;
    }
    if (l->windows)
        str_add(out, out->n ? ",window_layers=1" : "window_layers=1");
}

/* Why no layer is left, of which some have windows. */
static int nothing_left(const struct kv_spec *s, const struct seq_shape *shape)
{
    int64_t window = 0;
    bool whole = false;
    for (int32_t i = 0; i < shape->n_kind; i++) {
        whole = whole || shape->kind[i].compress;
        window = max64(window, shape->kind[i].window);
    }
    if (whole || s->layers.windows)
        return err_set(ERR_INPUT, "method %s: skip_layers leaves no layer: there is nothing to compress",
                       s->method->name);
    if (!window)
        return err_set(ERR_INPUT,
                       "method %s: no layer of this model keeps all tokens: there is nothing to compress",
                       s->method->name);
    return err_set(
        ERR_INPUT,
        "method %s: no layer of this model keeps all tokens, they have windows of up to %lld: there "
        "is nothing to compress%s",
        s->method->name, (long long)window,
        s->method->windows ? " without window_layers=1" : ", and it cannot act on windows");
}

int kv_layers_check(const struct kv_spec *s, const struct seq_shape *shape)
{
    int32_t n = 0, last = 0;
    for (int32_t i = 0; i < SHAPE_LAYERS; i++)
        last = s->layers.skip[i] ? i : last;
    if (last >= shape->n_layer)
        return err_set(ERR_INPUT, "method %s: skip_layers names layer %d; the model has layers 0 to %d",
                       s->method->name, (int)last, (int)shape->n_layer - 1);
    for (int32_t i = 0; i < shape->n_layer; i++)
        n += kv_spec_acts(s, shape, i);
    return n ? 0 : nothing_left(s, shape);
}

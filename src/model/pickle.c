#include "model/pickle.h"

#include "base/err.h"
#include "base/mem.h"
#include "model/gguf.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum value_kind { P_NONE, P_BOOL, P_INT, P_TEXT, P_TUPLE, P_DICT, P_NAME, P_STORAGE, P_TENSOR, P_MARK };
static const char *const kind_name[] = {
    "None",      "a bool",   "a number", "a text", "a tuple", "a dictionary", "a function or class",
    "a storage", "a tensor", "a mark"};

/* What the names in a pickle stand for. */
enum known_name { N_DICT, N_REBUILD_TENSOR, N_REBUILD_PARAMETER, N_FLOAT, N_HALF, N_BFLOAT16, N_KNOWN };
static const struct {
    const char *module, *name;
    int32_t type; /* of a storage */
} known[N_KNOWN] = {
    {"collections", "OrderedDict", -1},         {"torch._utils", "_rebuild_tensor_v2", -1},
    {"torch._utils", "_rebuild_parameter", -1}, {"torch", "FloatStorage", GGML_F32},
    {"torch", "HalfStorage", GGML_F16},         {"torch", "BFloat16Storage", GGML_BF16},
};

/* A value of the pickle. Values live until the end of the reading; a tuple's items do not change. */
struct value {
    enum value_kind kind;
    int64_t i;        /* P_BOOL, P_INT; P_NAME: enum known_name; P_STORAGE: its number of values */
    const char *text; /* P_TEXT, P_STORAGE (its key): in the pickle, not NUL-terminated */
    size_t n_text;
    int32_t type;        /* P_STORAGE, P_TENSOR */
    struct value **item; /* P_TUPLE: [n]; P_DICT: [n] keys and values by turns; owned */
    int n, cap;
    struct value *storage, *shape; /* P_TENSOR */
    int64_t at;
};

struct machine {
    const unsigned char *p, *end, *begin;
    const char *path;
    struct value **stack, **memo, **all; /* all: owns every value */
    int n_stack, cap_stack, n_all, cap_all;
    size_t n_memo;
};

static int damaged(const struct machine *m, const char *what)
{
    return err_set(ERR_INPUT, "%s: damaged pickle: %s near byte %td", m->path, what, m->p - m->begin);
}

static struct value *make(struct machine *m, enum value_kind kind)
{
    struct value *v = mem_alloc(1, sizeof *v);
    v->kind = kind;
    *MEM_PUSH(m->all, m->n_all, m->cap_all) = v;
    return v;
}

static void push(struct machine *m, struct value *v)
{
    *MEM_PUSH(m->stack, m->n_stack, m->cap_stack) = v;
}

static struct value *push_new(struct machine *m, enum value_kind kind)
{
    struct value *v = make(m, kind);
    push(m, v);
    return v;
}

/* NULL when the stack is empty or ends in a mark. */
static struct value *pop(struct machine *m)
{
    if (m->n_stack == 0 || m->stack[m->n_stack - 1]->kind == P_MARK)
        return NULL;
    return m->stack[--m->n_stack];
}

static bool take(struct machine *m, void *out, size_t n)
{
    if ((size_t)(m->end - m->p) < n)
        return false;
    memcpy(out, m->p, n);
    m->p += n;
    return true;
}

/* A little-endian number of n <= 8 bytes. */
static bool take_number(struct machine *m, size_t n, uint64_t *v)
{
    unsigned char b[8] = {0};
    if (!take(m, b, n))
        return false;
    *v = 0;
    for (size_t i = n; i-- > 0;)
        *v = *v << 8 | b[i];
    return true;
}

static int push_text(struct machine *m, size_t length_bytes)
{
    uint64_t n;
    if (!take_number(m, length_bytes, &n) || n > (uint64_t)(m->end - m->p))
        return damaged(m, "a text longer than the file");
    struct value *v = push_new(m, P_TEXT);
    v->text = (const char *)m->p;
    v->n_text = (size_t)n;
    m->p += n;
    return 0;
}

/* Two's complement of n bytes. */
static int push_int(struct machine *m, size_t n, bool is_signed)
{
    uint64_t v;
    if (n > 8 || !take_number(m, n, &v))
        return damaged(m, "a number of more than 8 bytes");
    if (is_signed && n > 0 && n < 8 && v >> (8 * n - 1))
        v |= ~UINT64_C(0) << (8 * n);
    push_new(m, P_INT)->i = (int64_t)v;
    return 0;
}

static int push_long(struct machine *m)
{
    uint64_t n;
    return take_number(m, 1, &n) ? push_int(m, (size_t)n, true) : damaged(m, "a cut number");
}

static int push_bool(struct machine *m, bool b)
{
    push_new(m, P_BOOL)->i = b;
    return 0;
}

/* The line [p, …) up to a newline, which is passed over; NULL if there is none. */
static const char *take_line(struct machine *m, size_t *n)
{
    const unsigned char *from = m->p, *nl = memchr(from, '\n', (size_t)(m->end - from));
    if (!nl)
        return NULL;
    *n = (size_t)(nl - from);
    m->p = nl + 1;
    return (const char *)from;
}

static bool same(const char *text, size_t n, const char *word)
{
    return strlen(word) == n && memcmp(text, word, n) == 0;
}

static void shown(char out[64], const char *s, size_t n)
{
    size_t k = n < 60 ? n : 60;
    for (size_t i = 0; i < k; i++)
        out[i] = s[i] >= 0x20 && s[i] < 0x7f ? s[i] : '?';
    strcpy(out + k, k < n ? "..." : "");
}

static int push_name(struct machine *m)
{
    size_t n_module, n_name = 0;
    char module_shown[64], name_shown[64];
    const char *module = take_line(m, &n_module), *name = module ? take_line(m, &n_name) : NULL;
    if (!name)
        return damaged(m, "a cut name");
    for (int i = 0; i < N_KNOWN; i++)
        if (same(module, n_module, known[i].module) && same(name, n_name, known[i].name)) {
            push_new(m, P_NAME)->i = i;
            return 0;
        }
    shown(module_shown, module, n_module);
    shown(name_shown, name, n_name);
    return err_set(
        ERR_INPUT,
        "%s: the pickle names %s.%s, which is not among those that plain tensors need (nothing of it was "
        "executed)",
        m->path, module_shown, name_shown);
}

static int put_memo(struct machine *m, size_t index_bytes)
{
    uint64_t i;
    if (!take_number(m, index_bytes, &i) || m->n_stack == 0)
        return damaged(m, "nothing to remember");
    if (i >= (uint64_t)(m->end - m->begin)) /* every entry costs a byte at least */
        return damaged(m, "an impossible memo number");
    if (i >= m->n_memo) {
        size_t n = (size_t)i * 2 + 64;
        m->memo = mem_grow(m->memo, n, sizeof *m->memo);
        memset(m->memo + m->n_memo, 0, (n - m->n_memo) * sizeof *m->memo);
        m->n_memo = n;
    }
    m->memo[i] = m->stack[m->n_stack - 1];
    return 0;
}

static int get_memo(struct machine *m, size_t index_bytes)
{
    uint64_t i;
    if (!take_number(m, index_bytes, &i) || i >= m->n_memo || !m->memo[i] || m->memo[i]->kind == P_MARK)
        return damaged(m, "a memo number that was not set");
    push(m, m->memo[i]);
    return 0;
}

/* The top n values become a tuple. */
static int push_tuple(struct machine *m, int n)
{
    struct value *t = make(m, P_TUPLE);
    t->item = n ? mem_alloc((size_t)n, sizeof *t->item) : NULL;
    t->n = n;
    for (int i = n; i-- > 0;)
        if (!(t->item[i] = pop(m)))
            return damaged(m, "a tuple with too few values");
    push(m, t);
    return 0;
}

/* Values above the last mark, -1 if there is none. */
static int above_mark(const struct machine *m)
{
    for (int i = m->n_stack; i-- > 0;)
        if (m->stack[i]->kind == P_MARK)
            return m->n_stack - 1 - i;
    return -1;
}

static int push_marked_tuple(struct machine *m)
{
    int n = above_mark(m);
    if (n < 0)
        return damaged(m, "no mark");
    TRY(push_tuple(m, n));
    struct value *t = pop(m);
    m->stack[m->n_stack - 1] = t; /* in the mark's place */
    return 0;
}

/* The top n values, keys and values by turns, go into the dictionary below them (and below a mark). */
static int set_items(struct machine *m, int n, bool marked)
{
    int at = m->n_stack - n, dict = at - 1 - marked;
    if (n < 0 || n % 2 || dict < 0 || m->stack[dict]->kind != P_DICT)
        return damaged(m, "no dictionary to fill");
    struct value *d = m->stack[dict];
    for (int i = at; i < m->n_stack; i++) {
        if (m->stack[i]->kind == P_MARK)
            return damaged(m, "a mark among the items");
        *MEM_PUSH(d->item, d->n, d->cap) = m->stack[i];
    }
    m->n_stack = dict + 1;
    return 0;
}

/* ("storage", class, key, location, number of values): the location does not matter here. */
static int push_storage(struct machine *m)
{
    struct value *id = pop(m), **v = id ? id->item : NULL;
    if (!id || id->kind != P_TUPLE || id->n != 5 || v[0]->kind != P_TEXT ||
        !same(v[0]->text, v[0]->n_text, "storage") || v[1]->kind != P_NAME || known[v[1]->i].type < 0 ||
        v[2]->kind != P_TEXT || v[3]->kind != P_TEXT || v[4]->kind != P_INT || v[4]->i < 0)
        return damaged(m, "a persistent id that is no storage of weights");
    struct value *s = push_new(m, P_STORAGE);
    s->type = known[v[1]->i].type;
    s->text = v[2]->text;
    s->n_text = v[2]->n_text;
    s->i = v[4]->i;
    return 0;
}

static bool all_ints(const struct value *t)
{
    for (int i = 0; i < t->n; i++)
        if (t->item[i]->kind != P_INT || t->item[i]->i < 0)
            return false;
    return true;
}

/* Row-major without gaps; the stride of a dimension of one value does not matter. */
static int check_range(const struct machine *m, const struct value *t, const struct value *stride)
{
    int64_t count = 1, end;
    for (int i = t->shape->n; i-- > 0;) {
        int64_t n = t->shape->item[i]->i;
        if (n > 1 && stride->item[i]->i != count)
            return err_set(ERR_INPUT, "%s: a tensor is stored with strides that are not row-major", m->path);
        if (__builtin_mul_overflow(count, n, &count))
            return err_set(ERR_INPUT, "%s: a tensor has an impossible shape", m->path);
    }
    if (__builtin_add_overflow(t->at, count, &end) || end > t->storage->i)
        return err_set(ERR_INPUT, "%s: a tensor reaches beyond its storage of %" PRId64 " values", m->path,
                       t->storage->i);
    return 0;
}

/* _rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks[, metadata]) */
static int push_tensor(struct machine *m, const struct value *args)
{
    struct value **v = args->item;
    if (args->n < 6 || args->n > 7 || v[0]->kind != P_STORAGE || v[1]->kind != P_INT || v[1]->i < 0 ||
        v[2]->kind != P_TUPLE || v[3]->kind != P_TUPLE || v[2]->n != v[3]->n || !all_ints(v[2]) ||
        !all_ints(v[3]))
        return damaged(m, "a tensor with arguments of another kind");
    if (v[2]->n > 4)
        return err_set(ERR_INPUT, "%s: a tensor has %d dimensions, at most 4 are possible", m->path, v[2]->n);
    struct value *t = push_new(m, P_TENSOR);
    t->storage = v[0];
    t->type = v[0]->type;
    t->at = v[1]->i;
    t->shape = v[2];
    return check_range(m, t, v[3]);
}

static int reduce(struct machine *m)
{
    const struct value *args = pop(m), *name = pop(m);
    if (!args || !name || args->kind != P_TUPLE || name->kind != P_NAME)
        return damaged(m, "a call without a name or arguments");
    if (name->i == N_DICT && args->n == 0) {
        push_new(m, P_DICT);
        return 0;
    }
    if (name->i == N_REBUILD_TENSOR)
        return push_tensor(m, args);
    if (name->i == N_REBUILD_PARAMETER && args->n >= 1 && args->item[0]->kind == P_TENSOR) {
        push(m, args->item[0]);
        return 0;
    }
    return damaged(m, "a call with arguments of another kind");
}

/* The attributes of an OrderedDict (torch's _metadata): nothing that weights need. */
static int build(struct machine *m)
{
    const struct value *state = pop(m);
    if (!state || state->kind != P_DICT || m->n_stack == 0 || m->stack[m->n_stack - 1]->kind != P_DICT)
        return damaged(m, "attributes of something that is no dictionary");
    return 0;
}

static int protocol(struct machine *m)
{
    uint64_t v;
    if (!take_number(m, 1, &v))
        return damaged(m, "no protocol");
    return v <= 5 ? 0 : err_set(ERR_INPUT, "%s: pickle protocol %" PRIu64 "; known are 0 to 5", m->path, v);
}

/* One opcode but STOP; names as in Python's pickletools. */
static int step(struct machine *m, unsigned char op)
{
    switch (op) {
    case 0x80: /* PROTO */
        return protocol(m);
    case '}': /* EMPTY_DICT */
        push_new(m, P_DICT);
        return 0;
    case ')': /* EMPTY_TUPLE */
        return push_tuple(m, 0);
    case '(': /* MARK */
        push_new(m, P_MARK);
        return 0;
    case 'c': /* GLOBAL */
        return push_name(m);
    case 'q': /* BINPUT */
        return put_memo(m, 1);
    case 'r': /* LONG_BINPUT */
        return put_memo(m, 4);
    case 'h': /* BINGET */
        return get_memo(m, 1);
    case 'j': /* LONG_BINGET */
        return get_memo(m, 4);
    case 'X': /* BINUNICODE */
        return push_text(m, 4);
    case 0x8c: /* SHORT_BINUNICODE */
        return push_text(m, 1);
    case 'J': /* BININT */
        return push_int(m, 4, true);
    case 'K': /* BININT1 */
        return push_int(m, 1, false);
    case 'M': /* BININT2 */
        return push_int(m, 2, false);
    case 0x8a: /* LONG1 */
        return push_long(m);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return push_bool(m, op == 0x88);
    case 'N': /* NONE */
        push_new(m, P_NONE);
        return 0;
    case 't': /* TUPLE */
        return push_marked_tuple(m);
    case 0x85: /* TUPLE1 to TUPLE3 */
    case 0x86:
    case 0x87:
        return push_tuple(m, op - 0x84);
    case 'Q': /* BINPERSID */
        return push_storage(m);
    case 'R': /* REDUCE */
        return reduce(m);
    case 's': /* SETITEM */
        return set_items(m, 2, false);
    case 'u': /* SETITEMS */
        return set_items(m, above_mark(m), true);
    case 'b': /* BUILD */
        return build(m);
    default:
        return err_set(
            ERR_INPUT,
            "%s: the pickle uses opcode 0x%02x at byte %td, which a dictionary of tensors does not need "
            "(nothing of it was executed)",
            m->path, op, m->p - 1 - m->begin);
    }
}

static int run(struct machine *m, struct value **result)
{
    unsigned char op;
    while (take(m, &op, 1)) {
        if (op == '.') { /* STOP */
            *result = pop(m);
            return *result ? 0 : damaged(m, "nothing at the end");
        }
        TRY(step(m, op));
    }
    return damaged(m, "no end");
}

static int add_tensor(const struct machine *m, const struct value *key, const struct value *v,
                      struct pickle_tensor *out)
{
    char name[64];
    if (key->kind != P_TEXT || memchr(key->text, 0, key->n_text))
        return err_set(ERR_INPUT, "%s: a key of the dictionary is %s, not the name of a tensor", m->path,
                       kind_name[key->kind]);
    shown(name, key->text, key->n_text);
    if (v->kind != P_TENSOR)
        return err_set(ERR_INPUT, "%s: '%s' is %s, not a tensor", m->path, name, kind_name[v->kind]);
    *out = (struct pickle_tensor){.name = mem_strndup(key->text, key->n_text),
                                  .storage = mem_strndup(v->storage->text, v->storage->n_text),
                                  .type = v->type,
                                  .n_dim = v->shape->n,
                                  .n = {1, 1, 1, 1},
                                  .at = v->at,
                                  .n_storage = v->storage->i};
    for (int i = 0; i < v->shape->n; i++)
        out->n[i] = v->shape->item[i]->i;
    return 0;
}

static int take_tensors(struct machine *m, struct pickle_tensor **t, int *n)
{
    struct value *root = NULL;
    TRY(run(m, &root));
    if (root->kind != P_DICT)
        return err_set(ERR_INPUT, "%s: holds %s, not a dictionary of tensors", m->path,
                       kind_name[root->kind]);
    *t = mem_alloc((size_t)root->n / 2 + 1, sizeof **t);
    for (int i = 0; i + 1 < root->n; i += 2) {
        TRY(add_tensor(m, root->item[i], root->item[i + 1], &(*t)[*n]));
        (*n)++;
    }
    return 0;
}

int pickle_read(const unsigned char *data, size_t bytes, const char *path, struct pickle_tensor **t, int *n)
{
    struct machine m = {.p = data, .begin = data, .end = data + bytes, .path = path};
    *t = NULL;
    *n = 0;
    int rc = take_tensors(&m, t, n);
    for (int i = 0; i < m.n_all; i++) {
        free(m.all[i]->item);
        free(m.all[i]);
    }
    free(m.all);
    free(m.stack);
    free(m.memo);
    if (rc < 0) {
        pickle_free(*t, *n);
        *t = NULL;
        *n = 0;
    }
    return rc;
}

void pickle_free(struct pickle_tensor *t, int n)
{
    for (int i = 0; i < n; i++) {
        free(t[i].name);
        free(t[i].storage);
    }
    free(t);
}

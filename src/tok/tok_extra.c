/* Tokens that stand in the files beside tokenizer.json alone. The field's library (transformers 5.24,
 * tokenization_utils_tokenizers.py, TokenizersBackend.__init__) adds them to what tokenizer.json has. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"
#include "tok/tok_json.h"

/* A token to add and the id that its file states, -1 where it states none. */
struct extra {
    struct added_token token; /* text borrowed from the JSON */
    long id;
};
struct extras {
    struct extra *v;
    size_t n, cap;
};

static int read_flags(const json_t *j, const char *where, struct added_token *a)
{
    const char *text;
    TRY(tok_json_text(j, "content", true, where, &text, &a->n));
    a->text = (char *)(uintptr_t)text; /* tok_add copies it */
    TRY(tok_json_bool(j, "special", a->special, where, &a->special));
    TRY(tok_json_bool(j, "normalized", !a->special, where, &a->normalized));
    TRY(tok_json_bool(j, "single_word", false, where, &a->single_word));
    TRY(tok_json_bool(j, "lstrip", false, where, &a->lstrip));
    return tok_json_bool(j, "rstrip", false, where, &a->rstrip);
}

/* added_tokens_decoder: {"32000": {"content": …, flags}, …} */
static int read_decoder(struct extras *e, const json_t *map)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, key, v)
    {
        char where[64], *end;
        snprintf(where, sizeof where, "added_tokens_decoder.%.20s", key);
        struct extra x = {.id = strtol(key, &end, 10)};
        if (!*key || *end || x.id < 0 || x.id > TOK_MAX_ID)
            return err_set(ERR_INPUT, "%s: the key must be a token id from 0 to %d", where, TOK_MAX_ID);
        TRY(read_flags(v, where, &x.token));
        *MEM_PUSH(e->v, e->n, e->cap) = x;
    }
    return 0;
}

/* added_tokens.json of older files: {"<|im_end|>": 32000, …}; special where a name of the configuration is.
 */
static int read_old(struct extras *e, const json_t *map, const struct extras *named)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, key, v)
    {
        double id = json_number_value(v);
        struct extra x = {.token = {.text = (char *)(uintptr_t)key, .n = strlen(key)}, .id = (long)id};
        if (!json_is_number(v) || id < 0 || id > TOK_MAX_ID)
            return err_set(ERR_INPUT, "added_tokens.json: the id of \"%.40s\" must be a number from 0 to %d",
                           key, TOK_MAX_ID);
        for (size_t i = 0; i < named->n; i++)
            x.token.special = x.token.special || !strcmp(named->v[i].token.text, key);
        x.token.normalized = !x.token.special;
        *MEM_PUSH(e->v, e->n, e->cap) = x;
    }
    return 0;
}

/* "<s>" or {"content": "<s>", …}; `special`: what an object is that does not say. */
static int read_named(struct extras *e, const json_t *v, bool special, const char *where)
{
    struct extra x = {.token = {.special = special}, .id = -1};
    if (json_is_object(v)) {
        TRY(read_flags(v, where, &x.token));
    } else {
        x.token.text = (char *)(uintptr_t)json_string_value(v);
        x.token.n = json_string_length(v);
    }
    x.token.special = true;
    if (x.token.n)
        *MEM_PUSH(e->v, e->n, e->cap) = x;
    return 0;
}

static int read_all_named(struct extras *e, const json_t *j, bool special, const char *where)
{
    static const char *const lists[] = {"extra_special_tokens", "additional_special_tokens"};
    for (int i = 0; i < TOK_N_ROLE; i++)
        TRY(read_named(e, json_object_get(j, tok_role_key[i]), special, where));
    for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) {
        const json_t *list = json_object_get(j, lists[k]);
        for (size_t i = 0; i < json_array_size(list); i++)
            TRY(read_named(e, json_array_get(list, i), special, where));
    }
    return 0;
}

static int by_id(const void *a, const void *b)
{
    const struct extra *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* Named tokens that are added tokens already stay as they are; a text of the vocabulary becomes special and
 * keeps its id. What is special once stays so. */
static int put(struct tok *t, const struct extra *x)
{
    int32_t id, at = tok_map_get(&t->added_map, x->token.text, x->token.n);
    struct added_token a = x->token;
    if (x->id < 0 && at >= 0)
        return 0;
    a.special = a.special || (at >= 0 && t->added[at].special);
    return tok_add(t, &a, (int32_t)x->id, &id);
}

static int add_all(struct tok *t, const json_t *config, const json_t *map, const json_t *old)
{
    struct extras stated = {0}, named = {0};
    const json_t *decoder = json_object_get(config, "added_tokens_decoder");
    int rc = read_all_named(&named, config, false, "tokenizer_config.json");
    if (rc == 0 && !decoder)
        rc = read_all_named(&named, map, true, "special_tokens_map.json");
    if (rc == 0)
        rc = decoder ? read_decoder(&stated, decoder) : read_old(&stated, old, &named);
    if (stated.n)
        qsort(stated.v, stated.n, sizeof *stated.v, by_id);
    for (size_t i = 0; i < stated.n && rc == 0; i++)
        rc = put(t, &stated.v[i]);
    for (size_t i = 0; i < named.n && rc == 0; i++)
        rc = put(t, &named.v[i]);
    free(stated.v);
    free(named.v);
    return rc;
}

int tok_read_extra(struct tok *t, const char *dir)
{
    json_t *config = NULL, *map = NULL, *old = NULL;
    int rc = tok_config_load(dir, "tokenizer_config.json", &config);
    if (rc == 0)
        rc = tok_config_load(dir, "special_tokens_map.json", &map);
    if (rc == 0)
        rc = tok_config_load(dir, "added_tokens.json", &old);
    if (rc == 0 && (rc = add_all(t, config, map, old)) < 0)
        rc = err_prefix(rc, "%s", dir);
    json_decref(config);
    json_decref(map);
    json_decref(old);
    return rc;
}

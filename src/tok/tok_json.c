/* tokenizer.json, the file of the field's `tokenizers` library: model, normalizer, pre_tokenizer,
 * post_processor, decoder and added_tokens. What cannot be followed exactly is refused. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_int.h"
#include "tok/tok_json.h"

const char *const TOK_PATTERN_GPT2 =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char *const TOK_PATTERN_LLAMA3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char *const TOK_PATTERN_QWEN2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

bool tok_json_given(const json_t *j)
{
    return j && !json_is_null(j);
}

const char *tok_json_type(const json_t *j)
{
    const char *type = json_string_value(json_object_get(j, "type"));
    return type ? type : "";
}

int tok_json_unsupported(const char *where, const json_t *j, const char *allowed)
{
    const char *type = tok_json_type(j);
    if (!json_is_object(j) || !*type)
        return err_set(ERR_INPUT, "%s: an object with a \"type\" is expected (%s)", where, allowed);
    return err_set(ERR_INPUT, "%s: type \"%.40s\" is not supported (%s)", where, type, allowed);
}

int tok_json_bool(const json_t *j, const char *key, bool def, const char *where, bool *out)
{
    const json_t *v = json_object_get(j, key);
    *out = tok_json_given(v) ? json_is_true(v) : def;
    return !tok_json_given(v) || json_is_boolean(v)
               ? 0
               : err_set(ERR_INPUT, "%s.%s: true or false is expected", where, key);
}

int tok_json_text(const json_t *j, const char *key, bool need, const char *where, const char **out, size_t *n)
{
    const json_t *v = json_object_get(j, key);
    *out = json_string_value(v);
    *n = json_string_length(v);
    if (*out || (!need && !tok_json_given(v)))
        return 0;
    return err_set(ERR_INPUT, "%s.%s: a text is expected", where, key);
}

static int get_count(const json_t *j, const char *key, const char *where, int64_t *out)
{
    const json_t *v = json_object_get(j, key);
    *out = json_integer_value(v);
    if (json_is_integer(v) && *out >= 0)
        return 0;
    return err_set(ERR_INPUT, "%s.%s: a number from 0 on is expected", where, key);
}

/* {"String": …} or {"Regex": …} */
static int read_pattern(struct step *s, const json_t *j, const char *where)
{
    const json_t *pattern = json_object_get(j, "pattern");
    const json_t *plain = json_object_get(pattern, "String"), *regex = json_object_get(pattern, "Regex");
    if (json_is_string(plain)) {
        step_set_pattern(s, json_string_value(plain), json_string_length(plain));
        return 0;
    }
    if (json_is_string(regex) && strlen(json_string_value(regex)) == json_string_length(regex))
        return tok_regex_open(&s->regex, json_string_value(regex), where);
    return err_set(ERR_INPUT, "%s.pattern: {\"String\": text} or {\"Regex\": text} is expected", where);
}

static int read_replace(struct steps *steps, const json_t *j, const char *where)
{
    struct step *s = steps_add(steps, STEP_REPLACE);
    const char *text;
    size_t n;
    TRY(read_pattern(s, j, where));
    TRY(tok_json_text(j, "content", true, where, &text, &n));
    step_set_content(s, text, n);
    return 0;
}

static int one_char(const char *text, size_t n, const char *where, const char *key)
{
    uint32_t cp;
    if (n && (size_t)utf8_get(text, n, &cp) == n)
        return 0;
    return err_set(ERR_INPUT, "%s.%s: one character is expected", where, key);
}

/* Pre-tokenizer and decoder have the same members; old files have add_prefix_space instead of prepend_scheme.
 */
static int read_metaspace(struct steps *steps, const json_t *j, const char *where)
{
    struct step *s = steps_add(steps, STEP_METASPACE);
    const char *text, *scheme;
    size_t n, n_scheme;
    bool prefix;
    TRY(tok_json_text(j, "replacement", true, where, &text, &n));
    TRY(one_char(text, n, where, "replacement"));
    step_set_content(s, text, n);
    TRY(tok_json_bool(j, "split", true, where, &s->split));
    TRY(tok_json_bool(j, "add_prefix_space", true, where, &prefix));
    TRY(tok_json_text(j, "prepend_scheme", false, where, &scheme, &n_scheme));
    if (!scheme)
        scheme = "always";
    if (!prefix || strcmp(scheme, "never") == 0)
        s->scheme = PREPEND_NEVER;
    else if (strcmp(scheme, "first") == 0)
        s->scheme = PREPEND_FIRST;
    else if (strcmp(scheme, "always") != 0)
        return err_set(ERR_INPUT, "%s.prepend_scheme: always, first or never, not \"%.20s\"", where, scheme);
    return 0;
}

typedef int read_step(struct steps *steps, const json_t *j, const char *where);

/* "Sequence" objects are flattened. */
static int read_sequence(struct steps *steps, const json_t *j, const char *key, const char *where,
                         read_step *read)
{
    const json_t *list = json_object_get(j, key);
    if (!json_is_array(list))
        return err_set(ERR_INPUT, "%s.%s: a list is expected", where, key);
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v)
    {
        char *inner = mem_printf("%s[%zu]", where, i);
        int rc =
            strlen(inner) > 200 ? err_set(ERR_INPUT, "%s: nested too deeply", inner) : read(steps, v, inner);
        free(inner);
        TRY(rc);
    }
    return 0;
}

static int read_charsmap(struct steps *steps, const json_t *j, const char *where)
{
    const char *text;
    size_t n;
    struct str bytes = {0};
    TRY(tok_json_text(j, "precompiled_charsmap", true, where, &text, &n));
    int rc = base64_add(&bytes, text, n)
                 ? charsmap_open(&steps_add(steps, STEP_CHARSMAP)->charsmap, str_c(&bytes), bytes.n, where)
                 : err_set(ERR_INPUT, "%s.precompiled_charsmap: not valid base64", where);
    str_free(&bytes);
    return rc;
}

static int read_normalizer(struct steps *steps, const json_t *j, const char *where)
{
    static const struct {
        const char *type;
        enum step_kind kind;
    } plain[] = {{"NFC", STEP_NFC},
                 {"NFD", STEP_NFD},
                 {"NFKC", STEP_NFKC},
                 {"NFKD", STEP_NFKD},
                 {"ByteLevel", STEP_BYTES}};
    const char *type = tok_json_type(j), *text;
    size_t n;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (strcmp(type, plain[i].type) == 0) {
            steps_add(steps, plain[i].kind);
            return 0;
        }
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(steps, j, "normalizers", where, read_normalizer);
    if (strcmp(type, "Replace") == 0)
        return read_replace(steps, j, where);
    if (strcmp(type, "Precompiled") == 0)
        return read_charsmap(steps, j, where);
    if (strcmp(type, "Prepend") == 0) {
        TRY(tok_json_text(j, "prepend", true, where, &text, &n));
        step_set_content(steps_add(steps, STEP_PREPEND), text, n);
        return 0;
    }
    if (strcmp(type, "Strip") == 0) {
        struct step *s = steps_add(steps, STEP_TRIM);
        bool left, right;
        TRY(tok_json_bool(j, "strip_left", true, where, &left));
        TRY(tok_json_bool(j, "strip_right", true, where, &right));
        s->start = left;
        s->stop = right;
        return 0;
    }
    return tok_json_unsupported(
        where, j, "known: NFC NFD NFKC NFKD Precompiled Prepend Replace Strip ByteLevel Sequence");
}

static int read_split(struct steps *steps, const json_t *j, const char *where)
{
    static const struct {
        const char *name;
        enum split_behavior behavior;
    } known[] = {{"Removed", SPLIT_REMOVED},
                 {"Isolated", SPLIT_ISOLATED},
                 {"MergedWithPrevious", SPLIT_PREVIOUS},
                 {"MergedWithNext", SPLIT_NEXT},
                 {"Contiguous", SPLIT_CONTIGUOUS}};
    struct step *s = steps_add(steps, STEP_SPLIT);
    const char *name;
    size_t n;
    TRY(read_pattern(s, j, where));
    TRY(tok_json_bool(j, "invert", false, where, &s->invert));
    TRY(tok_json_text(j, "behavior", true, where, &name, &n));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            s->behavior = known[i].behavior;
            return 0;
        }
    return err_set(
        ERR_INPUT,
        "%s.behavior: \"%.30s\" is not Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
        where, name);
}

static int read_byte_level(struct steps *steps, const json_t *j, const char *where)
{
    bool prefix, regex;
    TRY(tok_json_bool(j, "add_prefix_space", true, where, &prefix));
    TRY(tok_json_bool(j, "use_regex", true, where, &regex));
    if (prefix)
        steps_add(steps, STEP_PREFIX);
    if (regex) {
        struct step *s = steps_add(steps, STEP_SPLIT);
        s->behavior = SPLIT_ISOLATED;
        TRY(tok_regex_open(&s->regex, TOK_PATTERN_GPT2, where));
    }
    steps_add(steps, STEP_BYTES);
    return 0;
}

static int read_pre(struct steps *steps, const json_t *j, const char *where)
{
    const char *type = tok_json_type(j);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(steps, j, "pretokenizers", where, read_pre);
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(steps, j, where);
    if (strcmp(type, "Split") == 0)
        return read_split(steps, j, where);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(steps, j, where);
    if (strcmp(type, "WhitespaceSplit") == 0) {
        steps_add(steps, STEP_SPACES)->behavior = SPLIT_REMOVED;
        return 0;
    }
    if (strcmp(type, "Digits") == 0) {
        struct step *s = steps_add(steps, STEP_DIGITS);
        bool individual;
        TRY(tok_json_bool(j, "individual_digits", false, where, &individual));
        s->behavior = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return 0;
    }
    return tok_json_unsupported(where, j, "known: ByteLevel Split Digits Metaspace WhitespaceSplit Sequence");
}

static int read_strip_decoder(struct steps *steps, const json_t *j, const char *where)
{
    struct step *s = steps_add(steps, STEP_STRIP);
    const char *text;
    size_t n;
    TRY(tok_json_text(j, "content", true, where, &text, &n));
    TRY(one_char(text, n, where, "content"));
    step_set_content(s, text, n);
    TRY(get_count(j, "start", where, &s->start));
    return get_count(j, "stop", where, &s->stop);
}

static int read_decoder(struct steps *steps, const json_t *j, const char *where)
{
    const char *type = tok_json_type(j);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(steps, j, "decoders", where, read_decoder);
    if (strcmp(type, "Replace") == 0)
        return read_replace(steps, j, where);
    if (strcmp(type, "Strip") == 0)
        return read_strip_decoder(steps, j, where);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(steps, j, where);
    if (strcmp(type, "ByteLevel") == 0)
        steps_add(steps, STEP_BYTES);
    else if (strcmp(type, "ByteFallback") == 0)
        steps_add(steps, STEP_BYTE_FALLBACK);
    else if (strcmp(type, "Fuse") == 0)
        steps_add(steps, STEP_FUSE);
    else
        return tok_json_unsupported(where, j,
                                    "known: ByteLevel ByteFallback Fuse Replace Strip Metaspace Sequence");
    return 0;
}

static int read_added(struct tok *t, const json_t *list)
{
    if (tok_json_given(list) && !json_is_array(list))
        return err_set(ERR_INPUT, "added_tokens: a list is expected");
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v)
    {
        char where[40];
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        struct added_token a = {0};
        const char *text;
        int64_t id;
        TRY(tok_json_text(v, "content", true, where, &text, &a.n));
        TRY(get_count(v, "id", where, &id));
        if (id > TOK_MAX_ID)
            return err_set(ERR_INPUT, "%s.id: above %d", where, TOK_MAX_ID);
        TRY(tok_json_bool(v, "special", false, where, &a.special));
        TRY(tok_json_bool(v, "normalized", !a.special, where, &a.normalized));
        TRY(tok_json_bool(v, "single_word", false, where, &a.single_word));
        TRY(tok_json_bool(v, "lstrip", false, where, &a.lstrip));
        TRY(tok_json_bool(v, "rstrip", false, where, &a.rstrip));
        a.text = (char *)(uintptr_t)text; /* tok_add copies it */
        TRY(tok_add(t, &a, (int32_t)id, &a.id));
    }
    return 0;
}

/* ---- post-processor ---- */

static void insert_ids(struct ids *to, const struct ids *from, bool front)
{
    size_t old = to->n;
    for (size_t i = 0; i < from->n; i++)
        *MEM_PUSH(to->v, to->n, to->cap) = from->v[i];
    if (front && old && from->n) {
        memmove(to->v + from->n, to->v, old * sizeof *to->v);
        memcpy(to->v, from->v, from->n * sizeof *to->v);
    }
}

static int add_template_token(struct ids *out, const json_t *tokens, const json_t *item, const char *where)
{
    const char *name = json_string_value(json_object_get(item, "id"));
    const json_t *ids = json_object_get(name ? json_object_get(tokens, name) : NULL, "ids");
    if (!json_is_array(ids))
        return err_set(ERR_INPUT, "%s.special_tokens: no ids for \"%.40s\"", where, name ? name : "");
    size_t i;
    json_t *v;
    json_array_foreach(ids, i, v)
    {
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > TOK_MAX_ID)
            return err_set(ERR_INPUT, "%s.special_tokens: bad id for \"%.40s\"", where, name);
        *MEM_PUSH(out->v, out->n, out->cap) = (int32_t)id;
    }
    return 0;
}

static int read_template_items(struct ids side[2], const json_t *j, const char *where)
{
    const json_t *single = json_object_get(j, "single"), *tokens = json_object_get(j, "special_tokens");
    size_t i, n_text = 0;
    json_t *v;
    json_array_foreach(single, i, v)
    {
        const json_t *special = json_object_get(v, "SpecialToken");
        if (special)
            TRY(add_template_token(&side[n_text > 0], tokens, special, where));
        else if (json_object_get(v, "Sequence"))
            n_text++;
        else
            return err_set(ERR_INPUT, "%s.single[%zu]: SpecialToken or Sequence is expected", where, i);
    }
    return n_text == 1 ? 0 : err_set(ERR_INPUT, "%s.single: exactly one Sequence is expected", where);
}

static int read_template(struct tok *t, const json_t *j, const char *where)
{
    struct ids side[2] = {{0}, {0}};
    int rc = read_template_items(side, j, where);
    if (rc >= 0) {
        insert_ids(&t->before, &side[0], true);
        insert_ids(&t->after, &side[1], false);
    }
    free(side[0].v);
    free(side[1].v);
    return rc;
}

static int read_post(struct tok *t, const json_t *j, int depth)
{
    const char *type = tok_json_type(j), *where = "post_processor";
    if (strcmp(type, "ByteLevel") == 0) /* only moves offsets */
        return 0;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(t, j, where);
    if (strcmp(type, "Sequence") != 0 || depth > 8)
        return tok_json_unsupported(where, j, "known: TemplateProcessing ByteLevel Sequence");
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(j, "processors"), i, v) TRY(read_post(t, v, depth + 1));
    return 0;
}

static int read_root(struct tok *t, const json_t *j)
{
    const json_t *v;
    if (!json_is_object(j))
        return err_set(ERR_INPUT, "an object is expected");
    TRY(tok_read_model(t, json_object_get(j, "model")));
    if (tok_json_given(v = json_object_get(j, "normalizer")))
        TRY(read_normalizer(&t->normalizer, v, "normalizer"));
    if (tok_json_given(v = json_object_get(j, "pre_tokenizer")))
        TRY(read_pre(&t->pre, v, "pre_tokenizer"));
    if (tok_json_given(v = json_object_get(j, "post_processor")))
        TRY(read_post(t, v, 0));
    t->has_decoder = tok_json_given(v = json_object_get(j, "decoder"));
    if (t->has_decoder)
        TRY(read_decoder(&t->decoder, v, "decoder"));
    return read_added(t, json_object_get(j, "added_tokens"));
}

int tok_json_file(const char *path, size_t flags, json_t **j)
{
    char *text;
    size_t n;
    json_error_t why;
    *j = NULL;
    TRY(file_read(path, &text, &n));
    int rc = file_stand_in(path, text, n);
    if (rc == 0 && !(*j = json_loadb(text, n, JSON_ALLOW_NUL | flags, &why)))
        rc = err_set(ERR_INPUT, "%s: not readable as JSON: line %d: %s", path, why.line, why.text);
    free(text);
    return rc;
}

int tok_read_json(struct tok *t, const char *path)
{
    json_t *j;
    TRY(tok_json_file(path, 0, &j));
    int rc = read_root(t, j);
    json_decref(j);
    return rc < 0 ? err_prefix(rc, "%s", path) : 0;
}

/* tokenizer.json, the file of the field's `tokenizers` library: model, normalizer, pre_tokenizer,
 * post_processor, decoder and added_tokens. What cannot be followed exactly is refused. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"

const char *const TOK_PATTERN_GPT2 =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char *const TOK_PATTERN_LLAMA3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char *const TOK_PATTERN_QWEN2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static bool is(const json_t *j)
{
    return j && !json_is_null(j);
}

static const char *type_of(const json_t *j)
{
    const char *type = json_string_value(json_object_get(j, "type"));
    return type ? type : "";
}

static int unsupported(const char *where, const json_t *j, const char *allowed)
{
    const char *type = type_of(j);
    if (!json_is_object(j) || !*type)
        return err_set(ERR_INPUT, "%s: an object with a \"type\" is expected (%s)", where, allowed);
    return err_set(ERR_INPUT, "%s: type \"%.40s\" is not supported (%s)", where, type, allowed);
}

static int get_bool(const json_t *j, const char *key, bool def, const char *where, bool *out)
{
    const json_t *v = json_object_get(j, key);
    *out = is(v) ? json_is_true(v) : def;
    return !is(v) || json_is_boolean(v) ? 0
                                        : err_set(ERR_INPUT, "%s.%s: true or false is expected", where, key);
}

/* A text member; NULL when it is absent or null and `need` is false. */
static int get_text(const json_t *j, const char *key, bool need, const char *where, const char **out,
                    size_t *n)
{
    const json_t *v = json_object_get(j, key);
    *out = json_string_value(v);
    *n = json_string_length(v);
    if (*out || (!need && !is(v)))
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
    TRY(get_text(j, "content", true, where, &text, &n));
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
    TRY(get_text(j, "replacement", true, where, &text, &n));
    TRY(one_char(text, n, where, "replacement"));
    step_set_content(s, text, n);
    TRY(get_bool(j, "split", true, where, &s->split));
    TRY(get_bool(j, "add_prefix_space", true, where, &prefix));
    TRY(get_text(j, "prepend_scheme", false, where, &scheme, &n_scheme));
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
    TRY(get_text(j, "precompiled_charsmap", true, where, &text, &n));
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
    const char *type = type_of(j), *text;
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
        TRY(get_text(j, "prepend", true, where, &text, &n));
        step_set_content(steps_add(steps, STEP_PREPEND), text, n);
        return 0;
    }
    if (strcmp(type, "Strip") == 0) {
        struct step *s = steps_add(steps, STEP_TRIM);
        bool left, right;
        TRY(get_bool(j, "strip_left", true, where, &left));
        TRY(get_bool(j, "strip_right", true, where, &right));
        s->start = left;
        s->stop = right;
        return 0;
    }
    return unsupported(where, j,
                       "known: NFC NFD NFKC NFKD Precompiled Prepend Replace Strip ByteLevel Sequence");
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
    TRY(get_bool(j, "invert", false, where, &s->invert));
    TRY(get_text(j, "behavior", true, where, &name, &n));
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
    TRY(get_bool(j, "add_prefix_space", true, where, &prefix));
    TRY(get_bool(j, "use_regex", true, where, &regex));
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
    const char *type = type_of(j);
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
        TRY(get_bool(j, "individual_digits", false, where, &individual));
        s->behavior = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return 0;
    }
    return unsupported(where, j, "known: ByteLevel Split Digits Metaspace WhitespaceSplit Sequence");
}

static int read_strip_decoder(struct steps *steps, const json_t *j, const char *where)
{
    struct step *s = steps_add(steps, STEP_STRIP);
    const char *text;
    size_t n;
    TRY(get_text(j, "content", true, where, &text, &n));
    TRY(one_char(text, n, where, "content"));
    step_set_content(s, text, n);
    TRY(get_count(j, "start", where, &s->start));
    return get_count(j, "stop", where, &s->stop);
}

static int read_decoder(struct steps *steps, const json_t *j, const char *where)
{
    const char *type = type_of(j);
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
        return unsupported(where, j, "known: ByteLevel ByteFallback Fuse Replace Strip Metaspace Sequence");
    return 0;
}

/* ---- model ---- */

static int read_vocab(struct bpe *b, const json_t *vocab)
{
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return err_set(ERR_INPUT, "model.vocab: an object of texts and ids is expected");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)vocab, key, v)
    {
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > TOK_MAX_ID)
            return err_set(ERR_INPUT, "model.vocab: the id of \"%.40s\" must be a number from 0 to %d", key,
                           TOK_MAX_ID);
        tok_map_put(&b->vocab, key, strlen(key), (int32_t)id);
    }
    return 0;
}

/* "left right" or ["left", "right"] */
static int merge_sides(const json_t *v, const char *side[2], size_t n[2])
{
    if (json_is_array(v) && json_array_size(v) == 2) {
        for (size_t i = 0; i < 2; i++) {
            side[i] = json_string_value(json_array_get(v, i));
            n[i] = json_string_length(json_array_get(v, i));
        }
        return side[0] && side[1] ? 0 : -1;
    }
    const char *text = json_string_value(v), *blank = text ? memchr(text, ' ', json_string_length(v)) : NULL;
    if (!blank)
        return -1;
    side[0] = text;
    n[0] = (size_t)(blank - text);
    side[1] = blank + 1;
    n[1] = json_string_length(v) - n[0] - 1;
    return memchr(side[1], ' ', n[1]) ? -1 : 0;
}

static int put_merge(struct bpe *b, const char *const side[2], const size_t n[2], int32_t rank)
{
    int32_t left = tok_map_get(&b->vocab, side[0], n[0]), right = tok_map_get(&b->vocab, side[1], n[1]);
    size_t skip = b->prefix ? strlen(b->prefix) : 0;
    struct str whole = {0};
    str_addn(&whole, side[0], n[0]);
    str_addn(&whole, side[1] + (skip < n[1] ? skip : n[1]), n[1] - (skip < n[1] ? skip : n[1]));
    int32_t id = tok_map_get(&b->vocab, str_c(&whole), whole.n);
    str_free(&whole);
    if (left < 0 || right < 0 || id < 0)
        return err_set(ERR_INPUT, "model.merges[%d]: \"%.30s\" + \"%.30s\": %s is not in the vocabulary",
                       rank, side[0], side[1],
                       left < 0    ? "the left side"
                       : right < 0 ? "the right side"
                                   : "the result");
    tok_merges_put(&b->merges, left, right, rank, id);
    return 0;
}

static int read_merges(struct bpe *b, const json_t *merges)
{
    if (!json_is_array(merges) || json_array_size(merges) > INT32_MAX)
        return err_set(ERR_INPUT, "model.merges: a list is expected");
    size_t i;
    json_t *v;
    json_array_foreach(merges, i, v)
    {
        const char *side[2];
        size_t n[2];
        if (merge_sides(v, side, n) < 0)
            return err_set(ERR_INPUT,
                           "model.merges[%zu]: \"left right\" or [\"left\", \"right\"] is expected", i);
        TRY(put_merge(b, side, n, (int32_t)i));
    }
    return 0;
}

static int read_bpe(struct bpe *b, const json_t *j)
{
    const char *text;
    size_t n;
    TRY(get_text(j, "continuing_subword_prefix", false, "model", &text, &n));
    b->prefix = text && n ? mem_strdup(text) : NULL;
    TRY(get_text(j, "end_of_word_suffix", false, "model", &text, &n));
    b->suffix = text && n ? mem_strdup(text) : NULL;
    TRY(get_bool(j, "fuse_unk", false, "model", &b->fuse_unk));
    TRY(get_bool(j, "byte_fallback", false, "model", &b->byte_fallback));
    TRY(get_bool(j, "ignore_merges", false, "model", &b->ignore_merges));
    TRY(read_vocab(b, json_object_get(j, "vocab")));
    TRY(read_merges(b, json_object_get(j, "merges")));
    TRY(get_text(j, "unk_token", false, "model", &text, &n));
    if (text && (b->unk = tok_map_get(&b->vocab, text, n)) < 0)
        return err_set(ERR_INPUT, "model.unk_token: \"%.40s\" is not in the vocabulary", text);
    return 0;
}

/* Numbers reach the library as the JSON parser of its language makes them: the digits as one integer,
 * rounded, then multiplied or divided by a power of ten, rounded again. That can differ in the last bit from
 * the nearest double, and in a Unigram the last bit decides between equally good paths. */
static double library_number(double v)
{
    char text[32];
    str_double(text, v);
    double digits = 0, power = 1;
    int64_t exponent = 0, whole = 0;
    const char *p = text + (*text == '-');
    for (bool point = false; (*p >= '0' && *p <= '9') || *p == '.'; p++) {
        point = point || *p == '.';
        if (*p == '.')
            continue;
        whole = 10 * whole + (*p - '0'); /* the shortest text has at most 17 digits */
        exponent -= point;
    }
    int64_t e = 0;
    if (*p == 'e' && str_to_int(p + 1 + (p[1] == '+'), &e))
        exponent += e;
    if (exponent > 22 || exponent < -300)
        return v;
    digits = (double)whole;
    for (int64_t i = exponent < 0 ? -exponent : exponent; i > 0; i--)
        power *= 10;
    digits = exponent < 0 ? digits / power : digits * power;
    return *text == '-' ? -digits : digits;
}

static int read_pieces(struct tok *t, const json_t *vocab)
{
    if (!json_is_array(vocab) || !json_array_size(vocab) || json_array_size(vocab) > TOK_MAX_ID)
        return err_set(ERR_INPUT, "model.vocab: a list of 1 to %d [text, score] is expected", TOK_MAX_ID);
    size_t i;
    json_t *v;
    json_array_foreach(vocab, i, v)
    {
        const json_t *text = json_array_get(v, 0), *score = json_array_get(v, 1);
        if (json_array_size(v) != 2 || !json_is_string(text) || !json_is_number(score))
            return err_set(ERR_INPUT, "model.vocab[%zu]: [text, score] is expected", i);
        unigram_add(&t->unigram, &t->bpe.vocab, json_string_value(text), json_string_length(text),
                    library_number(json_number_value(score)));
    }
    return 0;
}

static int read_unigram(struct tok *t, const json_t *j)
{
    const json_t *unk = json_object_get(j, "unk_id");
    TRY(get_bool(j, "byte_fallback", false, "model", &t->unigram.byte_fallback));
    TRY(read_pieces(t, json_object_get(j, "vocab")));
    if (!is(unk))
        return 0;
    json_int_t id = json_integer_value(unk);
    if (!json_is_integer(unk) || id < 0 || id >= t->unigram.n)
        return err_set(ERR_INPUT, "model.unk_id: an id of the vocabulary (0 to %d) is expected",
                       t->unigram.n - 1);
    t->unigram.unk = (int32_t)id;
    return 0;
}

static int read_model(struct tok *t, const json_t *j)
{
    const char *type = type_of(j);
    if (strcmp(type, "BPE") == 0 || (json_is_object(j) && !*type && json_object_get(j, "merges")))
        return read_bpe(&t->bpe, j);
    if (strcmp(type, "Unigram") == 0)
        return read_unigram(t, j);
    return unsupported("model", j, "known: BPE Unigram");
}

static int read_added(struct tok *t, const json_t *list)
{
    if (is(list) && !json_is_array(list))
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
        TRY(get_text(v, "content", true, where, &text, &a.n));
        TRY(get_count(v, "id", where, &id));
        if (id > TOK_MAX_ID)
            return err_set(ERR_INPUT, "%s.id: above %d", where, TOK_MAX_ID);
        TRY(get_bool(v, "special", false, where, &a.special));
        TRY(get_bool(v, "normalized", !a.special, where, &a.normalized));
        TRY(get_bool(v, "single_word", false, where, &a.single_word));
        TRY(get_bool(v, "lstrip", false, where, &a.lstrip));
        TRY(get_bool(v, "rstrip", false, where, &a.rstrip));
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
    const char *type = type_of(j), *where = "post_processor";
    if (strcmp(type, "ByteLevel") == 0) /* only moves offsets */
        return 0;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(t, j, where);
    if (strcmp(type, "Sequence") != 0 || depth > 8)
        return unsupported(where, j, "known: TemplateProcessing ByteLevel Sequence");
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
    TRY(read_model(t, json_object_get(j, "model")));
    if (is(v = json_object_get(j, "normalizer")))
        TRY(read_normalizer(&t->normalizer, v, "normalizer"));
    if (is(v = json_object_get(j, "pre_tokenizer")))
        TRY(read_pre(&t->pre, v, "pre_tokenizer"));
    if (is(v = json_object_get(j, "post_processor")))
        TRY(read_post(t, v, 0));
    t->has_decoder = is(v = json_object_get(j, "decoder"));
    if (t->has_decoder)
        TRY(read_decoder(&t->decoder, v, "decoder"));
    return read_added(t, json_object_get(j, "added_tokens"));
}

int tok_read_json(struct tok *t, const char *path)
{
    json_error_t why;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &why);
    if (!j)
        return err_set(ERR_INPUT, "%s: not readable as JSON: line %d: %s", path, why.line, why.text);
    int rc = read_root(t, j);
    json_decref(j);
    return rc < 0 ? err_prefix(rc, "%s", path) : 0;
}

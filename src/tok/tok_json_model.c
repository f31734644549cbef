/* The "model" of a tokenizer.json: BPE and Unigram. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"
#include "tok/tok_json.h"

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
    TRY(tok_json_text(j, "continuing_subword_prefix", false, "model", &text, &n));
    b->prefix = text && n ? mem_strdup(text) : NULL;
    TRY(tok_json_text(j, "end_of_word_suffix", false, "model", &text, &n));
    b->suffix = text && n ? mem_strdup(text) : NULL;
    TRY(tok_json_bool(j, "fuse_unk", false, "model", &b->fuse_unk));
    TRY(tok_json_bool(j, "byte_fallback", false, "model", &b->byte_fallback));
    TRY(tok_json_bool(j, "ignore_merges", false, "model", &b->ignore_merges));
    TRY(read_vocab(b, json_object_get(j, "vocab")));
    TRY(read_merges(b, json_object_get(j, "merges")));
    TRY(tok_json_text(j, "unk_token", false, "model", &text, &n));
    if (text && (b->unk = tok_map_get(&b->vocab, text, n)) < 0)
        return err_set(ERR_INPUT, "model.unk_token: \"%.40s\" is not in the vocabulary", text);
    return 0;
}

static double power_of_ten(int64_t n)
{
    char text[32];
    double v = 1;
    for (int64_t i = 0; i < n && n <= 22; i++) /* these are exact */
        v *= 10;
    if (n > 22) {
        snprintf(text, sizeof text, "1e%d", (int)n);
        (void)str_to_double(text, &v);
    }
    return v;
}

/* Digits of the shortest text that reads back as v (at most 17), without the point, and the power of ten that
 * belongs to them. */
static int64_t shortest_digits(double v, int64_t *exponent)
{
    char text[40];
    int64_t digits = 0;
    for (int n = 15; n <= 17; n++) { /* whatever has fewer than 15 digits comes out with fewer */
        snprintf(text, sizeof text, "%.*e", n - 1, v);
        if (strtod(text, NULL) == v)
            break;
    }
    const char *p = text, *e = strchr(text, 'e');
    *exponent = strtol(e + 1, NULL, 10) + 1;
    size_t end = (size_t)(e - text);
    while (end > 1 && text[end - 1] == '0')
        end--;
    for (; p < text + end; p++) {
        if (*p == '.')
            continue;
        digits = 10 * digits + (*p - '0');
        *exponent -= 1;
    }
    return digits;
}

/* Numbers reach the library as the JSON parser of its language makes them: the digits as one integer,
 * rounded, then multiplied or divided by a power of ten, rounded again. That can differ in the last bit from
 * the nearest double, and in a Unigram the last bit decides between equally good paths. The digits are those
 * of the shortest text, which is what writers of such files put there. */
static double library_number(double v)
{
    int64_t exponent;
    double size = v < 0 ? -v : v, out = (double)shortest_digits(size, &exponent);
    if (exponent >= 0 && size < 1e16) { /* a whole number is written with ".0", which is one more digit */
        out = (double)((int64_t)size * 10);
        exponent = -1;
    }
    for (; exponent < -308; exponent += 308)
        out /= 1e308;
    out = exponent < 0 ? out / power_of_ten(-exponent) : out * power_of_ten(exponent);
    return v < 0 ? -out : out;
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
    TRY(tok_json_bool(j, "byte_fallback", false, "model", &t->unigram.byte_fallback));
    TRY(read_pieces(t, json_object_get(j, "vocab")));
    if (!tok_json_given(unk))
        return 0;
    json_int_t id = json_integer_value(unk);
    if (!json_is_integer(unk) || id < 0 || id >= t->unigram.n)
        return err_set(ERR_INPUT, "model.unk_id: an id of the vocabulary (0 to %d) is expected",
                       t->unigram.n - 1);
    t->unigram.unk = (int32_t)id;
    return 0;
}

int tok_read_model(struct tok *t, const json_t *j)
{
    const char *type = tok_json_type(j);
    if (strcmp(type, "BPE") == 0 || (json_is_object(j) && !*type && json_object_get(j, "merges")))
        return read_bpe(&t->bpe, j);
    if (strcmp(type, "Unigram") == 0)
        return read_unigram(t, j);
    return tok_json_unsupported("model", j, "known: BPE Unigram");
}

/* SentencePiece: merges from scores, the steps around the model, and the model file itself (BPE, protocol
 * buffers). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_int.h"

enum { MAX_TOKEN_BYTES = 4096 }; /* splitting a token tries every place: the work grows with the square */

struct split {
    float score;
    int32_t n_left, n_right; /* in characters */
    int32_t left, right, id;
    int64_t order;
};

struct splits {
    struct split *v;
    size_t n, cap;
};

/* Splits of one token: by left id, then right id. */
static int compare_sides(const void *x, const void *y)
{
    const struct split *a = x, *b = y;
    if (a->left != b->left)
        return a->left < b->left ? -1 : 1;
    return (a->right > b->right) - (a->right < b->right);
}

/* Best score first, then the longer left and right side, then the order in which they were found. */
static int compare_rank(const void *x, const void *y)
{
    const struct split *a = x, *b = y;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->n_left != b->n_left)
        return a->n_left > b->n_left ? -1 : 1;
    if (a->n_right != b->n_right)
        return a->n_right > b->n_right ? -1 : 1;
    return (a->order > b->order) - (a->order < b->order);
}

static int32_t count_chars(const char *s, size_t n)
{
    int32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

static void split_token(const struct bpe *b, const char *s, int32_t id, float score, struct splits *all)
{
    size_t n = strlen(s), first = all->n;
    int32_t n_all = count_chars(s, n), n_left = 0;
    for (size_t at = 1; at < n; at++) {
        if (((unsigned char)s[at] & 0xc0) == 0x80)
            continue;
        n_left++;
        int32_t left = tok_map_get(&b->vocab, s, at);
        int32_t right = left < 0 ? -1 : tok_map_get(&b->vocab, s + at, n - at);
        if (right >= 0)
            *MEM_PUSH(all->v, all->n, all->cap) =
                (struct split){score, n_left, n_all - n_left, left, right, id, 0};
    }
    if (all->n > first)
        qsort(all->v + first, all->n - first, sizeof *all->v, compare_sides);
}

static int collect_splits(const struct bpe *b, const char *const *token, const float *score, int32_t n,
                          struct splits *all)
{
    for (int32_t i = 0; i < n; i++) {
        if (tok_map_get(&b->vocab, token[i], strlen(token[i])) != i)
            continue;
        if (strlen(token[i]) > MAX_TOKEN_BYTES)
            return err_set(ERR_INPUT, "token %d has %zu bytes, at most %d are possible", i, strlen(token[i]),
                           MAX_TOKEN_BYTES);
        if (isnan(score[i]))
            return err_set(ERR_INPUT, "the score of token %d is not a number", i);
        split_token(b, token[i], i, score[i], all);
    }
    return 0;
}

int tok_merges_from_scores(struct bpe *b, const char *const *token, const float *score, int32_t n)
{
    struct splits all = {0};
    int rc = collect_splits(b, token, score, n, &all);
    for (size_t i = 0; i < all.n; i++)
        all.v[i].order = (int64_t)i;
    if (rc >= 0 && all.n) {
        qsort(all.v, all.n, sizeof *all.v, compare_rank);
        for (size_t i = 0; i < all.n; i++)
            tok_merges_put(&b->merges, all.v[i].left, all.v[i].right, (int32_t)i, all.v[i].id);
    }
    free(all.v);
    return rc;
}

void tok_set_llama(struct tok *t, bool add_space_prefix, bool legacy)
{
    t->bpe.fuse_unk = t->bpe.byte_fallback = true;
    struct step *s;
    if (legacy) {
        if (add_space_prefix)
            step_set_content(steps_add(&t->normalizer, STEP_PREPEND), TOK_BLANK, 3);
        s = steps_add(&t->normalizer, STEP_REPLACE);
        step_set_pattern(s, " ", 1);
        step_set_content(s, TOK_BLANK, 3);
    } else {
        s = steps_add(&t->pre, STEP_METASPACE);
        step_set_content(s, TOK_BLANK, 3);
        s->scheme = add_space_prefix ? PREPEND_FIRST : PREPEND_NEVER;
    }
    t->has_decoder = true;
    s = steps_add(&t->decoder, STEP_REPLACE);
    step_set_pattern(s, TOK_BLANK, 3);
    step_set_content(s, " ", 1);
    steps_add(&t->decoder, STEP_BYTE_FALLBACK);
    steps_add(&t->decoder, STEP_FUSE);
    if (!add_space_prefix)
        return;
    s = steps_add(&t->decoder, STEP_STRIP);
    step_set_content(s, " ", 1);
    s->start = 1;
}

/* ---- the model file ---- */

struct field {
    uint32_t number, wire;
    uint64_t value;            /* wire 0, 1, 5 */
    const unsigned char *data; /* wire 2 */
    size_t n;
};

struct reader {
    const unsigned char *p;
    size_t n;
};

static bool read_varint(struct reader *r, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (!r->n)
            return false;
        r->n--;
        unsigned char c = *r->p++;
        *v |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80)
            return true;
    }
    return false;
}

static bool read_fixed(struct reader *r, size_t n, uint64_t *v)
{
    *v = 0;
    if (r->n < n)
        return false;
    for (size_t i = 0; i < n; i++)
        *v |= (uint64_t)r->p[i] << (8 * i);
    r->p += n;
    r->n -= n;
    return true;
}

static bool read_field(struct reader *r, struct field *f)
{
    uint64_t tag;
    *f = (struct field){0};
    if (!read_varint(r, &tag))
        return false;
    f->number = (uint32_t)(tag >> 3);
    f->wire = tag & 7;
    if (f->wire == 0)
        return read_varint(r, &f->value);
    if (f->wire == 1 || f->wire == 5)
        return read_fixed(r, f->wire == 1 ? 8 : 4, &f->value);
    if (f->wire != 2 || !read_varint(r, &f->value) || f->value > r->n)
        return false;
    f->data = r->p;
    f->n = (size_t)f->value;
    r->p += f->n;
    r->n -= f->n;
    return true;
}

struct spm {
    char **token;
    float *score;
    int32_t *type;
    size_t n, cap_token, cap_score, cap_type;
    int64_t model_type, unk, bos, eos;
    bool dummy_prefix, extra_blanks, escape, suffix, charsmap;
};

/* message SentencePiece { piece = 1; score = 2; type = 3; } */
static bool read_piece(struct spm *m, struct reader r)
{
    char *text = mem_strdup("");
    float score = 0;
    int32_t type = 1;
    bool ok = true;
    for (struct field f; r.n && (ok = read_field(&r, &f));) {
        if (f.number == 1 && f.wire == 2) {
            free(text);
            text = mem_strndup((const char *)f.data, f.n);
        } else if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, 4);
        } else if (f.number == 3 && f.wire == 0) {
            type = (int32_t)(f.value & 0xff);
        }
    }
    size_t n = m->n;
    *MEM_PUSH(m->token, n, m->cap_token) = text;
    n = m->n;
    *MEM_PUSH(m->score, n, m->cap_score) = score;
    *MEM_PUSH(m->type, m->n, m->cap_type) = type;
    return ok;
}

/* message TrainerSpec { model_type = 3; treat_whitespace_as_suffix = 24; unk_id = 40; bos_id; eos_id; } */
static void put_trainer(struct spm *m, const struct field *f)
{
    int64_t v = (int32_t)(uint32_t)f->value;
    if (f->number == 3)
        m->model_type = v;
    else if (f->number == 24)
        m->suffix = v != 0;
    else if (f->number >= 40 && f->number <= 42)
        *(f->number == 40 ? &m->unk : f->number == 41 ? &m->bos : &m->eos) = v;
}

/* message NormalizerSpec { precompiled_charsmap = 2; add_dummy_prefix = 3; remove_extra_whitespaces = 4;
 * escape_whitespaces = 5; } */
static void put_normalizer(struct spm *m, const struct field *f)
{
    if (f->number == 2)
        m->charsmap = m->charsmap || f->n > 0;
    else if (f->number >= 3 && f->number <= 5)
        *(f->number == 3 ? &m->dummy_prefix : f->number == 4 ? &m->extra_blanks : &m->escape) = f->value != 0;
}

/* The normalizer of decoded text has a message of its own kind, of which a map alone would matter. */
static void put_denormalizer(struct spm *m, const struct field *f)
{
    if (f->number == 2)
        put_normalizer(m, f);
}

typedef void put_field(struct spm *m, const struct field *f);

static bool read_spec(struct spm *m, struct reader r, put_field *put)
{
    bool ok = true;
    for (struct field f; r.n && (ok = read_field(&r, &f));)
        put(m, &f);
    return ok;
}

/* message ModelProto { pieces = 1; trainer_spec = 2; normalizer_spec = 3; denormalizer_spec = 5; } */
static bool read_model(struct spm *m, struct reader r)
{
    static put_field *const spec[] = {[2] = put_trainer, [3] = put_normalizer, [5] = put_denormalizer};
    bool ok = true;
    for (struct field f; ok && r.n && (ok = read_field(&r, &f));) {
        struct reader inner = {f.data, f.n};
        if (f.number == 1 && f.wire == 2 && m->n < TOK_MAX_ID)
            ok = read_piece(m, inner);
        else if (f.number < sizeof spec / sizeof *spec && spec[f.number] && f.wire == 2)
            ok = read_spec(m, inner, spec[f.number]);
    }
    return ok && m->n > 0;
}

static int check_model(const struct spm *m)
{
    static const char *const type[] = {"", "unigram", "BPE", "word", "char"};
    enum { BPE = 2 };
    if (m->model_type != BPE)
        return err_set(ERR_INPUT, "trainer_spec.model_type: only 2 (BPE) is supported, not %lld (%s)",
                       (long long)m->model_type,
                       m->model_type > 0 && m->model_type < 5 ? type[m->model_type] : "unknown");
    if (m->suffix)
        return err_set(ERR_INPUT, "trainer_spec.treat_whitespace_as_suffix: only false is supported");
    if (m->charsmap)
        return err_set(ERR_INPUT, "normalizer_spec: character maps are not supported (only \"identity\")");
    if (m->extra_blanks)
        return err_set(ERR_INPUT, "normalizer_spec.remove_extra_whitespaces: only false is supported");
    if (!m->escape)
        return err_set(ERR_INPUT, "normalizer_spec.escape_whitespaces: only true is supported");
    return 0;
}

/* SentencePiece looks for its user-defined pieces after blanks have become U+2581. One that holds a blank
 * itself keeps it from that, which the raw text shows. */
static void find_in_normal(struct tok *t)
{
    for (size_t i = 0; i < t->n_added; i++) {
        struct added_token *a = &t->added[i];
        if (!a->special && !memchr(a->text, ' ', a->n))
            a->normalized = a->as_is = true;
    }
}

static int use_model(struct tok *t, const struct spm *m, bool legacy)
{
    TRY(check_model(m));
    const struct tok_gguf g = {.token = (const char *const *)m->token,
                               .score = m->score,
                               .type = m->type,
                               .n_token = (int32_t)m->n,
                               .bos = (int32_t)m->bos,
                               .eos = (int32_t)m->eos,
                               .unk = (int32_t)m->unk,
                               .add_bos = -1,
                               .add_eos = -1,
                               .add_space_prefix = m->dummy_prefix};
    TRY(tok_read_scores(t, &g, legacy));
    find_in_normal(t);
    return 0;
}

int tok_read_spm(struct tok *t, const char *path, bool legacy)
{
    struct spm m = {/* the values of an absent field */
                    .model_type = 1,      .bos = 1,      .eos = 2, .dummy_prefix = true,
                    .extra_blanks = true, .escape = true};
    char *data;
    size_t n;
    TRY(file_read(path, &data, &n));
    int rc = file_stand_in(path, data, n);
    if (rc < 0) {
        free(data);
        return rc;
    }
    if (read_model(&m, (struct reader){(const unsigned char *)data, n}))
        rc = use_model(t, &m, legacy);
    else
        rc = err_set(ERR_INPUT, "not a SentencePiece model");
    for (size_t i = 0; i < m.n; i++)
        free(m.token[i]);
    free(m.token);
    free(m.score);
    free(m.type);
    free(data);
    return rc < 0 ? err_prefix(rc, "%s", path) : 0;
}

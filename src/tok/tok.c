#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_int.h"

struct tok *tok_new(void)
{
    struct tok *t = mem_alloc(1, sizeof *t);
    t->bpe.unk = t->unigram.unk = t->bos = t->eos = -1;
    for (int i = 0; i < TOK_N_ROLE; i++)
        t->role[i] = -1;
    added_trie_init(&t->world);
    added_trie_init(&t->trie);
    added_trie_init(&t->trie_normalized);
    return t;
}

void tok_close(struct tok *t)
{
    if (!t)
        return;
    bpe_free(&t->bpe);
    unigram_free(&t->unigram);
    free(t->text);
    free(t->n_text);
    free(t->special);
    for (size_t i = 0; i < t->n_added; i++)
        free(t->added[i].text);
    free(t->added);
    tok_map_free(&t->added_map);
    added_trie_free(&t->world);
    added_trie_free(&t->trie);
    added_trie_free(&t->trie_normalized);
    steps_free(&t->normalizer);
    steps_free(&t->pre);
    steps_free(&t->decoder);
    free(t->before.v);
    free(t->after.v);
    free(t->stop.v);
    free(t);
}

static int32_t next_free_id(const struct tok *t)
{
    int32_t next = t->unigram.n ? t->unigram.n : (int32_t)t->bpe.vocab.n;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id >= next)
            next = t->added[i].id + 1;
    return next;
}

int tok_add(struct tok *t, const struct added_token *a, int32_t want, int32_t *id)
{
    *id = -1;
    if (!a->n)
        return 0;
    int32_t at = tok_map_get(&t->added_map, a->text, a->n);
    *id = at >= 0 ? t->added[at].id : tok_map_get(&t->bpe.vocab, a->text, a->n);
    if (*id < 0)
        *id = next_free_id(t);
    if (want >= 0 && want != *id)
        return err_set(ERR_INPUT, "added token \"%.40s\": id %d, but the vocabulary makes it %d", a->text,
                       want, *id);
    if (*id > TOK_MAX_ID)
        return err_set(ERR_INPUT, "added token \"%.40s\": id %d is above %d", a->text, *id, TOK_MAX_ID);
    if (at < 0) {
        at = (int32_t)t->n_added;
        *MEM_PUSH(t->added, t->n_added, t->cap_added) =
            (struct added_token){.text = mem_strndup(a->text, a->n)};
        tok_map_put(&t->added_map, a->text, a->n, at);
    }
    char *text = t->added[at].text;
    t->added[at] = *a;
    t->added[at].text = text;
    t->added[at].id = *id;
    return 0;
}

/* Tokens flagged "normalized" are looked for in normalized text, by their normalized text (by their own, if
 * they say so). */
static int put_normalized(struct tok *t, struct steps_run *run, size_t k)
{
    const struct added_token *a = &t->added[k];
    struct pieces p = {0};
    if (a->as_is) {
        added_trie_put(&t->trie_normalized, a->text, a->n, (int32_t)k);
        return 0;
    }
    pieces_add(&p, a->text, a->n);
    int rc = steps_split(run, &p);
    if (rc >= 0 && p.n == 1)
        added_trie_put(&t->trie_normalized, p.text.data + p.span[0].at, p.span[0].n, (int32_t)k);
    pieces_free(&p);
    return rc;
}

static int build_tries(struct tok *t)
{
    struct steps_run run;
    added_trie_free(&t->trie);
    added_trie_free(&t->trie_normalized);
    steps_run_open(&run, &t->normalizer);
    int rc = 0;
    for (int special = 1; special >= 0; special--) /* special tokens come first where texts collide */
        for (size_t i = 0; i < t->n_added && rc >= 0; i++) {
            if (t->added[i].special != (special == 1))
                continue;
            if (t->added[i].normalized)
                rc = put_normalized(t, &run, i);
            else
                added_trie_put(&t->trie, t->added[i].text, t->added[i].n, (int32_t)i);
        }
    steps_run_close(&run);
    return rc;
}

static void set_text(struct tok *t, int32_t id, const char *text, size_t n)
{
    t->text[id] = text;
    t->n_text[id] = (uint32_t)n;
}

/* Everything that follows from the vocabulary and the added tokens. */
static int index_tokens(struct tok *t)
{
    const struct tok_map *vocab = &t->bpe.vocab;
    for (size_t i = 0; i < vocab->cap; i++)
        if (vocab->slot[i].key && vocab->slot[i].value >= t->n_vocab)
            t->n_vocab = vocab->slot[i].value + 1;
    if (t->n_vocab < t->unigram.n)
        t->n_vocab = t->unigram.n;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id >= t->n_vocab)
            t->n_vocab = t->added[i].id + 1;
    size_t n = (size_t)t->n_vocab + 1;
    free(t->text);
    free(t->n_text);
    free(t->special);
    t->text = mem_alloc(n, sizeof *t->text);
    t->n_text = mem_alloc(n, sizeof *t->n_text);
    t->special = mem_alloc(n, sizeof *t->special);
    for (size_t i = 0; i < vocab->cap; i++)
        if (vocab->slot[i].key)
            set_text(t, vocab->slot[i].value, vocab->slot[i].key, vocab->slot[i].n);
    for (int32_t i = 0; i < t->unigram.n; i++) /* equal texts share one entry of the vocabulary */
        set_text(t, i, t->unigram.piece[i], t->unigram.n_piece[i]);
    for (size_t i = 0; i < t->n_added; i++) {
        set_text(t, t->added[i].id, t->added[i].text, t->added[i].n);
        t->special[t->added[i].id] = t->added[i].special;
    }
    return build_tries(t);
}

int tok_finish(struct tok *t)
{
    if (t->unigram.n)
        unigram_finish(&t->unigram, &t->bpe.vocab);
    else
        bpe_finish(&t->bpe);
    TRY(index_tokens(t));
    if (t->world.n) { /* id 0 is no text but the end */
        t->eos = 0;
        t->special[0] = true;
    }
    return 0;
}

int tok_add_special(struct tok *t, const char *const *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct added_token a = {.text = (char *)(uintptr_t)text[i],
                                      .n = strlen(text[i]),
                                      .special = true}; /* tok_add copies it */
        int32_t id;
        TRY(tok_add(t, &a, -1, &id));
    }
    return index_tokens(t);
}

/* The first of the three files that is there; tokenizer.json's absence is said where none is. */
static int read_vocabulary(struct tok *t, const char *dir)
{
    char *json = file_join(dir, "tokenizer.json"), *spm = file_join(dir, "tokenizer.model"),
         *world = file_join(dir, TOK_WORLD_FILE);
    int rc;
    if (!file_exists(json) && file_exists(spm)) {
        bool legacy = true;
        rc = tok_config_legacy(dir, &legacy);
        rc = rc < 0 ? rc : tok_read_spm(t, spm, legacy);
    } else if (!file_exists(json) && file_exists(world)) {
        rc = tok_read_world(t, world);
    } else {
        rc = tok_read_json(t, json);
    }
    free(json);
    free(spm);
    free(world);
    return rc;
}

static int open_dir(struct tok *t, const char *dir)
{
    TRY(read_vocabulary(t, dir));
    TRY(tok_read_extra(t, dir));
    int rc = tok_finish(t);
    if (rc < 0)
        return err_prefix(rc, "%s", dir);
    return tok_read_config(t, dir);
}

int tok_open_dir(struct tok **out, const char *dir)
{
    struct tok *t = tok_new();
    int rc = open_dir(t, dir);
    if (rc < 0) {
        tok_close(t);
        t = NULL;
    }
    *out = t;
    return rc;
}

int32_t tok_n_vocab(const struct tok *t)
{
    return t->n_vocab;
}

int32_t tok_bos(const struct tok *t)
{
    return t->bos;
}

int32_t tok_eos(const struct tok *t)
{
    return t->eos;
}

int32_t tok_role_id(const struct tok *t, enum tok_role role)
{
    if (role == TOK_BOS || role == TOK_EOS)
        return role == TOK_BOS ? t->bos : t->eos;
    if (role == TOK_UNK && t->role[role] < 0)
        return t->unigram.n ? t->unigram.unk : t->bpe.unk;
    return t->role[role];
}

const char *tok_piece(const struct tok *t, int32_t id)
{
    return id >= 0 && id < t->n_vocab ? t->text[id] : NULL;
}

int32_t tok_id(const struct tok *t, const char *text)
{
    size_t n = strlen(text);
    int32_t at = tok_map_get(&t->added_map, text, n);
    return at >= 0 ? t->added[at].id : tok_map_get(&t->bpe.vocab, text, n);
}

int tok_stop_ids(const struct tok *t, const int32_t **ids)
{
    *ids = t->stop.n ? t->stop.v : &t->eos;
    return t->stop.n ? (int)t->stop.n : t->eos >= 0;
}

void tok_set_stop_ids(struct tok *t, const int32_t *ids, int n)
{
    t->stop.n = 0;
    for (int i = 0; i < n; i++)
        *MEM_PUSH(t->stop.v, t->stop.n, t->stop.cap) = ids[i];
    if (t->eos < 0 && n)
        t->eos = ids[0];
}

int64_t tok_n_outside(const struct tok *t, const int32_t *ids, int64_t n)
{
    int64_t outside = 0;
    for (int64_t i = 0; i < n; i++)
        outside += !tok_piece(t, ids[i]);
    return outside;
}

bool tok_is_special(const struct tok *t, int32_t id)
{
    return id >= 0 && id < t->n_vocab && t->special[id];
}

/* ---- text to ids ---- */

struct encode {
    const struct tok *tok;
    struct steps_run normalizer, pre;
    struct bpe_run *bpe;
    struct pieces normal, pieces;
    struct added_cuts cuts, inner;
    struct ids ids;
    struct pieces *texts; /* one for each id; NULL: not wanted */
};

static void encode_open(struct encode *e, const struct tok *t, struct pieces *texts)
{
    *e = (struct encode){.tok = t, .texts = texts};
    steps_run_open(&e->normalizer, &t->normalizer);
    steps_run_open(&e->pre, &t->pre);
    e->bpe = bpe_run_open(&t->bpe);
}

static void encode_close(struct encode *e)
{
    steps_run_close(&e->normalizer);
    steps_run_close(&e->pre);
    bpe_run_close(e->bpe);
    pieces_free(&e->normal);
    pieces_free(&e->pieces);
    free(e->cuts.v);
    free(e->inner.v);
    free(e->ids.v);
}

static void add_ids(struct ids *ids, const int32_t *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        *MEM_PUSH(ids->v, ids->n, ids->cap) = v[i];
}

static void add_added(struct encode *e, int32_t token, const char *s, size_t n)
{
    add_ids(&e->ids, &e->tok->added[token].id, 1);
    if (e->texts)
        pieces_add(e->texts, s, n);
}

static int encode_piece(struct encode *e, const char *s, size_t n)
{
    const struct tok *t = e->tok;
    if (t->unigram.n)
        return unigram_encode(&t->unigram, &t->bpe.vocab, s, n, &e->ids, e->texts);
    size_t at = e->ids.n;
    if (t->world.n)
        world_encode(&t->world, s, n, &e->ids);
    else
        bpe_encode(e->bpe, s, n, &e->ids);
    for (; e->texts && at < e->ids.n; at++)
        pieces_add(e->texts, t->text[e->ids.v[at]], t->n_text[e->ids.v[at]]);
    return 0;
}

/* Normalized text without added tokens. */
static int encode_plain(struct encode *e, const char *s, size_t n, size_t n_start)
{
    pieces_clear(&e->pieces);
    e->pieces.n_start = n_start;
    pieces_add(&e->pieces, s, n);
    TRY(steps_split(&e->pre, &e->pieces));
    const struct pieces *p = &e->pieces;
    for (size_t i = 0; i < p->n; i++)
        TRY(encode_piece(e, p->text.data + p->span[i].at, p->span[i].n));
    return 0;
}

static int encode_segment(struct encode *e, const char *s, size_t n, size_t n_start)
{
    struct pieces *p = &e->normal;
    pieces_clear(p);
    p->n_start = n_start;
    pieces_add(p, s, n);
    TRY(steps_split(&e->normalizer, p));
    e->inner.n = 0;
    added_split(&e->tok->trie_normalized, e->tok->added, p->text.data + p->span[0].at, p->span[0].n,
                &e->inner);
    for (size_t i = 0; i < e->inner.n; i++) {
        struct added_cut c = e->inner.v[i];
        if (c.token >= 0)
            add_added(e, c.token, p->text.data + p->span[0].at + c.at, c.n);
        else
            TRY(encode_plain(e, p->text.data + p->span[0].at + c.at, c.n,
                             p->n_start > c.at ? p->n_start - c.at : 0));
    }
    return 0;
}

static int encode_text(struct encode *e, const char *s, size_t n, bool add_special)
{
    const struct tok *t = e->tok;
    if (add_special)
        add_ids(&e->ids, t->before.v, t->before.n);
    added_split(&t->trie, t->added, s, n, &e->cuts);
    for (size_t i = 0; i < e->cuts.n; i++) {
        struct added_cut c = e->cuts.v[i];
        if (c.token >= 0)
            add_added(e, c.token, s + c.at, c.n);
        else
            TRY(encode_segment(e, s + c.at, c.n, c.at == 0));
    }
    if (add_special)
        add_ids(&e->ids, t->after.v, t->after.n);
    return 0;
}

static int check_text(const char *text, size_t n_bytes)
{
    if (n_bytes > INT32_MAX / 4)
        return err_set(ERR_INPUT, "text of %zu bytes is too long to tokenize (at most %d)", n_bytes,
                       INT32_MAX / 4);
    if (!utf8_valid(text, n_bytes))
        return err_set(ERR_INPUT, "text to tokenize is not valid UTF-8");
    return 0;
}

int tok_encode(const struct tok *t, const char *text, size_t n_bytes, bool add_special, int32_t **ids,
               int64_t *n_ids)
{
    *ids = NULL;
    *n_ids = 0;
    TRY(check_text(text, n_bytes));
    struct encode e;
    encode_open(&e, t, NULL);
    int rc = encode_text(&e, text, n_bytes, add_special);
    if (rc >= 0) {
        *ids = e.ids.v ? e.ids.v : mem_alloc(1, sizeof **ids);
        *n_ids = (int64_t)e.ids.n;
        e.ids.v = NULL;
    }
    encode_close(&e);
    return rc;
}

static void take_pieces(struct tok_pieces *out, const struct pieces *texts, const struct ids *ids)
{
    size_t at = 0;
    out->n = ids->n;
    out->v = mem_alloc(out->n + 1, sizeof *out->v);
    out->bytes = mem_alloc(texts->text.n + out->n + 1, 1);
    for (size_t i = 0; i < out->n; i++) {
        size_t n = texts->span[i].n;
        if (n)
            memcpy(out->bytes + at, texts->text.data + texts->span[i].at, n);
        out->v[i] = (struct tok_text){out->bytes + at, n, ids->v[i]};
        at += n + 1;
    }
}

int tok_encode_pieces(const struct tok *t, const char *text, size_t n_bytes, struct tok_pieces *out)
{
    *out = (struct tok_pieces){0};
    TRY(check_text(text, n_bytes));
    struct pieces texts = {0};
    struct encode e;
    encode_open(&e, t, &texts);
    int rc = encode_text(&e, text, n_bytes, false);
    if (rc >= 0)
        take_pieces(out, &texts, &e.ids);
    encode_close(&e);
    pieces_free(&texts);
    return rc;
}

void tok_pieces_free(struct tok_pieces *p)
{
    free(p->v);
    free(p->bytes);
    *p = (struct tok_pieces){0};
}

/* ---- ids to text ---- */

/* What the field calls clean_up_tokenization_spaces: these replacements, each over the whole text, in this
 * order. */
static void clean_up(struct str *s)
{
    static const char *const pair[][2] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                          {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                          {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t k = 0; k < sizeof pair / sizeof *pair; k++) {
        size_t n = strlen(pair[k][0]), to = 0;
        for (size_t at = 0; at < s->n;)
            if (s->n - at >= n && memcmp(s->data + at, pair[k][0], n) == 0) {
                memcpy(s->data + to, pair[k][1], strlen(pair[k][1]));
                to += strlen(pair[k][1]);
                at += n;
            } else {
                s->data[to++] = s->data[at++];
            }
        s->n = to;
    }
}

static void collect(const struct tok *t, const char *text, size_t n, struct pieces *p)
{
    if (!t->has_decoder && p->n)
        str_addc(&p->text, ' ');
    pieces_add(p, text, n);
}

static int collect_tokens(const struct tok *t, const int32_t *ids, int64_t n, bool skip_special,
                          struct pieces *p)
{
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0)
            return err_set(ERR_INPUT, "token id %d at %lld is below 0", ids[i], (long long)i);
        if (skip_special && tok_is_special(t, ids[i]))
            continue;
        if (tok_piece(t, ids[i]))
            collect(t, t->text[ids[i]], t->n_text[ids[i]], p);
        else if (t->world.n)
            collect(t, "\xff", 1, p); /* no text: the whole becomes U+FFFD, see decode */
    }
    return 0;
}

/* Adds to `out` what the decoder makes of the token texts; p is used up. */
static int decode(const struct tok *t, struct pieces *p, struct str *out)
{
    struct steps_run run;
    steps_run_open(&run, &t->decoder);
    int rc = steps_decode(&run, p);
    for (size_t i = 0; rc >= 0 && t->has_decoder && i < p->n; i++)
        str_addn(out, p->text.data + p->span[i].at, p->span[i].n);
    if (!t->has_decoder) /* the blanks between the tokens lie outside the spans */
        str_addn(out, p->text.data, p->text.n);
    if (t->world.n && !utf8_valid(str_c(out), out->n)) { /* the package `rwkv` gives this one character */
        str_clear(out);
        str_add(out, "\xef\xbf\xbd");
    }
    steps_run_close(&run);
    return rc;
}

int tok_decode(const struct tok *t, const int32_t *ids, int64_t n_ids, bool skip_special, char **text,
               size_t *n_bytes)
{
    struct pieces p = {0};
    struct str out = {0};
    *text = NULL;
    int rc = collect_tokens(t, ids, n_ids, skip_special, &p);
    if (rc >= 0)
        rc = decode(t, &p, &out);
    if (rc >= 0) {
        if (t->clean_up)
            clean_up(&out);
        *text = mem_strndup(str_c(&out), out.n);
        if (n_bytes)
            *n_bytes = out.n;
    }
    str_free(&out);
    pieces_free(&p);
    return rc;
}

int tok_decode_answer(const struct tok *t, const int32_t *ids, int64_t n_ids, bool skip_special, char **text,
                      size_t *n_bytes)
{
    struct str out = {0};
    if (!t->world.n)
        return tok_decode(t, ids, n_ids, skip_special, text, n_bytes);
    world_answer(t, ids, n_ids, &out);
    *text = mem_strndup(str_c(&out), out.n);
    if (n_bytes)
        *n_bytes = out.n;
    str_free(&out);
    return 0;
}

int tok_join(const struct tok *t, const char *const *piece, size_t n, char **text)
{
    struct pieces p = {0};
    struct str out = {0};
    for (size_t i = 0; i < n; i++)
        collect(t, piece[i], strlen(piece[i]), &p);
    int rc = decode(t, &p, &out);
    *text = rc < 0 ? NULL : mem_strndup(str_c(&out), out.n);
    str_free(&out);
    pieces_free(&p);
    return rc;
}

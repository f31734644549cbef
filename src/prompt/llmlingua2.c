/* LLMLingua-2 (arXiv 2403.12968) as PyPI's llmlingua 0.2.2 computes it: forced tokens marked, text cut into
 * chunks of at most 511 pieces, P(keep) of every piece by an XLM-RoBERTa token classifier, words above a
 * percentile kept. Each chunk is compressed alike; results are joined by nothing. Of several contexts, those
 * above a percentile may be chosen first; they are joined by a blank line. Kept from the package: the
 * encoder reads the special tokens of BERT around a chunk, which XLM-R does not know (microsoft/LLMLingua
 * issue 181). */
#include "prompt/llmlingua2.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "kv/llmlingua2.h"
#include "model/encoder.h"
#include "prompt/prompt.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { SEQ_MAX = 512, CHUNK_MAX = SEQ_MAX - 2 };
#define CACHE_BYTES ((size_t)256 << 20)

/* P(keep) of all chunks of a text: what the encoder has to say, whatever the rate. */
struct answer {
    XXH128_hash_t key;
    float *keep; /* owned */
    int64_t n;
};
struct prompt_compressor {
    struct ops *ops; /* its own: sequences do not count it */
    struct encoder *encoder;
    struct tok *tok, *ranks; /* ranks: NULL without */
    struct answer *cache;    /* oldest first from `first` on */
    int64_t first, n, cap;
    size_t cache_bytes;
    int64_t texts, rows;
};

static struct prompt_files files(const void *params)
{
    const struct llmlingua2_params *p = params;
    return (struct prompt_files){p->encoder, *p->ranks ? p->ranks : NULL};
}

static int identify(const struct prompt_files *paths, struct str *text)
{
    struct model_file *f;
    uint64_t h[2];
    TRY(encoder_file_open(&f, paths->encoder));
    model_file_hash(f, h);
    model_file_close(f);
    str_printf(text, "encoder %016" PRIx64 "%016" PRIx64, h[0], h[1]);
    char *name = file_join(paths->encoder, "tokenizer.json"), *data = NULL, hex[65];
    size_t n;
    int rc = file_read(name, &data, &n);
    if (rc == 0) {
        file_sha256(data, n, hex);
        str_printf(text, " tokenizer %.16s", hex);
        free(data);
    }
    free(name);
    TRY(rc);
    if (!paths->ranks) {
        str_add(text, " ranks none");
        return 0;
    }
    TRY(file_read(paths->ranks, &data, &n));
    file_sha256(data, n, hex);
    str_printf(text, " ranks %.16s", hex);
    free(data);
    return 0;
}

static void close_all(struct prompt_compressor *c)
{
    if (!c)
        return;
    for (int64_t i = 0; i < c->n; i++)
        free(c->cache[c->first + i].keep);
    free(c->cache);
    encoder_close(c->encoder);
    tok_close(c->tok);
    tok_close(c->ranks);
    if (c->ops)
        ops_close(c->ops);
    free(c);
}

static int open_encoder(struct prompt_compressor *c, const char *dir, const struct prompt_options *opt)
{
    struct model_file *f;
    TRY(encoder_file_open(&f, dir));
    const struct model_config *cfg = model_file_config(f);
    const struct model_options o = {
        .dtype = DT_F32, .share = opt->share, .threads = ops_threads(opt->threads), .poll = opt->poll};
    int rc = 0;
    if (cfg->max_len < SEQ_MAX)
        rc = err_set(ERR_INPUT, "%s: the encoder reads %" PRId64 " tokens at once; LLMLingua-2 needs %d", dir,
                     cfg->max_len, SEQ_MAX);
    if (rc == 0 && tok_n_vocab(c->tok) > cfg->n_vocab)
        rc = err_set(ERR_INPUT, "%s: the tokenizer has %d tokens, the encoder only %" PRId64, dir,
                     tok_n_vocab(c->tok), cfg->n_vocab);
    if (rc == 0 && tok_role_id(c->tok, TOK_UNK) < 0)
        rc = err_set(ERR_INPUT, "%s: the tokenizer names no unknown token", dir);
    if (rc == 0)
        rc = encoder_open(&c->encoder, c->ops, f, &o);
    model_file_close(f);
    return rc;
}

/* "[NEW0]" to "[NEW99]" are the encoder's own tokens, whether or not its tokenizer.json names them. */
static int add_marks(struct tok *t)
{
    char text[LL2_MARKS][12];
    const char *mark[LL2_MARKS];
    for (int i = 0; i < LL2_MARKS; i++) {
        snprintf(text[i], sizeof text[i], "[NEW%d]", i);
        mark[i] = text[i];
    }
    return tok_add_special(t, mark, LL2_MARKS);
}

static int open_all(struct prompt_compressor **out, const struct prompt_files *paths,
                    const struct prompt_options *opt)
{
    struct prompt_compressor *c = mem_alloc(1, sizeof *c);
    const struct ops_options o = {
        .threads = opt->threads, .isa = opt->isa ? opt->isa : "auto", .device = opt->gpu, .act = DT_F32};
    int rc = tok_open_dir(&c->tok, paths->encoder);
    if (rc == 0)
        rc = add_marks(c->tok);
    if (rc == 0 && paths->ranks)
        rc = tok_open_tiktoken(&c->ranks, paths->ranks);
    if (rc == 0)
        rc = ops_open(&c->ops, opt->device ? opt->device : "auto", &o);
    if (rc == 0)
        rc = open_encoder(c, paths->encoder, opt);
    if (rc < 0) {
        close_all(c);
        c = NULL;
    }
    *out = c;
    return rc;
}

/* ---- chunks ---- */

struct chunk {
    int32_t *ids; /* [n] as the encoder reads them; owned */
    int64_t n;
    int64_t at; /* ids in the chunks before it */
    char *text; /* owned */
};
struct chunks {
    struct chunk *v;
    int n, cap;
    int64_t rows; /* of all */
};

static void chunks_free(struct chunks *c)
{
    for (int i = 0; i < c->n; i++) {
        free(c->v[i].ids);
        free(c->v[i].text);
    }
    free(c->v);
}

static int32_t id_or_unknown(const struct tok *t, const char *text)
{
    int32_t id = tok_id(t, text);
    return id >= 0 ? id : tok_role_id(t, TOK_UNK);
}

/* The chunk's text is tokenised again, which need not give the pieces it was made of; what exceeds 512 with
 * the two special tokens is cut off, the closing one first. */
static int read_chunk(const struct tok *t, struct chunk *c)
{
    struct tok_pieces p;
    int rc = tok_encode_pieces(t, c->text, strlen(c->text), &p);
    if (rc == 0) {
        int64_t n = (int64_t)p.n + 2;
        c->ids = mem_alloc((size_t)n, sizeof *c->ids);
        c->ids[0] = id_or_unknown(t, "[CLS]");
        for (size_t i = 0; i < p.n; i++)
            c->ids[i + 1] = id_or_unknown(t, p.v[i].s);
        c->ids[n - 1] = id_or_unknown(t, "[SEP]");
        c->n = n < SEQ_MAX ? n : SEQ_MAX;
    }
    tok_pieces_free(&p);
    return rc;
}

/* First piece behind the chunk that begins at `at`: behind the last end of a sentence within reach, else 511
 * pieces on. */
static size_t chunk_end(const struct tok_pieces *p, const struct ll2_force *f, size_t at)
{
    if (at + CHUNK_MAX > p->n - 1)
        return p->n;
    for (size_t end = at + CHUNK_MAX; end > at; end--)
        if (ll2_ends_chunk(f, p->v[end].s))
            return end + 1;
    return at + CHUNK_MAX + 1;
}

static int cut_chunks(const struct tok *t, const struct ll2_force *f, const char *marked, struct chunks *c)
{
    struct tok_pieces p;
    int rc = tok_encode_pieces(t, marked, strlen(marked), &p);
    const char **piece = mem_alloc(p.n ? p.n : 1, sizeof *piece);
    for (size_t i = 0; i < p.n; i++)
        piece[i] = p.v[i].s;
    for (size_t at = 0; rc == 0 && at < p.n;) {
        size_t end = chunk_end(&p, f, at);
        struct chunk *one = MEM_PUSH(c->v, c->n, c->cap);
        *one = (struct chunk){.at = c->rows};
        rc = tok_join(t, piece + at, end - at, &one->text);
        if (rc == 0)
            rc = read_chunk(t, one);
        c->rows += one->n;
        at = end;
    }
    free(piece);
    tok_pieces_free(&p);
    return rc;
}

/* ---- the encoder's answers, by content ---- */

static const struct answer *cached(const struct prompt_compressor *c, XXH128_hash_t key)
{
    for (int64_t i = 0; i < c->n; i++)
        if (XXH128_isEqual(c->cache[c->first + i].key, key))
            return &c->cache[c->first + i];
    return NULL;
}

static const struct answer *remember(struct prompt_compressor *c, const struct answer *a)
{
    size_t bytes = (size_t)a->n * sizeof *a->keep;
    while (c->n && c->cache_bytes + bytes > CACHE_BYTES) {
        struct answer *old = &c->cache[c->first++];
        c->cache_bytes -= (size_t)old->n * sizeof *old->keep;
        free(old->keep);
        c->n--;
    }
    if (c->first && c->first + c->n == c->cap) {
        memmove(c->cache, c->cache + c->first, (size_t)c->n * sizeof *c->cache);
        c->first = 0;
    }
    int64_t end = c->first + c->n;
    struct answer *slot = MEM_PUSH(c->cache, end, c->cap);
    *slot = *a;
    c->n++;
    c->cache_bytes += bytes;
    return slot;
}

static int run_encoder(struct prompt_compressor *c, const struct chunks *chunks, float *keep)
{
    struct encoder_text *text = mem_alloc((size_t)chunks->n, sizeof *text);
    float *logit = mem_alloc((size_t)chunks->rows * 2, sizeof *logit);
    for (int i = 0; i < chunks->n; i++)
        text[i] = (struct encoder_text){chunks->v[i].ids, chunks->v[i].n};
    int rc = encoder_run(c->encoder, text, chunks->n, logit);
    for (int64_t i = 0; rc == 0 && i < chunks->rows; i++)
        keep[i] = 1.0f / (1.0f + expf(logit[2 * i] - logit[2 * i + 1]));
    c->texts++;
    c->rows += chunks->rows;
    free(logit);
    free(text);
    return rc;
}

/* The key is of what the encoder reads. */
static XXH128_hash_t chunks_key(const struct chunks *chunks)
{
    XXH3_state_t *s = XXH3_createState();
    XXH3_128bits_reset(s);
    for (int i = 0; i < chunks->n; i++) {
        XXH3_128bits_update(s, &chunks->v[i].n, sizeof chunks->v[i].n);
        XXH3_128bits_update(s, chunks->v[i].ids, (size_t)chunks->v[i].n * sizeof *chunks->v[i].ids);
    }
    XXH128_hash_t key = XXH3_128bits_digest(s);
    XXH3_freeState(s);
    return key;
}

static int answers(struct prompt_compressor *c, const struct chunks *chunks, const struct answer **out)
{
    XXH128_hash_t key = chunks_key(chunks);
    *out = cached(c, key);
    if (*out)
        return 0;
    struct answer a = {key, mem_alloc((size_t)chunks->rows, sizeof *a.keep), chunks->rows};
    int rc = run_encoder(c, chunks, a.keep);
    if (rc < 0)
        free(a.keep);
    else
        *out = remember(c, &a);
    return rc;
}

/* ---- rewriting ---- */

/* One call: the contexts, their chunks, what the encoder has to say of these. */
struct job {
    struct prompt_compressor *c;
    const struct ll2_options *o;
    const char *const *context; /* [n] */
    int n;
    bool choose; /* among the contexts */
    struct ll2_force force;
    struct ll2_task task;
    struct chunks chunks; /* of all contexts */
    int *end;             /* [n] behind the context's last chunk; owned */
    bool *kept;           /* [n] owned */
    const float *keep;    /* of all chunks; borrowed from the cache, NULL before it is needed */
};

static int job_open(struct job *j)
{
    const struct ll2_options *o = j->o;
    j->choose = o->use_context_level_filter && j->n > 1;
    j->end = mem_alloc((size_t)j->n + 1, sizeof *j->end);
    j->kept = mem_alloc((size_t)j->n + 1, sizeof *j->kept);
    TRY(ll2_check(o, j->n));
    TRY(ll2_force_open(&j->force, j->c->tok, o->force_tokens, o->n_force));
    j->task = (struct ll2_task){.tok = j->c->tok,
                                .ranks = j->c->ranks,
                                .force = &j->force,
                                .digits = o->force_reserve_digit,
                                .drop = o->drop_consecutive};
    for (int i = 0; i < j->n; i++) {
        char *marked = ll2_mark(&j->force, j->context[i]);
        int rc = cut_chunks(j->c->tok, &j->force, marked, &j->chunks);
        free(marked);
        TRY(rc);
        j->end[i] = j->chunks.n;
        j->kept[i] = true;
    }
    return 0;
}

static void job_close(struct job *j)
{
    ll2_force_close(&j->force);
    chunks_free(&j->chunks);
    free(j->end);
    free(j->kept);
}

static int first_chunk(const struct job *j, int context)
{
    return context ? j->end[context - 1] : 0;
}

static struct ll2_chunk seen(const struct job *j, int chunk)
{
    const struct chunk *c = &j->chunks.v[chunk];
    return (struct ll2_chunk){c->ids, j->keep + c->at, c->n};
}

static int ask_encoder(struct job *j)
{
    const struct answer *a;
    if (j->keep || !j->chunks.n)
        return 0;
    TRY(answers(j->c, &j->chunks, &a));
    j->keep = a->keep;
    return 0;
}

/* Adds a text's tokens to *n. */
static int count_tokens(const struct prompt_compressor *c, const char *text, int64_t *n)
{
    if (!c->ranks) {
        struct tok_pieces p;
        int rc = tok_encode_pieces(c->tok, text, strlen(text), &p);
        *n += (int64_t)p.n;
        tok_pieces_free(&p);
        return rc;
    }
    int32_t *ids;
    int64_t more;
    TRY(tok_encode(c->ranks, text, strlen(text), false, &ids, &more));
    free(ids);
    *n += more;
    return 0;
}

static int count_contexts(const struct job *j, int64_t *n)
{
    *n = 0;
    for (int i = 0; i < j->n; i++)
        TRY(count_tokens(j->c, j->context[i], n));
    return 0;
}

/* What is left after the choice, with marks, as the package counts it. */
static int count_chosen(const struct job *j, int64_t *n)
{
    *n = 0;
    for (int i = 0; i < j->n; i++)
        for (int k = first_chunk(j, i); j->kept[i] && k < j->end[i]; k++)
            TRY(count_tokens(j->c, j->chunks.v[k].text, n));
    return 0;
}

/* A context without words has no mean; the package divides by zero. */
static int no_words(const struct job *j, int context)
{
    return err_set(ERR_INPUT, "context %d of %d, counted from 0, has no words to choose it by", context,
                   j->n);
}

/* A context's words: the sum of their P(keep), and how many. */
static int64_t count_words(const struct job *j, int context, float *sum)
{
    int64_t n = 0;
    *sum = 0;
    for (int k = first_chunk(j, context); k < j->end[context]; k++) {
        const struct ll2_chunk one = seen(j, k);
        ll2_add_words(&j->task, &one, sum, &n);
    }
    return n;
}

static int score_contexts(const struct job *j, float *score)
{
    for (int i = 0; i < j->n; i++) {
        int64_t n = count_words(j, i, &score[i]);
        if (!n)
            return no_words(j, i);
        score[i] /= (float)n;
    }
    return 0;
}

static int choose_contexts(struct job *j)
{
    int64_t n_tokens;
    for (int i = 0; i < j->n; i++)
        if (first_chunk(j, i) == j->end[i])
            return no_words(j, i);
    TRY(count_contexts(j, &n_tokens));
    TRY(ask_encoder(j));
    float *score = mem_alloc((size_t)j->n, sizeof *score);
    int rc = score_contexts(j, score);
    if (rc == 0)
        ll2_choose(j->o, score, j->n, n_tokens, j->kept);
    free(score);
    return rc;
}

/* Share of the tokens that goes. */
static int find_reduce(struct job *j)
{
    double rate = j->o->rate;
    if (j->o->target_token >= 0) {
        int64_t n;
        TRY(j->choose ? count_chosen(j, &n) : count_contexts(j, &n));
        rate = ll2_share((double)j->o->target_token, (double)n);
    }
    j->task.reduce = j->o->use_token_level_filter ? 1 - rate : 0;
    return 0;
}

/* A context as it is, but for what its tokenizer changes. */
static void keep_whole(const struct job *j, int context, struct str *out)
{
    for (int k = first_chunk(j, context); k < j->end[context]; k++) {
        char *same = ll2_unmark(&j->force, j->chunks.v[k].text);
        str_add(out, same);
        free(same);
    }
}

static int keep_words(const struct job *j, int context, struct str *out, struct str *labels)
{
    for (int k = first_chunk(j, context); k < j->end[context]; k++) {
        const struct ll2_chunk one = seen(j, k);
        TRY(ll2_compress(&j->task, &one, out, labels));
    }
    return 0;
}

static int write_contexts(struct job *j, struct str *out, struct str *labels)
{
    bool words = j->task.reduce > 0, first = true;
    float sum;
    if (words)
        TRY(ask_encoder(j));
    for (int i = 0; i < j->n; i++) {
        if (!j->kept[i]) {
            for (int64_t k = words && labels ? count_words(j, i, &sum) : 0; k > 0; k--)
                str_addc(labels, '0');
            continue;
        }
        str_add(out, first ? "" : "\n\n");
        first = false;
        if (words)
            TRY(keep_words(j, i, out, labels));
        else
            keep_whole(j, i, out);
    }
    return 0;
}

int ll2_run(struct prompt_compressor *c, const struct ll2_options *o, const char *const *context, int n,
            char **result, struct str *labels)
{
    struct job j = {.c = c, .o = o, .context = context, .n = n};
    struct str out = {0};
    *result = NULL;
    int rc = job_open(&j);
    if (rc == 0 && j.choose)
        rc = choose_contexts(&j);
    if (rc == 0)
        rc = find_reduce(&j);
    if (rc == 0)
        rc = write_contexts(&j, &out, labels);
    if (rc == 0)
        *result = mem_strdup(str_c(&out));
    str_free(&out);
    job_close(&j);
    return rc;
}

static const char *force_word(const char *w)
{
    return !strcmp(w, "newline") ? "\n" : !strcmp(w, "comma") ? "," : w;
}

static int rewrite(struct prompt_compressor *c, const void *params, const struct prompt_parts *in,
                   char **context)
{
    const struct llmlingua2_params *p = params;
    char *list = mem_strdup(p->force), *save = NULL;
    const char **force = NULL;
    int n = 0, cap = 0;
    for (char *w = strtok_r(list, " ", &save); w; w = strtok_r(NULL, " ", &save))
        *MEM_PUSH(force, n, cap) = force_word(w);
    struct ll2_options o = ll2_defaults;
    o.rate = 1 / p->rate;
    o.force_tokens = force;
    o.n_force = n;
    o.drop_consecutive = p->drop != 0;
    o.force_reserve_digit = p->digits != 0;
    int rc = ll2_run(c, &o, &in->context, 1, context, NULL);
    free(force);
    free(list);
    return rc;
}

static void counts(const struct prompt_compressor *c, int64_t *texts, int64_t *rows)
{
    *texts = c->texts;
    *rows = c->rows;
}

const struct prompt_method prompt_method_llmlingua2 = {
    .name = "llmlingua2",
    .files = files,
    .identify = identify,
    .open = open_all,
    .rewrite = rewrite,
    .counts = counts,
    .close = close_all,
};

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"

/* What the names in tokenizer.ggml.pre stand for, as the field's tokenizer.json files of these families have
 * it. */
static const struct pre {
    const char *name;
    const char *const *pattern;
    bool digits; /* every digit alone, before the pattern */
    bool nfc;
    bool ignore_merges; /* a word that is a token is never split */
    bool clean_up;      /* clean_up_tokenization_spaces of the family's configuration */
} known[] = {
    {"smollm", &TOK_PATTERN_GPT2, true, false, false, false},
    {"llama-bpe", &TOK_PATTERN_LLAMA3, false, false, true, true},
    {"llama3", &TOK_PATTERN_LLAMA3, false, false, true, true},
    {"llama-v3", &TOK_PATTERN_LLAMA3, false, false, true, true},
    {"qwen2", &TOK_PATTERN_QWEN2, false, true, false, false},
    {"gpt-2", &TOK_PATTERN_GPT2, false, false, false, true},
    {"olmo", &TOK_PATTERN_GPT2, false, true, false, true}, /* GPT-NeoX vocabularies */
    {"mpt", &TOK_PATTERN_GPT2, false, true, false, true},
    {"starcoder", &TOK_PATTERN_GPT2, true, false, false, true},
};

static int find_pre(const char *name, const struct pre **pre)
{
    struct str all = {0};
    *pre = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        str_printf(&all, "%s%s", i ? ", " : "", known[i].name);
        if (strcmp(known[i].name, name) == 0)
            *pre = &known[i];
    }
    int rc =
        *pre ? 0 : err_set(ERR_INPUT, "tokenizer.ggml.pre: \"%.40s\" is not known (%s)", name, str_c(&all));
    str_free(&all);
    return rc;
}

static int set_byte_level(struct tok *t, const struct pre *pre)
{
    if (pre->nfc)
        steps_add(&t->normalizer, STEP_NFC);
    if (pre->digits)
        steps_add(&t->pre, STEP_DIGITS)->behavior = SPLIT_ISOLATED;
    struct step *s = steps_add(&t->pre, STEP_SPLIT);
    s->behavior = SPLIT_ISOLATED;
    TRY(tok_regex_open(&s->regex, *pre->pattern, "tokenizer.ggml.pre"));
    steps_add(&t->pre, STEP_BYTES);
    steps_add(&t->decoder, STEP_BYTES);
    t->bpe.ignore_merges = pre->ignore_merges;
    t->clean_up = pre->clean_up;
    return 0;
}

static int read_merge(struct bpe *b, const char *text, int32_t rank)
{
    const char *blank = *text ? strchr(text + 1, ' ') : NULL;
    if (!blank || !blank[1])
        return err_set(ERR_INPUT, "tokenizer.ggml.merges[%d]: \"left right\" is expected", rank);
    size_t n = (size_t)(blank - text), m = strlen(blank + 1);
    char *whole = mem_printf("%.*s%s", (int)n, text, blank + 1);
    int32_t left = tok_map_get(&b->vocab, text, n), right = tok_map_get(&b->vocab, blank + 1, m);
    int32_t id = tok_map_get(&b->vocab, whole, n + m);
    free(whole);
    if (left < 0 || right < 0 || id < 0)
        return err_set(ERR_INPUT,
                       "tokenizer.ggml.merges[%d]: \"%.60s\" is not made of tokens of the vocabulary", rank,
                       text);
    tok_merges_put(&b->merges, left, right, rank, id);
    return 0;
}

static int read_tokens(struct tok *t, const struct tok_gguf *g)
{
    if (g->n_token <= 0 || g->n_token > TOK_MAX_ID)
        return err_set(ERR_INPUT, "tokenizer.ggml.tokens: %d tokens, from 1 to %d are possible", g->n_token,
                       TOK_MAX_ID);
    for (int32_t i = 0; i < g->n_token; i++) /* of two equal texts the first keeps its id */
        if (g->token[i][0] && tok_map_get(&t->bpe.vocab, g->token[i], strlen(g->token[i])) < 0)
            tok_map_put(&t->bpe.vocab, g->token[i], strlen(g->token[i]), i);
    return 0;
}

/* Control and unknown tokens are special; user-defined ones are only never split. */
static int read_types(struct tok *t, const struct tok_gguf *g, bool unknown)
{
    enum { UNKNOWN = 2, CONTROL = 3, USER = 4 };
    for (int32_t i = 0; g->type && i < g->n_token; i++) {
        bool special = g->type[i] == CONTROL || (unknown && g->type[i] == UNKNOWN);
        struct added_token a = {
            .text = (char *)(uintptr_t)g->token[i], .n = strlen(g->token[i]), .special = special};
        int32_t id;
        if (special || g->type[i] == USER)
            TRY(tok_add(t, &a, -1, &id));
    }
    return 0;
}

static int set_ids(struct tok *t, const struct tok_gguf *g, bool bos_default)
{
    const int32_t id[] = {g->bos, g->eos, g->unk};
    const char *const key[] = {"bos", "eos", "unknown"};
    for (int i = 0; i < 3; i++)
        if (id[i] >= g->n_token)
            return err_set(ERR_INPUT, "tokenizer.ggml.%s_token_id: %d of %d tokens", key[i], id[i],
                           g->n_token);
    t->bos = g->bos >= 0 ? g->bos : -1;
    t->eos = g->eos >= 0 ? g->eos : -1;
    if (t->bos >= 0 && (g->add_bos > 0 || (g->add_bos < 0 && bos_default)))
        *MEM_PUSH(t->before.v, t->before.n, t->before.cap) = t->bos;
    if (t->eos >= 0 && g->add_eos > 0)
        *MEM_PUSH(t->after.v, t->after.n, t->after.cap) = t->eos;
    return 0;
}

static int read_gpt2(struct tok *t, const struct tok_gguf *g)
{
    const struct pre *pre;
    TRY(find_pre(g->pre ? g->pre : "gpt-2", &pre));
    TRY(read_tokens(t, g));
    for (int32_t i = 0; i < g->n_merge; i++)
        TRY(read_merge(&t->bpe, g->merge[i], i));
    TRY(set_byte_level(t, pre));
    t->has_decoder = true;
    TRY(read_types(t, g, false));
    return set_ids(t, g, pre->ignore_merges); /* the Llama-3 family begins every text with BOS */
}

int tok_read_scores(struct tok *t, const struct tok_gguf *g, bool legacy)
{
    if (!g->score)
        return err_set(ERR_INPUT,
                       "tokenizer.ggml.scores: missing (needed for tokenizer.ggml.model \"llama\")");
    TRY(read_tokens(t, g));
    TRY(tok_merges_from_scores(&t->bpe, g->token, g->score, g->n_token));
    t->bpe.unk = g->unk >= 0 && g->unk < g->n_token ? g->unk : -1;
    tok_set_llama(t, g->add_space_prefix != 0, legacy);
    TRY(read_types(t, g, true));
    return set_ids(t, g, true);
}

/* Looks for user-defined pieces that are blanks in normalized text, as SentencePiece does. */
static void find_blanks_in_normal(struct tok *t)
{
    for (size_t i = 0; i < t->n_added; i++) {
        struct added_token *a = &t->added[i];
        if (!a->special && memmem(a->text, a->n, TOK_BLANK, strlen(TOK_BLANK)))
            a->normalized = a->as_is = true;
    }
}

static char *with_blanks(const char *text)
{
    struct str s = {0};
    for (; *text; text++)
        if (*text == ' ')
            str_add(&s, TOK_BLANK);
        else
            str_addc(&s, *text);
    return s.data;
}

/* llama.cpp's converter spells the U+2581 of user-defined pieces (Gemma's runs of blanks) as blanks, because
 * llama.cpp looks for them in raw text. There a U+2581 that a text itself holds is none of them; for
 * SentencePiece, with which the models were trained, it is, so they get their spelling back. */
static int read_llama(struct tok *t, const struct tok_gguf *g)
{
    enum { USER = 4 };
    const size_t n = g->n_token > 0 ? (size_t)g->n_token : 0;
    const char **token = mem_alloc(n + 1, sizeof *token);
    char **changed = mem_alloc(n + 1, sizeof *changed); /* owned */
    struct tok_gguf own = *g;
    size_t n_changed = 0;
    for (size_t i = 0; i < n; i++) {
        const bool blank = g->type && g->type[i] == USER && strchr(g->token[i], ' ');
        token[i] = blank ? changed[n_changed++] = with_blanks(g->token[i]) : g->token[i];
    }
    own.token = token;
    int rc = tok_read_scores(t, &own, true);
    if (rc == 0)
        find_blanks_in_normal(t);
    for (size_t i = 0; i < n_changed; i++)
        free(changed[i]);
    free(changed);
    free(token);
    return rc;
}

static int read_gguf(struct tok *t, const struct tok_gguf *g)
{
    if (!g->model)
        return err_set(ERR_INPUT, "tokenizer.ggml.model: missing");
    if (strcmp(g->model, "gpt2") == 0)
        TRY(read_gpt2(t, g));
    else if (strcmp(g->model, "llama") == 0)
        TRY(read_llama(t, g));
    else
        return err_set(ERR_INPUT, "tokenizer.ggml.model: \"%.40s\" is not supported (gpt2, llama)", g->model);
    return tok_finish(t);
}

int tok_open_gguf(struct tok **out, const struct tok_gguf *g, const char *path_for_errors)
{
    struct tok *t = tok_new();
    int rc = read_gguf(t, g);
    if (rc < 0) {
        tok_close(t);
        t = NULL;
        rc = err_prefix(rc, "%s", path_for_errors);
    }
    *out = t;
    return rc;
}

/* What is sent for an example and what ends its answer. `fair`: the same for every method. `paper`: as the
 * public code of arXiv 2407.01527 does it, which differs by method (spec: its pipeline folders; LongBench
 * pred.py lineage). */
#include "base/err.h"
#include "base/mem.h"
#include "run/run.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* The two ways the reference's pipelines build prompts. */
struct style {
    bool own_loop; /* StreamingLLM and InfLLM: own greedy loop, template on the needle, no truncation */
    bool cuts;     /* LongBench prompts are cut in the middle */
};

static struct style style_of(const char *method)
{
    bool own = !strcmp(method, "streaming") || !strcmp(method, "infllm");
    return (struct style){.own_loop = own, .cuts = !own && strcmp(method, "llmlingua2") != 0};
}

/* The prompt's text. A prompt method rewrites the context; the needle's whole text in paper mode, as the
 * reference does (spec: its needle pipeline compresses instruction and question too). In fair mode
 * instruction and question stay as every method gets them. The context is rewritten before anything is cut:
 * what a compressor leaves out makes room under the common limit. */
static int example_text(enum run_mode mode, const struct rewriter *rw, const struct example *ex, char **text)
{
    *text = mem_printf("%s%s%s", ex->before, ex->context, ex->after);
    if (!rw || !rw->method)
        return 0;
    bool whole = mode == MODE_PAPER && ex->compress_all;
    char *plain = *text, *context = NULL;
    const struct prompt_parts in = whole ? (struct prompt_parts){"", plain, ""}
                                         : (struct prompt_parts){ex->before, ex->context, ex->after};
    int rc = rw->method->rewrite(rw->compressor, rw->params, &in, &context);
    *text = rc == 0 ? mem_printf("%s%s%s", in.before, context, in.after) : NULL;
    free(context);
    free(plain);
    return rc;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static char *trimmed(const char *s)
{
    size_t n = strlen(s);
    while (n && is_blank(s[n - 1]))
        n--;
    size_t i = 0;
    while (i < n && is_blank(s[i]))
        i++;
    return mem_strndup(s + i, n - i);
}

static void replace(char **text, char *with)
{
    free(*text);
    *text = with;
}

static void add_stop(struct prompt *p, int32_t id)
{
    for (int i = 0; i < p->n_stop; i++)
        if (p->stop[i] == id)
            return;
    if (id >= 0 && p->n_stop < (int)(sizeof p->stop / sizeof *p->stop))
        p->stop[p->n_stop++] = id;
}

static void add_stop_ids(struct prompt *p, const struct tok *tok)
{
    const int32_t *ids;
    int n = tok_stop_ids(tok, &ids);
    for (int i = 0; i < n; i++)
        add_stop(p, ids[i]);
}

/* Fair: everything that says so ends an answer. */
static void add_fair_stops(struct prompt *p, const struct tok *tok, const struct chat_template *tpl)
{
    add_stop_ids(p, tok);
    add_stop(p, tok_eos(tok));
    if (tpl->stop)
        add_stop(p, tok_id(tok, tpl->stop));
}

int policy_stop_ids(const struct chat_template *tpl, const struct tok *tok, int32_t stop[POLICY_STOPS])
{
    struct prompt p = {0};
    add_fair_stops(&p, tok, tpl);
    memcpy(stop, p.stop, sizeof p.stop);
    return p.n_stop;
}

/* Last id of "\n" encoded alone, or -1. */
static int newline_id(const struct tok *tok, int32_t *id)
{
    int32_t *ids;
    int64_t n;
    TRY(tok_encode(tok, "\n", 1, false, &ids, &n));
    *id = n ? ids[n - 1] : -1;
    free(ids);
    return 0;
}

static int encode(const struct tok *tok, struct prompt *p, bool special)
{
    free(p->ids);
    p->ids = NULL;
    return tok_encode(tok, p->text, strlen(p->text), special, &p->ids, &p->n_ids);
}

/* Fair: exactly one BOS, whether or not the template writes one. */
static int encode_one_bos(const struct tok *tok, struct prompt *p)
{
    TRY(encode(tok, p, true));
    int32_t bos = tok_bos(tok);
    if (bos >= 0 && p->n_ids > 1 && p->ids[0] == bos && p->ids[1] == bos)
        memmove(p->ids, p->ids + 1, (size_t)--p->n_ids * sizeof *p->ids);
    return 0;
}

/* Fair: the middle of the token ids is cut out, so that prompt and answer fit the limit exactly and nothing
 * is tokenised twice. */
static int cut_ids(const struct tok *tok, struct prompt *p, int64_t limit)
{
    int64_t head = limit / 2, tail = limit - head;
    memmove(p->ids + head, p->ids + p->n_ids - tail, (size_t)tail * sizeof *p->ids);
    p->n_ids = limit;
    p->truncated = true;
    char *text;
    TRY(tok_decode(tok, p->ids, p->n_ids, false, &text, NULL));
    replace(&p->text, text);
    return 0;
}

/* Paper: both halves are decoded apart and joined, and the text is tokenised again later. */
static int cut_text(const struct tok *tok, struct prompt *p, int64_t limit)
{
    TRY(encode(tok, p, true));
    p->n_uncut = p->n_ids;
    if (p->n_ids <= limit)
        return 0;
    int64_t half = limit / 2;
    char *head, *tail;
    TRY(tok_decode(tok, p->ids, half, true, &head, NULL));
    int rc = tok_decode(tok, p->ids + p->n_ids - half, half, true, &tail, NULL);
    if (rc == 0) {
        replace(&p->text, mem_printf("%s%s", head, tail));
        p->truncated = true;
        free(tail);
    }
    free(head);
    return rc;
}

/* Tokens that a prompt may have, so that it and its answer fit the model. */
static int64_t fair_limit(const struct run_model *m, const struct model_config *cfg,
                          const struct task_traits *traits)
{
    int64_t len = m->max_len > 0 ? m->max_len : cfg ? cfg->max_len : INT32_MAX;
    return len - traits->max_new;
}

static void fair_text(const struct task_traits *traits, const struct chat_template *tpl, char **text)
{
    if (traits->chat && strcmp(tpl->name, "none") != 0) {
        replace(text, trimmed(*text));
        replace(text, tok_template_apply(tpl, *text));
    }
}

/* Of the context's first 64 tokens, how many there are. */
static int context_tokens(const struct tok *tok, const char *text, int64_t *n)
{
    enum { ENOUGH = 64, PART = 4096 };
    size_t all = strlen(text);
    *n = 0;
    for (size_t part = all < PART ? all : PART; *n < ENOUGH && part > 0; part = part < all ? all : 0) {
        int32_t *ids;
        TRY(tok_encode(tok, text, part, false, &ids, n));
        free(ids);
    }
    *n = *n < ENOUGH ? *n : ENOUGH;
    return 0;
}

/* What is cut out of the middle must be the context's: a prompt is refused where its limit does not hold what
 * stands around the context and 64 tokens of it (or all). */
static int check_room(const struct run_model *m, const struct model_config *cfg, const struct tok *tok,
                      const struct task_traits *traits, const struct chat_template *tpl,
                      const struct example *ex)
{
    struct prompt around = {.text = mem_printf("%s%s", ex->before, ex->after), .newline = -1};
    int64_t limit = fair_limit(m, cfg, traits), n;
    fair_text(traits, tpl, &around.text);
    int rc = encode_one_bos(tok, &around);
    int64_t n_around = around.n_ids;
    prompt_free(&around);
    TRY(rc);
    TRY(context_tokens(tok, ex->context, &n));
    if (limit >= n_around + n)
        return 0;
    return err_set(
        ERR_INPUT,
        "example %s has no room for its context: max_len %lld less max_new %d is %lld, but the text "
        "around the context takes %lld tokens and the context at least %lld; use a larger max_len or a "
        "smaller max_new",
        ex->id, (long long)(limit + traits->max_new), traits->max_new, (long long)limit, (long long)n_around,
        (long long)n);
}

bool policy_surely_fits(const struct run_model *m, const struct model_config *cfg,
                        const struct task_traits *traits, const struct example *ex)
{
    enum { SPARE = 512 }; /* the template, and what a tokenizer adds */
    return traits->kind != TASK_LONGBENCH ||
           (int64_t)(strlen(ex->before) + strlen(ex->after)) + SPARE <= fair_limit(m, cfg, traits);
}

int policy_room(const struct run_model *m, const struct model_config *cfg, const struct tok *tok,
                const struct task_traits *traits, const struct example *ex)
{
    const struct chat_template *tpl = tok_template(m->template);
    if (traits->kind != TASK_LONGBENCH || !tpl)
        return 0;
    return check_room(m, cfg, tok, traits, tpl, ex);
}

static int fair_prompt(const struct run_model *m, const struct model_config *cfg, const struct tok *tok,
                       const struct task_traits *traits, const struct chat_template *tpl,
                       const struct example *ex, struct prompt *p)
{
    fair_text(traits, tpl, &p->text);
    if (!tok)
        return 0;
    TRY(encode_one_bos(tok, p));
    p->n_uncut = p->n_ids;
    int64_t limit = fair_limit(m, cfg, traits);
    if (traits->kind == TASK_LONGBENCH && p->n_ids > limit) {
        TRY(check_room(m, cfg, tok, traits, tpl, ex));
        TRY(cut_ids(tok, p, limit));
    }
    add_fair_stops(p, tok, tpl);
    if (traits->newline_stops) {
        TRY(newline_id(tok, &p->newline));
        p->min_one = true;
    }
    return 0;
}

static int paper_stops(const struct tok *tok, const struct task_traits *traits,
                       const struct chat_template *tpl, struct style st, struct prompt *p)
{
    if (st.own_loop) {
        add_stop(p, tok_eos(tok));
        if (!strcmp(tpl->name, "llama3"))
            add_stop(p, tok_id(tok, "<|eot_id|>"));
        p->keep_special = true;
    } else if (traits->kind == TASK_PASSKEY) {
        add_stop_ids(p, tok);
    } else {
        add_stop(p, tok_eos(tok));
    }
    if (traits->newline_stops) {
        TRY(newline_id(tok, &p->newline));
        p->min_one = p->keep_newline = !st.own_loop;
        p->cut_at_newline = st.own_loop;
    }
    return 0;
}

static int paper_prompt(const char *method, const struct run_model *m, const struct tok *tok,
                        const struct task_traits *traits, const struct chat_template *tpl, struct prompt *p)
{
    struct style st = style_of(method);
    bool templated =
        (traits->kind == TASK_PASSKEY ? st.own_loop : traits->chat) && strcmp(tpl->name, "none") != 0;
    if (tok && traits->kind == TASK_LONGBENCH && st.cuts && m->max_len > 0)
        TRY(cut_text(tok, p, m->max_len));
    if (templated)
        replace(&p->text, tok_template_apply(tpl, p->text));
    if (!tok)
        return 0;
    /* The Mistral template carries its BOS; only these two pipelines then tokenise without another. */
    bool special = !(st.own_loop && templated && !strcmp(tpl->name, "mistral_instruct"));
    TRY(encode(tok, p, special));
    if (!p->truncated)
        p->n_uncut = p->n_ids;
    return m->never_stops ? 0 : paper_stops(tok, traits, tpl, st, p);
}

/* Tokens of the same prompt without its prompt method. */
static int count_plain(enum run_mode mode, const char *method, const struct run_model *m,
                       const struct model_config *cfg, const struct tok *tok,
                       const struct task_traits *traits, const struct example *ex, int64_t *n)
{
    struct prompt plain;
    TRY(policy_prompt(mode, method, NULL, m, cfg, tok, traits, ex, &plain));
    *n = plain.n_uncut;
    prompt_free(&plain);
    return 0;
}

int policy_prompt(enum run_mode mode, const char *method, const struct rewriter *rw,
                  const struct run_model *m, const struct model_config *cfg, const struct tok *tok,
                  const struct task_traits *traits, const struct example *ex, struct prompt *p)
{
    *p = (struct prompt){.newline = -1};
    const char *name = m && m->template ? m->template : "none";
    const struct chat_template *tpl = tok_template(name);
    if (!tpl)
        return err_set(ERR_INPUT, "model %s: unknown template '%s'", m->id, name);
    int rc = example_text(mode, rw, ex, &p->text);
    if (rc == 0)
        rc = mode == MODE_FAIR ? fair_prompt(m, cfg, tok, traits, tpl, ex, p)
                               : paper_prompt(method, m, tok, traits, tpl, p);
    if (rc == 0 && tok && rw && rw->method)
        rc = count_plain(mode, method, m, cfg, tok, traits, ex, &p->n_plain);
    if (rc == 0 && tok && p->n_ids == 0)
        rc = err_set(ERR_INPUT, "example %s gives an empty prompt", ex->id);
    if (rc < 0) {
        prompt_free(p);
        return rc;
    }
    p->hash = p->ids ? XXH3_64bits(p->ids, (size_t)p->n_ids * sizeof *p->ids) : 0;
    return 0;
}

void prompt_free(struct prompt *p)
{
    free(p->text);
    free(p->ids);
    *p = (struct prompt){.newline = -1};
}

/* Inside of LLMLingua-2 (PyPI llmlingua 0.2.2, prompt_compressor.py and utils.py; arXiv 2403.12968). */
#ifndef KVS_PROMPT_LLMLINGUA2_H
#define KVS_PROMPT_LLMLINGUA2_H

#include "base/str.h"
#include "tok/tok.h"

#include <stdbool.h>

/* ---- llmlingua2_words.c: from pieces and probabilities to kept words ---- */

enum { LL2_MARKS = 100 };

/* Forced tokens. One that the tokenizer does not give as a single piece is replaced by a special token of the
 * encoder's ("[NEWi]", i its place in the list) before anything else happens. */
struct ll2_force {
    char **text; /* [n] owned */
    char **mark; /* [n] "[NEWi]", or NULL where it is one piece; owned */
    int n;
};
/* ERR_INPUT when a mark is needed that the tokenizer does not have. */
int ll2_force_open(struct ll2_force *f, const struct tok *t, const char *const *text, int n);
void ll2_force_close(struct ll2_force *f);
/* Text with the forced tokens replaced by their marks (or back), one after the other; owned. */
char *ll2_mark(const struct ll2_force *f, const char *text);
char *ll2_unmark(const struct ll2_force *f, const char *text);
/* Does a piece end a chunk: ".", a newline, or the marks of these. */
bool ll2_ends_chunk(const struct ll2_force *f, const char *piece);

/* One chunk as the encoder saw it: the pieces of its ids (special ones at both ends included) and P(keep) of
 * each. */
struct ll2_chunk {
    const int32_t *ids; /* [n] */
    const float *keep;  /* [n] */
    int64_t n;
};
struct ll2_task {
    const struct tok *tok;   /* the encoder's */
    const struct tok *ranks; /* counts tokens of words; NULL: pieces are counted */
    const struct ll2_force *force;
    double reduce; /* 1 - 1/rate */
    bool digits;   /* pieces with a digit are kept */
    bool drop;     /* a forced token is dropped when nothing is kept between it and the same one before */
};
/* Appends the kept words of a chunk to `out`; `labels` (may be NULL) gets '1' or '0' for every word. */
int ll2_compress(const struct ll2_task *task, const struct ll2_chunk *chunk, struct str *out,
                 struct str *labels);
/* Adds P(keep) of the first piece of every word of a chunk, forced or not, to *sum in float32, one after the
 * other, and the number of words to *n. */
void ll2_add_words(const struct ll2_task *task, const struct ll2_chunk *chunk, float *sum, int64_t *n);

/* np.percentile (NumPy 2, linear) of n > 0 values, which are sorted in place; `single`: an array of float32.
 */
double ll2_percentile(double *v, int64_t n, int pct, bool single);

/* ---- llmlingua2_contexts.c: which of several contexts stay ---- */

/* The package's options under their own names and with their own meaning: begin with ll2_defaults. A negative
 * target: none. Tokens are those of the ranks, or without ranks the encoder's pieces. */
struct ll2_options {
    double rate;                   /* share of the tokens that is kept: above 0, at most 1 */
    int64_t target_token;          /* tokens to keep, instead of the rate */
    bool use_context_level_filter; /* of several contexts, those with the likelier words are kept */
    bool use_token_level_filter;   /* of a kept context, the likelier words are kept; without, all of it */
    /* For the first filter, each overriding those before; none given: half way from the rate to 1, or twice
     * target_token (without the second filter the rate, or target_token). */
    double context_level_rate; /* 0 to 1 */
    int64_t target_context;    /* contexts to keep */
    int64_t context_level_target_token;
    const int *force_context_ids; /* [n_force_context] kept whatever their words */
    int n_force_context;
    const char *const *force_tokens; /* [n_force] */
    int n_force;
    bool drop_consecutive, force_reserve_digit;
};
extern const struct ll2_options ll2_defaults;
/* ERR_INPUT names the option that `n` contexts cannot be compressed with. */
int ll2_check(const struct ll2_options *o, int n);
/* target/n, at most 1. */
double ll2_share(double target, double n);
/* score: [n > 0] mean P(keep) of the first pieces of a context's words; n_tokens: of all contexts. */
void ll2_choose(const struct ll2_options *o, const float *score, int n, int64_t n_tokens, bool *kept);

/* ---- llmlingua2.c ---- */

struct prompt_compressor;
/* context: [n]. *result is what is left of the kept ones, a blank line between them, owned. `labels` as in
 * ll2_compress, over all contexts, those left out too; nothing where no word is judged (rate 1, or no filter
 * for tokens). */
int ll2_run(struct prompt_compressor *c, const struct ll2_options *o, const char *const *context, int n,
            char **result, struct str *labels);

#endif

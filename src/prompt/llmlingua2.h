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

/* The package's options under their own names (rate: 1 over its own). */
struct ll2_options {
    double rate;
    const char *const *force_tokens;
    int n_force;
    bool drop_consecutive, force_reserve_digit;
};
struct prompt_compressor;
/* `labels` as in ll2_compress, over all chunks. *result is owned. */
int ll2_run(struct prompt_compressor *c, const struct ll2_options *o, const char *text, char **result,
            struct str *labels);

/* np.percentile (NumPy 2, linear) of n > 0 values, which are sorted in place; `single`: an array of float32.
 */
double ll2_percentile(double *v, int64_t n, int pct, bool single);

#endif
